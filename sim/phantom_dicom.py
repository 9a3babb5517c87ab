"""The phantom's scans as a hospital's archive would hold them: DICOM, in the shapes of several vendors.

    siemens   one slice a file, explicit VR
    ge        one slice a file, implicit VR, the slices' files in reverse order and without extension
    philips   one slice a file, run-length encoded, values with a slope and an intercept
    canon     all slices in one file (Enhanced MR), places in functional groups

The truth is known: read back, the values, the affine and the modality must be what was written.
Names, dates and numbers of patients are made up, and are there so that their removal can be tested.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.nifti1 import load
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.valuerep import format_number_as_ds

from imaging.volume import LPS_TO_RAS, Affine, Volume
from sim.phantom import MODALITIES

VENDORS = ("siemens", "ge", "philips", "canon")
"""Of the first, second, ... hospital; after the last it starts again."""

PHILIPS_SLOPE, PHILIPS_INTERCEPT = 0.5, -100.0


@dataclass(frozen=True)
class Protocol:
    """How a modality is acquired, as its header says."""

    scanning: tuple[str, ...]
    tr_ms: float
    te_ms: float
    ti_ms: float | None = None
    contrast: str = ""


PROTOCOLS: Mapping[str, Protocol] = {
    "flair": Protocol(("SE", "IR"), 9000, 110, 2500),
    "t1": Protocol(("SE",), 600, 12),
    "t1c": Protocol(("SE",), 600, 12, contrast="phantom gadolinium"),
    "t2": Protocol(("SE",), 5000, 100),
}


def write_archive(truth: Path, target: Path) -> None:
    """Write every scan of a phantom federation (`sim.phantom.write_phantom`) as DICOM.

    `target/<site>/<number>/<files>`: a folder per series, which says nothing of what it holds.
    """
    for place, site in enumerate(sorted(path for path in truth.iterdir() if path.is_dir())):
        vendor = VENDORS[place % len(VENDORS)]
        for patient in sorted(path for path in site.iterdir() if path.is_dir()):
            _write_patient(patient, target / site.name, vendor)


def write_series(folder: Path, volume: Volume, modality: str, vendor: str, patient: str) -> None:
    """Write one scan as `vendor` would; every identifier follows from `patient`.

    Raises `ValueError` for values that are no whole numbers of 15 bits: they would not come back exactly.
    """
    folder.mkdir(parents=True, exist_ok=True)
    header = header_of(modality, vendor, patient)
    for path, dataset in _SHAPES[vendor](header, volume):
        dataset.save_as(folder / path, enforce_file_format=True)


def _write_patient(source: Path, target: Path, vendor: str) -> None:
    patient = f"{source.parent.name}-{source.name}"
    for number, modality in enumerate(MODALITIES, 1):
        path = source / f"{modality}.nii.gz"
        if path.exists():
            image = load(path)
            volume = Volume(np.asarray(image.dataobj, np.float32), np.asarray(image.affine))
            write_series(target / source.name / f"{number:03}", volume, modality, vendor, patient)


# -- Headers ---------------------------------------------------------------------------------


def uid_of(*entropy: str) -> uid.UID:
    """Return the UID that follows from some words."""
    return uid.generate_uid(entropy_srcs=list(entropy))


def header_of(modality: str, vendor: str, patient: str) -> Dataset:
    """Return what all files of a series have in common (PS3.3 C.7, C.8.3)."""
    header, protocol = Dataset(), PROTOCOLS[modality]
    header.SpecificCharacterSet = "ISO_IR 192"
    header.SOPClassUID = uid.MRImageStorage
    header.Modality = "MR"
    header.Manufacturer = vendor
    header.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    header.PatientName, header.PatientID = f"PHANTOM^{patient}", patient
    header.PatientBirthDate, header.PatientSex = "19500101", "O"
    header.StudyInstanceUID = uid_of(patient)
    header.SeriesInstanceUID = uid_of(patient, modality)
    header.FrameOfReferenceUID = uid_of(patient, "frame")
    header.StudyDate, header.StudyTime, header.StudyID = "20200101", "120000", "1"
    header.AccessionNumber, header.ReferringPhysicianName = "A1", ""
    header.SeriesNumber, header.PositionReferenceIndicator = MODALITIES.index(modality) + 1, ""
    header.BodyPartExamined, header.PatientPosition = "HEAD", "HFS"
    header.ScanningSequence, header.SequenceVariant, header.ScanOptions = list(protocol.scanning), "SK", ""
    header.MRAcquisitionType = "2D"
    header.RepetitionTime, header.EchoTime, header.EchoTrainLength = protocol.tr_ms, protocol.te_ms, 8
    if protocol.ti_ms is not None:
        header.InversionTime = protocol.ti_ms
    if protocol.contrast:
        header.ContrastBolusAgent = protocol.contrast
    return header


def _image(values: NDArray[np.float32], *, signed: bool = True) -> Dataset:
    """Return the image pixel module (PS3.3 C.7.6.3) of `(rows, columns)` or `(frames, rows, columns)`."""
    stored = np.rint(values).astype("<i2" if signed else "<u2")
    if not np.array_equal(stored, values):
        raise ValueError("only whole numbers of 15 bits can be stored exactly")
    image = Dataset()
    image.Rows, image.Columns = stored.shape[-2:]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    image.PixelRepresentation = int(signed)
    image.PixelData = stored.tobytes()
    return image


def decimals(values: Iterable[float]) -> list[str]:
    """Return numbers as DICOM writes them."""
    return [format_number_as_ds(float(value)) for value in values]


def place_of(affine: Affine, z: int) -> tuple[list[str], list[str], list[str], str]:
    """Return position, orientation, pixel spacing and step of slice `z`, in DICOM's LPS."""
    lps = LPS_TO_RAS @ affine
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    axes = (lps[:3, :2] / lengths[:2]).T
    position = lps[:3, 3] + z * lps[:3, 2]
    step = float(np.cross(*axes) @ lps[:3, 2])
    spacing = decimals((lengths[1], lengths[0]))
    return decimals(position), decimals(axes.ravel()), spacing, format_number_as_ds(abs(step))


def file_of(header: Dataset, image: Dataset, syntax: uid.UID, number: int) -> Dataset:
    """Return a data set that can be saved: the two parts, an instance's own numbers, meta information."""
    dataset = Dataset()
    dataset.update(header)
    dataset.update(image)
    dataset.InstanceNumber = number
    dataset.SOPInstanceUID = uid_of(header.SeriesInstanceUID, str(number))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


# -- Shapes ----------------------------------------------------------------------------------

Files = Iterable[tuple[str, Dataset]]


def _slice(header: Dataset, volume: Volume, z: int, number: int, syntax: uid.UID) -> Dataset:
    """Return the file of one slice."""
    image = _image(volume.values[:, :, z].T)
    image.ImagePositionPatient, image.ImageOrientationPatient, image.PixelSpacing, step = place_of(
        volume.affine, z
    )
    image.SliceThickness = image.SpacingBetweenSlices = step
    return file_of(header, image, syntax, number)


def _siemens(header: Dataset, volume: Volume) -> Files:
    for z in range(volume.values.shape[2]):
        yield f"{z + 1:04}.dcm", _slice(header, volume, z, z + 1, uid.ExplicitVRLittleEndian)


def _ge(header: Dataset, volume: Volume) -> Files:
    slices = volume.values.shape[2]
    for number in range(1, slices + 1):
        yield f"i{number}", _slice(header, volume, slices - number, number, uid.ImplicitVRLittleEndian)


def _philips(header: Dataset, volume: Volume) -> Files:
    header.RescaleSlope, header.RescaleIntercept, header.RescaleType = PHILIPS_SLOPE, PHILIPS_INTERCEPT, "US"
    stored = (volume.values - np.float32(PHILIPS_INTERCEPT)) / np.float32(PHILIPS_SLOPE)
    for z in range(stored.shape[2]):
        dataset = _slice(header, Volume(stored, volume.affine), z, z + 1, uid.ExplicitVRLittleEndian)
        dataset.compress(uid.RLELossless, generate_instance_uid=False)
        yield f"IM_{z + 1:04}", dataset


def _canon(header: Dataset, volume: Volume) -> Files:
    """One file; what all frames share stands once, each frame's position with the frame (PS3.3 A.36)."""
    header.SOPClassUID = uid.EnhancedMRImageStorage
    image = _image(volume.values.transpose(2, 1, 0))
    image.NumberOfFrames = volume.values.shape[2]
    _, orientation, spacing, step = place_of(volume.affine, 0)
    plane, measures, echo, shared = Dataset(), Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = orientation
    measures.PixelSpacing, measures.SliceThickness, measures.SpacingBetweenSlices = spacing, step, step
    echo.EffectiveEchoTime = float(header.EchoTime)
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([plane]), Sequence([measures])
    shared.MREchoSequence = Sequence([echo])
    image.SharedFunctionalGroupsSequence = Sequence([shared])
    image.PerFrameFunctionalGroupsSequence = Sequence(
        [_frame(volume.affine, z) for z in range(volume.values.shape[2])]
    )
    yield "1.dcm", file_of(header, image, uid.ExplicitVRLittleEndian, 1)


def _frame(affine: Affine, z: int) -> Dataset:
    position, content, groups = Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = place_of(affine, z)[0]
    content.StackID, content.InStackPositionNumber = "1", z + 1
    groups.PlanePositionSequence, groups.FrameContentSequence = Sequence([position]), Sequence([content])
    return groups


_SHAPES: Mapping[str, Callable[[Dataset, Volume], Files]] = {
    "siemens": _siemens,
    "ge": _ge,
    "philips": _philips,
    "canon": _canon,
}
