"""Small data folders in the layouts that the readers know, and what a message must never say."""

import csv
import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray
from PIL import Image

from protocol.errors import DataError
from protocol.recipe import Head, Modality, Part, Recipe

SECRET = "K7NAME"
"""Part of every patient's name in these folders."""

REAL = Path(os.environ.get("CONSILIUM_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def real(folder: str) -> Path:
    """Real data, or skip."""
    if not (REAL / folder).is_dir():
        pytest.skip(f"no real data: {REAL / folder} is absent; set CONSILIUM_DATA to their folder")
    return REAL / folder


def recipe(data: str, modalities: Iterable[str], heads: Mapping[str, Head], **options: Any) -> Recipe:
    """Images but for `clinical` and `table`, whose width may be given as `table=13`."""
    kinds = {
        name: Modality("table", features)
        for name, features in ((name, options.pop(name, 0)) for name in ("clinical", "table"))
        if features
    }
    images = {name: kinds.get(name, Modality()) for name in modalities}
    return Recipe("test", images, dict(heads), Part(data, options), Part("none"))


def refusal(read: Callable[[], object]) -> str:
    """The message of the DataError that `read` raises; neither it nor its traceback names a patient."""
    with pytest.raises(DataError) as caught:
        read()
    assert SECRET not in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def patient(site: str, number: int) -> str:
    """A name as TCGA gives them."""
    return f"TCGA_{site}_{SECRET}{number}_20000101"


def pixels(seed: int, slices: int = 4, side: int = 32) -> NDArray[np.uint8]:
    """A head in three sequences, `(slices, side, side, 3)`, no channel equal to another."""
    rng = np.random.default_rng(seed)
    grid = np.hypot(*np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side)))
    signal = rng.integers(60, 200, (slices, side, side, 3)) * (grid < 0.8)[..., None]
    return signal.astype(np.uint8)


def write_slices(root: Path, name: str, images: NDArray[np.uint8]) -> None:
    """One patient of the glioma set; the mask is a square."""
    folder = root / name
    folder.mkdir(parents=True)
    side = images.shape[1]
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : side // 2, side // 4 : side // 2] = 255
    for number, image in enumerate(images, 8):
        Image.fromarray(image).save(folder / f"{name}_{number}.tif")
        Image.fromarray(mask).save(folder / f"{name}_{number}_mask.tif")


def write_sheet(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """A CSV with a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_nifti(path: Path, values: NDArray[Any], affine: NDArray[np.float64] | None = None) -> None:
    """One volume."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Nifti1Image(values, np.diag((2.0, 2.0, 5.0, 1.0)) if affine is None else affine).to_filename(path)
