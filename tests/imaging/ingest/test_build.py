"""Which scans of a patient are taken, and what is done to them."""

from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import load

from imaging.ingest.run import find
from imaging.ingest.scans import Scan, chosen
from imaging.quality import NAME
from imaging.volume import Volume
from protocol.errors import SettingsError
from sim.phantom_dicom import write_series
from tests.imaging.ingest.exports import (
    AFFINE,
    SHAPE,
    brought,
    changed,
    desk,
    patient,
    volume,
    write_mask,
    write_scan,
)


def scan(name: str, study: str, sure: float = 0.9, slices: int = 8, key: str = "") -> Scan:
    return Scan(name, study, (sure, slices, key), "", lambda: volume(1))


def names(scans: list[Scan]) -> tuple[dict[str, list[str]], list[str]]:
    aside = list[str]()
    found = chosen(scans, lambda _, word, *__: aside.append(word))
    return {name: [each.rank[2] for each in scans] for name, scans in found.items()}, sorted(aside)


def test_the_study_with_most_modalities_is_taken_and_what_names_none() -> None:
    """Its number of slices decides between equals; a label map from NIfTI belongs to whichever it is."""
    old = [scan("t1", "old", slices=200)]
    new = [scan("t1", "new", key="a"), scan("t2", "new", key="b")]

    assert names([*old, *new, scan("tumour", "", key="c")]) == (
        {"t1": ["a"], "t2": ["b"], "tumour": ["c"]},
        ["t1"],
    )
    assert names([scan("t1", "x", slices=9, key="long"), scan("t1", "y", key="short")])[0] == {"t1": ["long"]}


def test_of_a_modality_the_surest_then_the_longest_comes_first() -> None:
    scans = [scan("t1", "s", 0.8, 99, "c"), scan("t1", "s", 0.9, 8, "b"), scan("t1", "s", 0.9, 20, "a")]

    assert names(scans)[0] == names(scans[::-1])[0] == {"t1": ["a", "b", "c"]}


def test_a_volume_that_cannot_be_made_makes_room_for_the_next(tmp_path: Path) -> None:
    """The longer series lacks a slice."""
    longer = Volume(np.pad(volume(5).values, ((0, 0), (0, 0), (0, 3))), AFFINE)
    write_series(tmp_path / "pacs" / "long", longer, "t1", "ge", patient(1))
    (tmp_path / "pacs" / "long" / "i3").unlink()
    for path in (tmp_path / "pacs" / "long").iterdir():
        changed(path, SeriesInstanceUID="1.2.3", SOPInstanceUID=f"1.2.3.{path.name[1:]}")
    write_scan(tmp_path / "pacs", 1, "t1")
    at = desk(tmp_path / "home")

    manifest = brought([tmp_path / "pacs"], at)

    stand_in = at.patient(patient(1))
    assert np.array_equal(load(at.scans(stand_in) / "t1.nii").dataobj, volume(1).values)
    (aside,) = manifest["patients"][stand_in]["aside"]
    (digest,) = aside["which"]
    assert aside["what"] == "missing_slices"
    assert "/long/" in str(find([tmp_path / "pacs"], at, digest))
    assert digest in (at.folder / NAME).read_text(encoding="utf-8")


def test_all_scans_of_a_patient_lie_on_the_references_grid(tmp_path: Path) -> None:
    """T2 was scanned with other voxels in another place."""
    write_scan(tmp_path / "pacs", 1, "t1")
    finer = np.diag((1.0, 1.0, 2.5, 1.0))
    finer[:3, 3] = (3, 2, 1)
    write_series(
        tmp_path / "pacs" / "t2", Volume(np.full((20, 16, 7), 9, np.float32), finer), "t2", "ge", patient(1)
    )
    write_mask(tmp_path / "labels", 1)
    at = desk(tmp_path / "home", "{spacing_mm: [2.5, 2, 4], margin_mm: 1}")

    record = brought([tmp_path], at)["patients"][at.patient(patient(1))]["scans"]

    images = [load(at.scans(at.patient(patient(1))) / f"{name}.nii") for name in ("t1", "t2", "tumour")]
    assert {image.shape for image in images} == {tuple(record["volumes"]["t1"]["shape"])}
    assert all(np.abs(image.affine - images[0].affine).max() < 1e-6 for image in images)
    assert images[0].shape < SHAPE
    assert images[2].get_fdata().any()
    steps = {name: each["steps"] for name, each in record["volumes"].items()}
    assert steps == {
        "t1": ["reference", "resampled linearly"],
        "t2": ["resampled linearly"],
        "tumour": ["resampled to the nearest voxel"],
    }


def test_settings_that_change_build_everybody_anew(tmp_path: Path) -> None:
    write_scan(tmp_path / "pacs", 1, "t1")
    brought([tmp_path / "pacs"], desk(tmp_path / "home"))

    manifest = brought([tmp_path / "pacs"], desk(tmp_path / "home", "{register: true, modalities: [t2]}"))

    assert (manifest["version"], manifest["patients"]) == (2, {})
    assert not [*(tmp_path / "home" / "cohort").glob("*/t1.nii")]


@pytest.mark.parametrize(
    "text", ["{spacing: 1}", "{spacing_mm: [1, 1]}", "{names: {a: ../b}}", "{rules: missing.yaml}"]
)
def test_wrong_settings_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError):
        desk(tmp_path / "home", text)


def test_who_lacks_what_is_required_is_not_in_the_cohort(tmp_path: Path) -> None:
    """And comes in with the file that was lacking."""
    write_scan(tmp_path / "pacs", 1, "t1")
    write_mask(tmp_path / "pacs", 1)
    write_scan(tmp_path / "pacs", 2, "t1")
    at = desk(tmp_path / "home", "require: [t1, tumour]")

    manifest = brought([tmp_path / "pacs"], at)

    assert [*manifest["patients"]] == [at.patient(patient(1))]
    assert not at.scans(at.patient(patient(2))).exists()
    assert "without tumour" in (at.folder / "quality.html").read_text(encoding="utf-8")
    write_mask(tmp_path / "pacs", 2)
    assert len(brought([tmp_path / "pacs"], at)["patients"]) == 2


def test_a_series_of_too_few_slices_is_put_aside(tmp_path: Path) -> None:
    write_scan(tmp_path / "pacs", 1, "t1")

    for least, patients in ((SHAPE[2], 1), (SHAPE[2] + 1, 0)):
        at = desk(tmp_path / "home", f"least_slices: {least}")
        assert len(brought([tmp_path / "pacs"], at)["patients"]) == patients
