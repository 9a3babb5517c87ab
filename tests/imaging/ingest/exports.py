"""What a small hospital's archive exports, and what must never be seen of it again."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from pydicom import dcmread

from imaging.ingest.desk import Desk
from imaging.ingest.manifest import Manifest
from imaging.ingest.run import ingest
from imaging.volume import Volume
from sim.phantom_dicom import write_series

NAME = "QUIXOTE"
"""In every name, number, folder and file of these patients."""
SHAPE = (12, 10, 4)
AFFINE = np.diag((2.0, 2.0, 5.0, 1.0))


def patient(number: int) -> str:
    """A hospital's number."""
    return f"{NAME}-{number}"


def volume(seed: int) -> Volume:
    """A bright block in dark noise, in whole numbers."""
    values = np.random.default_rng(seed).integers(0, 20, SHAPE).astype(np.float32)
    values[3:9, 2:8, 1:3] += 500
    return Volume(values, AFFINE)


def write_scan(root: Path, number: int, modality: str, seed: int = 0) -> Path:
    """One series in one file, in a folder that names its patient."""
    folder = root / f"{NAME}_{number}" / modality
    write_series(folder, volume(seed or number), modality, "canon", patient(number))
    return folder / "1.dcm"


def write_mask(root: Path, number: int, name: str = "tumour", **header: Any) -> Path:
    """A label map in a folder of the patient's number."""
    path = root / patient(number) / f"{name}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(SHAPE, np.uint8)
    values[4:7, 3:6, 1:3] = 1
    image = Nifti1Image(values, AFFINE)
    for key, value in header.items():
        image.header[key] = value
    image.to_filename(path)
    return path


def draw(path: Path, pixels: NDArray[Any]) -> Path:
    """A picture with a name in its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = PngImagePlugin.PngInfo()
    words.add_text("Comment", NAME)
    Image.fromarray(pixels).save(path, pnginfo=words)
    return path


def write_export(root: Path, patients: int = 4) -> Path:
    """T1 and T2 of each but the last, who has T1 alone; label maps, and a table."""
    for number in range(1, patients + 1):
        write_scan(root / "pacs", number, "t1")
        if number < patients:
            write_scan(root / "pacs", number, "t2", seed=100 + number)
        write_mask(root / "labels", number)
    lines = ["patient,grade", *(f"{patient(n)},{n % 2}" for n in range(1, patients + 1))]
    (root / "labels" / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    return root


def changed(path: Path, **values: Any) -> Path:
    """Write a DICOM file again with other values."""
    dataset = dcmread(path)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    return path


def zipped(target: Path, folder: Path) -> Path:
    """All of a folder as one zip file."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder.parent))
    return target


def desk(home: Path, settings: str = "crop: false") -> Desk:
    """A cohort's desk in a home."""
    home.mkdir(exist_ok=True)
    (home / "ingest.yaml").write_text(settings, encoding="utf-8")
    return Desk.at(str(home / "cohort"), str(home / "key"), str(home / "ingest.yaml"))


def brought(sources: list[Path], at: Desk, **options: Any) -> Manifest:
    """Ingest without watching."""
    return ingest(sources, at, watch=lambda *_: None, **options)


def product(folder: Path) -> dict[str, bytes]:
    """Every file of a cohort but its journal, whose pages SQLite arranges as it likes."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".sqlite")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}
