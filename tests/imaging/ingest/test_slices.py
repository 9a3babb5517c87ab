"""Pictures that become a scan, and those that must not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nibabel.nifti1 import load

from imaging.ingest.desk import Desk
from imaging.ingest.journal import opened_journal
from tests.imaging.ingest.exports import NAME, brought, desk, draw, product

SETTINGS = "{crop: false, slices_mm: [0.5, 0.75, 5]}"
DEPTH, HEIGHT, WIDTH = 3, 6, 8


def whys(at: Desk) -> set[str]:
    with opened_journal(at.folder) as journal:
        return {row.verdict for row in journal.files()}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A bright pixel at the patient's front and right of the lowest slice, with a mask around it."""
    for z in range(DEPTH):
        image = np.full((HEIGHT, WIDTH), 10 + z, np.uint16)
        image[0, 0] = 999 if z == 0 else 0
        draw(tmp_path / NAME / "t1" / f"{NAME}_{9 + z}.png", image)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[0, 0] = 255
        draw(tmp_path / NAME / "seg" / f"s{9 + z}.png", mask)
    return tmp_path / NAME


def test_slices_lie_where_they_were_and_bring_pixels_alone(pictures: Path, tmp_path: Path) -> None:
    at = desk(tmp_path / "home", SETTINGS)

    brought([pictures], at)

    scan, mask = (load(at.scans(at.patient(NAME)) / f"{name}.nii") for name in ("t1", "tumour"))
    values = np.asarray(scan.dataobj)
    assert values.shape == (WIDTH, HEIGHT, DEPTH)
    assert values[-1, -1].tolist() == [999, 0, 0]
    assert (scan.affine @ (WIDTH - 1, HEIGHT - 1, 0, 1))[:3].tolist() == [0, 0, 0]
    left, back, up = -(WIDTH - 1) * 0.5, -(HEIGHT - 1) * 0.75, 5
    assert (scan.affine @ (0, 0, 1, 1))[:3].tolist() == [left, back, up]
    assert np.unique(np.asarray(mask.dataobj)).tolist() == [0, 1]
    assert np.asarray(mask.dataobj)[-1, -1].all()
    assert not [name for name, data in product(at.folder).items() if NAME.encode() in data + name.encode()]


def test_without_a_size_nothing_is_guessed(pictures: Path, tmp_path: Path) -> None:
    at = desk(tmp_path / "home", "{}")

    assert not brought([pictures], at)["patients"]
    assert whys(at) == {"not_taken"}


@pytest.mark.parametrize(
    ("name", "pixels", "word"),
    [
        ("t1/12.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8), "colour"),
        ("t1/last.png", np.zeros((HEIGHT, WIDTH), np.uint8), "no_geometry"),
        ("somebody/12.png", np.zeros((HEIGHT, WIDTH), np.uint8), "no_modality"),
    ],
)
def test_another_picture_is_left_out(
    pictures: Path, tmp_path: Path, name: str, pixels: Any, word: str
) -> None:
    draw(pictures / name, pixels)
    at = desk(tmp_path / "home", SETTINGS)

    assert len(brought([pictures], at)["patients"]) == 1
    assert whys(at) == {"admitted", word}


@pytest.mark.parametrize(
    ("name", "shape", "word"),
    [
        ("14.png", (HEIGHT, WIDTH), "missing_slices"),
        ("x9.png", (HEIGHT, WIDTH), "repeated_slices"),
        ("12.png", (WIDTH, HEIGHT), "uneven_slices"),
    ],
)
def test_slices_that_make_no_volume_are_put_aside(
    pictures: Path, tmp_path: Path, name: str, shape: tuple[int, int], word: str
) -> None:
    draw(pictures / "t1" / name, np.zeros(shape, np.uint16))
    at = desk(tmp_path / "home", SETTINGS)

    assert not brought([pictures], at)["patients"]
    assert word in (at.folder / "quality.html").read_text(encoding="utf-8")
