"""One file: may it be in the cohort, whose is it, and a de-identified copy of it.

    DICOM         read within bounds, de-identified, judged: a copy that holds nothing else; what outlines
                  something (SEG, RTSTRUCT) too
    NIfTI         values and affine alone; the patient is the folder that it lies in (BIDS: `sub-...`, with
                  a study for each `ses-...`; BraTS: with a study for each time point), the modality the
                  last word of its name
    slices        pixels alone, see `imaging.ingest.slices`

What is not admitted has one word as verdict and a sentence that names no patient. Whatever a file does to
a parser is that file's failure alone; a disk that is full is nobody's, and ends the run.
"""

import re
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from nibabel import nifti1
from pydicom.dataset import Dataset

from imaging.annotations import is_annotation
from imaging.deidentify import deidentify
from imaging.dicom import failures, quiet, read_whole, text
from imaging.ingest import slices
from imaging.ingest.desk import Desk
from imaging.ingest.journal import ADMITTED, CRASHED, MAY_IDENTIFY, NO_MODALITY, NOT_TAKEN, FileRow
from imaging.ingest.outlines import SUFFIX
from imaging.ingest.scans import MOST_VOXELS
from imaging.ingest.settings import Method
from imaging.ingest.walk import Entry, opened
from imaging.reasons import Reason
from protocol import files
from protocol.errors import DicomError

NIFTI = (".nii", ".nii.gz")


def admit(desk: Desk, file: Entry) -> FileRow:
    """Admit a file or quarantine it; `file` may be the plain list that JSON makes of an entry."""
    entry = Entry(*file)
    try:
        with opened(entry, desk.work) as path:
            return row(desk, entry, *_reader(entry)(desk, entry, path))
    except DicomError as error:
        return row(desk, entry, error.reason, str(error).partition(": ")[2])


def crashed(desk: Desk, file: Entry) -> FileRow:
    """Return what is told of a file that killed the process that read it."""
    return row(desk, Entry(*file), CRASHED, "reading it killed the process that read it")


def row(desk: Desk, entry: Entry, *told: str) -> FileRow:
    """Return what became of a file."""
    return FileRow(desk.digest(entry), entry.size, entry.stamp, *told)


def _reader(entry: Entry) -> Callable[[Desk, Entry, Path], tuple[str, ...]]:
    """Tell by a file's name how it is read; DICOM files are called anything."""
    name = entry.parts[-1].lower()
    return _nifti if name.endswith(NIFTI) else _slice if name.endswith(slices.SUFFIXES) else _dicom


# -- DICOM -----------------------------------------------------------------------------------


def _dicom(desk: Desk, entry: Entry, path: Path) -> tuple[str, ...]:
    """Return verdict, why, patient, instance and flags; what is admitted has a copy then."""
    dataset = read_whole(path)
    with failures(Reason.UNREADABLE):
        clean, verdict = deidentify(dataset, desk.pseudonyms, desk.blackenings)
        patient, instance = text(clean, "PatientID"), text(clean, "SOPInstanceUID")
        copy = b"" if verdict.quarantine else _written(clean)
    if verdict.quarantine:
        return MAY_IDENTIFY, verdict.quarantine[0], "", instance, ""
    suffix = SUFFIX if is_annotation(clean) else ".dcm"
    files.write(desk.clean(patient) / f"{desk.digest(entry)}{suffix}", copy)
    return ADMITTED, "", patient, instance, "; ".join(verdict.flags)


def _written(clean: Dataset) -> bytes:
    buffer = BytesIO()
    with quiet():
        clean.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


# -- NIfTI -----------------------------------------------------------------------------------


def _nifti(desk: Desk, entry: Entry, path: Path) -> tuple[str, ...]:
    """Return verdict, why, patient and instance; what is admitted has a copy then."""
    name, (number, visit) = nifti_name(desk.method, entry.parts[-1]), whose(entry.parts[:-1])
    patient = desk.patient(number)
    with failures(Reason.UNREADABLE):
        image = nifti1.load(path)
        if len(image.shape) != 3 or np.prod(image.shape, dtype=float) > MOST_VOXELS:  # noqa: PLR2004
            raise DicomError(Reason.TOO_LARGE, "it is not one volume, or larger than any that is taken")
        values = np.asarray(image.dataobj, np.float32)
        if not np.isfinite(values).all():
            raise DicomError(Reason.BAD_PIXELS, "it holds NaN or infinite values; repair it")
        copy = nifti1.Nifti1Image(values, image.affine).to_bytes()
    digest = desk.digest(entry)
    files.write(desk.clean(patient) / f"{digest}.{name}.{desk.study(number, visit)}.nii", copy)
    return ADMITTED, "", patient, digest


def nifti_name(method: Method, file: str) -> str:
    """Return which modality or label map a file's name says; another word may be a person's."""
    stem = file.partition(".")[0].lower()
    word = re.split("[_-]", stem)[-1]
    name = method.settings.names.get(word, word)
    if name == "t1" and re.search("(^|_)ce-", stem):  # BIDS: with a contrast agent
        name = "t1c"
    if name not in method.names and name not in method.settings.masks:
        raise DicomError(
            NO_MODALITY, "its name ends in no modality and no label map: see names in ingest.yaml"
        )
    return name


def whose(folders: Sequence[str]) -> tuple[str, str]:
    """Return the patient's number and the visit's that folders name, outermost first; no visit: empty."""
    folder = next((part[4:] for part in reversed(folders) if part.startswith("sub-")), folders[-1])
    visit = next((part[4:] for part in reversed(folders) if part.startswith("ses-")), "")
    brats = re.fullmatch(r"(BraTS-\w+-\d+)-(\d+)", folder)
    return (brats[1], brats[2]) if brats else (folder, visit)


# -- Slices ----------------------------------------------------------------------------------


def _slice(desk: Desk, entry: Entry, path: Path) -> tuple[str, ...]:
    """Return verdict, why, patient and instance; what is admitted has a copy then."""
    if desk.method.settings.slices_mm is None:
        return NOT_TAKEN, "a picture, and ingest.yaml has no `slices_mm`: see imaging/ingest/slices.py"
    *folders, modality, file = entry.parts
    name, (number, visit) = nifti_name(desk.method, modality), whose(folders)
    digest, place, patient = desk.digest(entry), slices.number_of(file), desk.patient(number)
    copy = slices.pixels_of(path)
    target = f"{digest}.{name}.{desk.study(number, visit)}.{place}.npy"
    files.write(desk.clean(patient) / target, copy)
    return ADMITTED, "", patient, digest
