"""What is read of two sets of difficult DICOM files, and whether it lies where others say it lies.

tricky   403 files of 18 transfer syntaxes, against what `expected.csv` says of each
zoo      196 MR and CT files of nine vendors, against `index.csv`; then every volume that we make of them
         against dcm2niix' and SimpleITK's of the same files: largest difference of the affine in mm, of
         the values relative to their range

Every difference is printed. The sets hold a few slices of each series, so most series have gaps
and are refused as volumes; their single slices are compared instead.
"""

import csv
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813 - its documentation's own name
from nibabel.spatialimages import SpatialImage

from imaging.dicom import read_header
from imaging.pixels import read_pixels
from imaging.series import Stack, collect, read_volume
from imaging.volume import LPS_TO_RAS
from protocol.errors import DicomError

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


def against_oracle(folder: Path, table: str) -> None:
    """Print expected x found, and every file of which we say something else."""
    counts: Counter[tuple[str, str]] = Counter()
    with (folder / table).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        read, pixels, shape = outcome(folder / row["file"])
        expected = {"none": "no_pixels", "nopix": "no_pixels"}.get(
            p := row.get("pixels", row.get("status", "")), p
        )
        counts[f"{row.get('read', 'ok')}, pixels {expected or '-'}", f"{read}, pixels {pixels}"] += 1
        frames = shape[1:] if shape[:1] == (1,) else shape
        surprising = (pixels == "ok") != (expected == "ok") or (read == "ok") != (
            row.get("read", "ok") != "fail"
        )
        if surprising or (row["shape"] and pixels == "ok" and str(frames) != row["shape"]):
            print(f"  {row['file']}: expected {expected or '-'} {row['shape']}, found {pixels} {frames}")
    print(f"{folder.name}: expected -> found")
    for (want, found), count in sorted(counts.items()):
        print(f"  {want:24} {found:36} {count:4}")


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
    """Return SimpleITK's volume of a stack of classic slices; it knows no mosaics."""
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


def volumes(folder: Path) -> None:
    """Print how our volumes of the zoo compare, one line for what is not the same."""
    folders = sorted({path.parent for path in folder.rglob("*") if path.is_file() and path.suffix != ".csv"})
    refused: Counter[str] = Counter()
    tally: Counter[tuple[str, str]] = Counter()
    for each in folders:
        paths = sorted(path for path in each.iterdir() if path.is_file())
        singles = [stack for path in paths for stack in collect([path], lambda *_: None)]
        for stack in singles + [
            s for s in collect(paths, lambda _, e: refused.update([e.reason])) if _several(s)
        ]:
            try:
                volume = read_volume(stack)
            except DicomError as error:
                refused[error.reason] += 1
                continue
            ours = nib.Nifti1Image(volume.values, volume.affine)
            files = dict.fromkeys(frame.path for frame in stack.frames)
            theirs = {"dcm2niix": niix(files), "SimpleITK": [image for image in [itk(stack)] if image]}
            for name, images in theirs.items():
                found = [d for image in images if (d := difference(ours, image))]
                best = min(found, default=None)
                same = best is not None and best[0] <= 1e-3 and best[1] <= 1e-3  # noqa: PLR2004 - the bar
                verdict = "same" if same else ("differs" if best else "no volume of this shape")
                tally[name, verdict] += 1
                if not same and (name == "dcm2niix" or best):
                    where = stack.frames[0].path.relative_to(folder)
                    print(f"  {name}: {where} {volume.values.shape}: {best or [i.shape for i in images]}")
    print(f"{folder.name}: volumes", dict(tally), "refused", dict(refused))


def _several(stack: Stack) -> bool:
    return len({frame.path for frame in stack.frames}) > 1


if __name__ == "__main__":
    against_oracle(DATA / "dicom_tricky", "expected.csv")
    against_oracle(DATA / "dicom_vendor_zoo", "index.csv")
    volumes(DATA / "dicom_vendor_zoo")
