"""What is read of two sets of difficult DICOM files, and whether it lies where others say it lies.

tricky   403 files of 18 transfer syntaxes, against what `expected.csv` says of each
zoo      196 MR and CT files of nine vendors, against `index.csv`; then every volume that we make of them
         against dcm2niix' and SimpleITK's of the same files: largest difference of the affine in mm, of
         the values relative to their range
ingest   both again, at a hospital's door: admitted, or quarantined and why; then what became of the series

Every difference is printed. The sets hold a few slices of each series, so most series have gaps
and are refused as volumes; their single slices are compared instead.
"""

import csv
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813 - its documentation's own name
from nibabel.spatialimages import SpatialImage

from imaging.dicom import read_header
from imaging.ingest.desk import Desk
from imaging.ingest.journal import opened_journal
from imaging.ingest.run import asides, ingest
from imaging.ingest.walk import walk
from imaging.pixels import read_pixels
from imaging.series import Stack, collect, read_volume
from imaging.volume import LPS_TO_RAS
from protocol.errors import DicomError

SAME = 1e-3
"""The bar: mm of the affine, and share of the range of values."""

DATA = Path(os.environ.get("CONSILIUM_DATA", Path(__file__).parents[2] / "shared" / "data"))


def outcome(path: Path) -> tuple[str, str, tuple[int, ...]]:
    """Return what became of header and pixels: "ok" or a reason, and the pixels' shape."""
    try:
        read_header(path)
    except DicomError as error:
        return error.reason, error.reason, ()
    try:
        return "ok", "ok", read_pixels(path).shape
    except DicomError as error:
        return "ok", error.reason, ()


Surprise = tuple[Path, str, str]
"""A file, what was expected of its pixels, what was found."""


def against_oracle(folder: Path, table: str) -> tuple[Counter[tuple[str, str]], list[Surprise]]:
    """Return how often what was expected of pixels became what, and the files of which it is not the same."""
    with (folder / table).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    counts: Counter[tuple[str, str]] = Counter()
    others: list[Surprise] = []
    for row in rows:
        expected = row.get("pixels", row.get("status", ""))
        read, pixels, shape = outcome(folder / row["file"])
        counts[f"{row.get('read', 'ok')}, pixels {expected or '-'}", f"{read}, pixels {pixels}"] += 1
        frames = str(shape[1:] if shape[:1] == (1,) else shape)
        if not _agrees(row, read, expected, pixels) or (pixels == "ok" and frames != row["shape"]):
            others.append((folder / row["file"], f"{expected} {row['shape']}", pixels))
    return counts, others


def _agrees(row: dict[str, str], read: str, expected: str, pixels: str) -> bool:
    """Tell whether header and pixels were read if they should be; why they were not is ours to say."""
    return (read == "ok") == (row.get("read", "ok") != "fail") and (pixels == "ok") == (expected == "ok")


def surprises(folder: Path, table: str) -> list[Surprise]:
    """Return the files of which we say something else than the table."""
    return against_oracle(folder, table)[1]


def show(folder: Path, table: str) -> None:
    """Print expected x found, and the surprises."""
    counts, others = against_oracle(folder, table)
    print(f"{folder.name}: expected -> found")
    for (want, found), count in sorted(counts.items()):
        print(f"  {want:24} {found:36} {count:4}")
    for path, want, found in others:
        print(f"  {path.relative_to(folder)}: expected {want}, found {found}")


def niix(paths: Iterable[Path]) -> list[SpatialImage]:
    """Return dcm2niix' volumes of some files."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as out:
        for number, path in enumerate(paths):
            (Path(folder) / f"{number}.dcm").symlink_to(path)
        command = [
            Path(sys.executable).with_name("dcm2niix"),
            "-z",
            "n",
            "-b",
            "n",
            "-p",
            "n",
            "-m",
            "n",
            "-o",
            out,
            folder,
        ]
        subprocess.run(command, check=False, capture_output=True)  # noqa: S603 - a fixed program on fixed data
        images = [nib.load(path) for path in sorted(Path(out).glob("*.nii"))]
        return [nib.Nifti1Image(np.asarray(image.dataobj, np.float32), image.affine) for image in images]


def itk(stack: Stack) -> SpatialImage | None:
    """Return SimpleITK's volume of classic slices; of mosaics and enhanced files it makes something else."""
    paths = [str(frame.path) for frame in stack.frames]
    if len(set(paths)) < len(paths):
        return None
    image = sitk.ReadImage(paths if len(paths) > 1 else paths[0])
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return nib.Nifti1Image(sitk.GetArrayFromImage(image).T.astype(np.float32), LPS_TO_RAS @ affine)


def difference(ours: SpatialImage, theirs: SpatialImage) -> tuple[float, float] | None:
    """Return (mm, relative value) by which two images differ, of many the best; None for other shapes."""
    one, other = nib.as_closest_canonical(ours), nib.as_closest_canonical(theirs)
    a, b = np.asarray(one.dataobj), np.asarray(other.dataobj)
    b = b[..., None] if b.ndim == 3 else b  # noqa: PLR2004 - x, y, z
    if a.shape != b.shape[:3]:
        return None
    affine = np.abs(one.affine - other.affine)
    columns = affine if a.shape[2] > 1 and ours.shape[2] > 1 else _without_depth(ours, one, other)
    spread = float(np.ptp(a)) or 1.0
    values = min(float(np.abs(a - b[..., t]).max()) for t in range(b.shape[3])) / spread
    return float(columns.max()), values


def _without_depth(ours: SpatialImage, one: SpatialImage, other: SpatialImage) -> np.ndarray:
    """Difference of the affines but for the axis of a single slice, whose thickness nobody measured."""
    depth = int(nib.io_orientation(ours.affine)[2, 0])
    return np.delete(np.abs(one.affine - other.affine), depth, axis=1)


def compared(stack: Stack) -> Iterator[tuple[str, tuple[float, float] | None]]:
    """Yield converter -> difference from ours; None where it makes no volume of that shape."""
    volume = read_volume(stack)
    ours = nib.Nifti1Image(volume.values, volume.affine)
    theirs = {"dcm2niix": niix(dict.fromkeys(frame.path for frame in stack.frames))}
    if (image := itk(stack)) is not None:
        theirs["SimpleITK"] = [image]
    for name, images in theirs.items():
        yield name, min((d for each in images if (d := difference(ours, each))), default=None)


def every_stack(folder: Path) -> Iterator[Stack]:
    """Yield every file's stacks, and those that several files of one folder make."""
    for each in sorted(
        {path.parent for path in folder.rglob("*") if path.is_file() and path.suffix != ".csv"}
    ):
        paths = sorted(path for path in each.iterdir() if path.is_file())
        for path in paths:
            yield from collect([path], lambda *_: None)
        several = collect(paths, lambda *_: None)
        yield from (stack for stack in several if len({frame.path for frame in stack.frames}) > 1)


def volumes(folder: Path) -> None:
    """Print how our volumes of the zoo compare, with a line for each that is not the same."""
    tally: Counter[str] = Counter()
    for stack in every_stack(folder):
        try:
            for name, found in compared(stack):
                same = found is not None and max(found) <= SAME
                tally[f"{name}: " + ("same" if same else "differs" if found else "has no such volume")] += 1
                if not same:
                    print(f"  {name}: {stack.frames[0].path.relative_to(folder)}: {found}")
        except DicomError as error:
            tally[f"refused: {error.reason}"] += 1
    print(f"{folder.name}: volumes")
    for verdict, count in sorted(tally.items()):
        print(f"  {verdict:40} {count:4}")


def ingested(folder: Path, table: str) -> None:
    """Print what was expected of pixels x what ingest said of the file, and what it put aside."""
    with (folder / table).open(encoding="utf-8") as file:
        expected = {row["file"]: row.get("pixels", row.get("status")) or "-" for row in csv.DictReader(file)}
    with tempfile.TemporaryDirectory() as home:
        desk = Desk.at(f"{home}/cohort", f"{home}/key")
        manifest = ingest([folder], desk, watch=lambda *_: None)
        with opened_journal(desk.folder) as journal:
            records, rows = journal.records(), {row.digest: row for row in journal.files()}
        told = {
            str(Path(entry.path).relative_to(folder)): rows[desk.digest(entry)] for entry in walk([folder])
        }
    said = {file: f"{row.verdict} {row.why}" for file, row in told.items()}
    counts = Counter((want, said.get(file, "passed over: a DICOMDIR")) for file, want in expected.items())
    taken = Counter(name for each in manifest["patients"].values() for name in each["scans"]["volumes"])
    print(f"{folder.name}: expected -> at the door")
    for (want, found), count in sorted(counts.items()):
        print(f"  {want:6} {found:90} {count:4}")
    print(f"{folder.name}: scans of {len(manifest['patients'])} patients: {dict(sorted(taken.items()))}")
    for (what, why), (count, patients, _) in sorted(asides(records).items()):
        print(f"  {what:16} {why:90} {count:4} of {patients}")


if __name__ == "__main__":
    show(DATA / "dicom_tricky", "expected.csv")
    show(DATA / "dicom_vendor_zoo", "index.csv")
    volumes(DATA / "dicom_vendor_zoo")
    ingested(DATA / "dicom_tricky", "expected.csv")
    ingested(DATA / "dicom_vendor_zoo", "index.csv")
