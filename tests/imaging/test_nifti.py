"""NIfTI folders: grids, absences, labels, and what is refused."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nibabel.nifti1 import load
from numpy.typing import NDArray

from imaging.sources import list_sites, nifti, read_cohort
from protocol.errors import DataError, RecipeError
from protocol.recipe import Head, Recipe
from tests.imaging.files import SECRET, recipe, refusal, write_nifti, write_sheet

TUMOUR = {"tumour": Head("segmentation")}
FLAT = recipe("nifti", ("flair", "t1"), TUMOUR, size=(12, 10))
DEEP = recipe("nifti", ("flair", "t1"), TUMOUR, size=(12, 10, 4))
SHAPE = (12, 10, 4)


def volume(seed: int, shape: tuple[int, ...] = SHAPE) -> NDArray[np.float32]:
    """Noise with one bright corner, so that no axis can be mistaken for another."""
    values = np.random.default_rng(seed).uniform(1, 2, shape).astype(np.float32)
    values[:3, :2, :1] = 9
    return values


def mask(shape: tuple[int, ...] = SHAPE) -> NDArray[np.uint8]:
    """The bright corner."""
    values = np.zeros(shape, np.uint8)
    values[:3, :2, :1] = 1
    return values


def write_site(root: Path, site: str = "north", patients: int = 4) -> Path:
    """All have both modalities and a label map, but the last, who has flair alone."""
    for number in range(patients):
        folder = root / site / f"{SECRET}{number}"
        write_nifti(folder / "flair.nii.gz", volume(number))
        write_nifti(folder / "tumour.nii.gz", mask())
        if number < patients - 1:
            write_nifti(folder / "t1.nii.gz", volume(100 + number))
    return root / site


# -- Cases -------------------------------------------------------------------------------------


def test_slices_and_volumes_are_the_same_pixels(tmp_path: Path) -> None:
    """Two numbers in `size`: each axial slice is a case; three: each patient."""
    write_site(tmp_path)

    flat, deep = read_cohort(tmp_path, FLAT, "north"), read_cohort(tmp_path, DEEP, "north")

    assert flat.cases.inputs["flair"].shape == (16, 1, 12, 10)
    assert deep.cases.inputs["flair"].shape == (4, 1, 12, 10, 4)
    assert (flat.spacing_mm, deep.spacing_mm) == ((2.0, 2.0), (2.0, 2.0, 5.0))
    together = flat.cases.inputs["flair"].view(4, 4, 1, 12, 10).permute(0, 2, 3, 4, 1)
    assert torch.equal(together, deep.cases.inputs["flair"])
    assert torch.equal(deep.cases.targets["tumour"][0, 0], torch.from_numpy(mask()).float())


def test_what_has_no_file_is_absent(tmp_path: Path) -> None:
    """By patient, and by slice where a slice is black."""
    folder = write_site(tmp_path)
    black = volume(7)
    black[:, :, 2] = 0
    write_nifti(folder / f"{SECRET}0" / "t1.nii.gz", black)

    present = read_cohort(tmp_path, FLAT, "north").cases.present

    assert present[:4].tolist() == [[True, True], [True, True], [True, False], [True, True]]
    assert present[12:].tolist() == [[True, False]] * 4
    assert read_cohort(tmp_path, DEEP, "north").cases.present.tolist() == [[True, True]] * 3 + [[True, False]]


def test_a_missing_label_map_is_no_label(tmp_path: Path) -> None:
    """The case is there, and is not asked for its tumour."""
    folder = write_site(tmp_path)
    (folder / f"{SECRET}1" / "tumour.nii.gz").unlink()

    cohort = read_cohort(tmp_path, DEEP, "north")

    assert cohort.cases.labelled["tumour"].tolist() == [True, False, True, True]
    assert cohort.usable.tolist() == [True, False, True, True]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_orientation_is_read_from_the_affine(tmp_path: Path, axis: int) -> None:
    """A volume stored mirrored, with the affine that says so, is the same volume."""
    write_site(tmp_path / "a")
    write_site(tmp_path / "b")
    for path in (tmp_path / "b").rglob("*.nii.gz"):
        image = load(path)
        mirror = np.eye(4)
        mirror[axis, axis], mirror[axis, 3] = -1, SHAPE[axis] - 1
        write_nifti(path, np.flip(np.asarray(image.dataobj), axis), image.affine @ mirror)

    straight, mirrored = (read_cohort(tmp_path / name, FLAT, "north").cases for name in "ab")

    assert torch.equal(straight.inputs["flair"], mirrored.inputs["flair"])
    assert torch.equal(straight.targets["tumour"], mirrored.targets["tumour"])


def test_swapped_axes_are_read_from_the_affine(tmp_path: Path) -> None:
    """Sagittal storage, axial slices."""
    write_site(tmp_path / "a")
    write_site(tmp_path / "b")
    for path in (tmp_path / "b").rglob("*.nii.gz"):
        image = load(path)
        values = np.asarray(image.dataobj).transpose(2, 0, 1)
        write_nifti(path, values, image.affine[:, [2, 0, 1, 3]])

    axial, sagittal = (read_cohort(tmp_path / name, FLAT, "north") for name in "ab")

    assert torch.equal(axial.cases.inputs["flair"], sagittal.cases.inputs["flair"])
    assert axial.spacing_mm == sagittal.spacing_mm


def test_cases_are_cut_and_padded_about_the_centre(tmp_path: Path) -> None:
    """Padding is the darkest there is, outside every mask."""
    write_site(tmp_path)
    whole = read_cohort(tmp_path, DEEP, "north").cases

    cases = read_cohort(tmp_path, recipe("nifti", ("flair", "t1"), TUMOUR, size=(16, 6, 4)), "north").cases

    assert torch.equal(cases.inputs["flair"][:, :, 2:14], whole.inputs["flair"][:, :, :, 2:8])
    darkest = whole.inputs["flair"].amin((1, 2, 3, 4), keepdim=True)
    assert cases.inputs["flair"][:, :, :2].eq(darkest).all()
    assert cases.targets["tumour"][:, :, :2].eq(0).all()


def test_voxels_are_resampled_where_the_recipe_says(tmp_path: Path) -> None:
    """Twice as long in x and y: half as many, and two hospitals' files agree."""
    write_site(tmp_path)
    coarse = recipe("nifti", ("flair", "t1"), TUMOUR, size=(6, 5, 4), spacing_mm=(4.0, 4.0, 5.0))

    cohort = read_cohort(tmp_path, coarse, "north")

    assert cohort.spacing_mm == (4.0, 4.0, 5.0)
    assert cohort.cases.inputs["flair"].shape == (4, 1, 6, 5, 4)
    # The 3x2x1 corner covers one coarse pixel whole and another by half, which is not enough.
    assert cohort.cases.targets["tumour"][0].sum() == 1


def test_fewer_cases_are_spread_evenly(tmp_path: Path) -> None:
    """`slices: 2` of four are the first and the last."""
    write_site(tmp_path)
    every = read_cohort(tmp_path, FLAT, "north").cases.inputs["flair"]

    two = read_cohort(tmp_path, recipe("nifti", ("flair", "t1"), TUMOUR, size=(12, 10), slices=2), "north")

    assert torch.equal(two.cases.inputs["flair"], every[[0, 3, 4, 7, 8, 11, 12, 15]])


def test_a_site_of_its_own_is_the_same_site(tmp_path: Path) -> None:
    """At a hospital the root is its own folder, and no site is named."""
    folder = write_site(tmp_path)

    alone, among = read_cohort(folder, FLAT, None), read_cohort(tmp_path, FLAT, "north")

    assert alone.site == "own"
    assert alone.patients == among.patients
    assert torch.equal(alone.split, among.split)


def test_classes_are_channels(tmp_path: Path) -> None:
    """Value c of the label map is channel c - 1."""
    folder = write_site(tmp_path, patients=1)
    parts = mask()
    parts[6:8, 6:8, 3] = 2
    write_nifti(folder / f"{SECRET}0" / "tumour.nii.gz", parts)
    two = recipe("nifti", ("flair",), {"tumour": Head("segmentation", 2)}, size=(12, 10, 4))

    target = read_cohort(tmp_path, two, "north").cases.targets["tumour"]

    assert target.shape == (1, 2, 12, 10, 4)
    assert torch.equal(target[0, 1], torch.from_numpy(parts == 2).float())


# -- Tables ------------------------------------------------------------------------------------


def test_tables_and_labels_stand_beside_the_scans(tmp_path: Path) -> None:
    """Columns by name, whatever their order; an empty cell is a missing table or label."""
    folder = write_site(tmp_path)
    write_sheet(
        folder / "table.csv",
        [
            {"sex": 1, "patient": f"{SECRET}0", "age": 50},
            {"sex": "", "patient": f"{SECRET}1", "age": 50},
        ],
    )
    write_sheet(
        folder / "labels.csv",
        [
            {"patient": f"{SECRET}0", "grade": 1, "death_time": 3.5, "death_event": 0},
            {"patient": f"{SECRET}1", "grade": "", "death_time": 2, "death_event": ""},
        ],
    )
    heads = {"grade": Head("classification"), "death": Head("survival")}
    wide = recipe("nifti", ("flair", "table"), heads, size=(12, 10), table=2)

    cohort = read_cohort(tmp_path, wide, "north")

    assert cohort.cases.present[:, 1].tolist() == [True] * 4 + [False] * 12
    assert cohort.cases.inputs["table"][3].tolist() == [50, 1]
    for head in heads:
        assert cohort.cases.labelled[head].tolist() == [True] * 4 + [False] * 12
    assert cohort.cases.targets["grade"][3] == 1
    assert cohort.cases.targets["death"][3].tolist() == [3.5, 0]


# -- What is refused -----------------------------------------------------------------------------


def _shorter(folder: Path) -> None:
    write_nifti(folder / "t1.nii.gz", volume(0, (12, 10, 3)))


def _smaller_map(folder: Path) -> None:
    write_nifti(folder / "tumour.nii.gz", mask((6, 10, 4)))


def _elsewhere(folder: Path) -> None:
    affine = np.diag((2.0, 2.0, 5.0, 1.0))
    affine[0, 3] = 4
    write_nifti(folder / "t1.nii.gz", volume(0), affine)


def _truncated(folder: Path) -> None:
    path = folder / "t1.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])


def _truncated_inside(folder: Path) -> None:
    path = folder / "t1.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-200]))


def _no_nifti(folder: Path) -> None:
    (folder / "t1.nii.gz").write_bytes(b"no scan at all")


def _not_finite(value: float) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        values = volume(0)
        values[5, 5, 2] = value
        write_nifti(folder / "t1.nii.gz", values)

    return write


def _series(folder: Path) -> None:
    write_nifti(folder / "t1.nii.gz", volume(0, (12, 10, 4, 2)))


def _map_of_two(folder: Path) -> None:
    write_nifti(folder / "tumour.nii.gz", mask() * 2)


def _fuzzy_map(folder: Path) -> None:
    write_nifti(folder / "tumour.nii.gz", mask() * np.float32(0.5))


DAMAGES: list[tuple[Callable[[Path], Any], str]] = [
    (_shorter, "different grids"),
    (_smaller_map, "different grids"),
    (_elsewhere, "different grids"),
    (_truncated, "cannot be read"),
    (_truncated_inside, "cannot be read"),
    (_no_nifti, "cannot be read"),
    (_not_finite(float("nan")), "NaN or infinite"),
    (_not_finite(float("inf")), "NaN or infinite"),
    (_series, "found 4 dimensions"),
    (_map_of_two, "out of range, expected 0 to 1"),
    (_fuzzy_map, "out of range, expected 0 to 1"),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGES)
def test_damaged_scans_are_refused(tmp_path: Path, damage: Callable[[Path], Any], says: str) -> None:
    """Said with site and place, and without the patient."""
    folder = write_site(tmp_path)
    damage(folder / f"{SECRET}2")

    message = refusal(lambda: read_cohort(tmp_path, FLAT, "north"))

    assert says in message
    assert "site 'north', patient folder 3 of 4" in message


def test_no_truncation_passes(tmp_path: Path) -> None:
    """Wherever the file ends early."""
    path = write_site(tmp_path, patients=1) / f"{SECRET}0" / "flair.nii.gz"
    whole = path.read_bytes()
    for length in range(0, len(whole), 101):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            read_cohort(tmp_path, FLAT, "north")


def test_unequal_voxels_need_a_common_size(tmp_path: Path) -> None:
    """Distances would be measured in two units."""
    folder = write_site(tmp_path)
    for path in (folder / f"{SECRET}1").iterdir():
        image = load(path)
        write_nifti(path, np.asarray(image.dataobj), np.diag((3.0, 3.0, 5.0, 1.0)))

    assert "set data.spacing_mm" in refusal(lambda: read_cohort(tmp_path, FLAT, "north"))
    both = recipe("nifti", ("flair", "t1"), TUMOUR, size=(4, 4), spacing_mm=(6.0, 6.0, 5.0))
    assert read_cohort(tmp_path, both, "north").spacing_mm == (6.0, 6.0)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (recipe("nifti", ("flair", "t9"), TUMOUR, size=(4, 4)), "no site has a file 't9.nii.gz'"),
        (recipe("nifti", ("flair",), {"lesion": Head("segmentation")}, size=(4, 4)), "'lesion.nii.gz'"),
    ],
)
def test_what_nobody_has_is_refused_before_the_run(tmp_path: Path, wrong: Recipe, says: str) -> None:
    """One site may lack it; all may not."""
    write_site(tmp_path)
    write_site(tmp_path, "south")

    assert says in refusal(lambda: list_sites(tmp_path, wrong))
    assert list_sites(tmp_path, FLAT) == ["north", "south"]


@pytest.mark.parametrize(
    ("sheet", "text", "says"),
    [
        ("labels", f"patient,grade\n{SECRET}0,2\n", "label 'grade' out of range"),
        ("labels", f"patient,grade\n{SECRET}0,high\n", "not a number"),
        ("labels", f"name,grade\n{SECRET}0,1\n", "no column 'patient'"),
        ("labels", f"patient,stage\n{SECRET}0,1\n", "no column 'grade'"),
        ("table", f"patient,a,b\n{SECRET}0,1,x\n", "not a number"),
        ("table", f"patient,a,b\n{SECRET}0,1,nan\n", "NaN or infinite"),
        ("table", f"patient,a\n{SECRET}0,1\n", "modalities.table.features: 2"),
    ],
)
def test_damaged_tables_are_refused(tmp_path: Path, sheet: str, text: str, says: str) -> None:
    """By column, never by row."""
    folder = write_site(tmp_path)
    (folder / f"{sheet}.csv").write_text(text)
    wide = recipe("nifti", ("flair", "table"), {"grade": Head("classification")}, size=(12, 10), table=2)

    assert says in refusal(lambda: read_cohort(tmp_path, wide, "north"))


def test_missing_sites_are_refused(tmp_path: Path) -> None:
    """No folder, no patients, no site at all."""
    assert "no site's data" in refusal(lambda: list_sites(tmp_path, FLAT))
    assert "site 'north' has no folder" in refusal(lambda: read_cohort(tmp_path, FLAT, "north"))
    (tmp_path / "north").mkdir()
    assert "site 'north' has no patient" in refusal(lambda: read_cohort(tmp_path, FLAT, "north"))


@pytest.mark.parametrize("size", [(4,), (4, 4, 4, 4)])
def test_size_is_two_or_three_numbers(tmp_path: Path, size: tuple[int, ...]) -> None:
    """The recipe is wrong, not the data."""
    write_site(tmp_path)

    with pytest.raises(RecipeError, match=r"^data\.size: expected \[X, Y\]"):
        read_cohort(tmp_path, recipe("nifti", ("flair",), TUMOUR, size=size), "north")


def test_a_site_without_patients_is_named_instead_of_left_out(tmp_path: Path) -> None:
    write_site(tmp_path, "north")
    (tmp_path / ".cache").mkdir()
    assert list_sites(tmp_path, FLAT) == ["north"]
    (tmp_path / "south").mkdir()
    with pytest.raises(DataError, match="'south' has no patient folders: fill it"):
        list_sites(tmp_path, FLAT)


def test_no_error_names_the_folder_that_is_a_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors go to the coordinator: not there, without patients, with a broken scan; and a mutant."""
    folder = tmp_path / SECRET
    said = [refusal(lambda: read_cohort(folder, FLAT, None))]
    folder.mkdir()
    said.append(refusal(lambda: read_cohort(folder, FLAT, None)))
    (folder / "patient").mkdir()
    (folder / "patient" / "flair.nii").write_bytes(b"no scan")
    said.append(refusal(lambda: read_cohort(folder, FLAT, None)))
    monkeypatch.setattr(nifti, "OWN", SECRET)

    assert not any(SECRET in each for each in said)
    with pytest.raises(DataError, match=SECRET):
        read_cohort(folder, FLAT, None)
