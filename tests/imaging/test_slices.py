"""The glioma set: what is absent, what is refused, what is learned."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imaging.cohort import Cohort
from imaging.sources import clinical, list_sites, read_cohort, slices
from imaging.sources.slices import CHANNELS, acquired
from imaging.splits import split_patients
from protocol.batch import Batch
from protocol.errors import DataError, RecipeError
from protocol.recipe import Head, Part, Recipe
from tests.imaging.files import patient, pixels, real, recipe, refusal, write_sheet, write_slices

TUMOUR = {"tumour": Head("segmentation")}
SMALL = recipe("slices", CHANNELS, TUMOUR, size=16)
BOTH = recipe(
    "slices",
    (*CHANNELS, "clinical"),
    {**TUMOUR, "grade": Head("classification")},
    size=16,
    clinical=clinical.FEATURES,
)


def write_site(root: Path, site: str = "AA", patients: int = 4) -> list[str]:
    """Patients: complete; FLAIR only; no post-contrast; complete but for one black slice each."""
    names = [patient(site, number) for number in range(patients)]
    for number, name in enumerate(names):
        images = pixels(number)
        copied = {1: (0, 2), 2: (2,)}.get(number, ())
        for channel in copied:
            images[..., channel] = images[..., 1]
        if number == 3:
            images[0, ..., 1] = 0
            images[1, ..., 0] = 0
        write_slices(root, name, images)
    return names


def tables(root: Path, names: list[str], **changes: object) -> None:
    """`patients.csv` that tells the truth about `write_site`, and a `data.csv` with a row for each."""
    words = ["all", "FLAIR_only", "no_post", "all"]
    write_sheet(
        root / "patients.csv",
        [{"patient": n, "site": n[5:7], "available": w} for n, w in zip(names, words, strict=True)],
    )
    columns = (clinical.AGE, *clinical.LEVELS, *(column for column, _ in clinical.LABELS.values()))
    row = dict.fromkeys(columns, 1) | {clinical.AGE: 60, "death01": 0, "tumor_location": 2} | changes
    write_sheet(root / "data.csv", [{"Patient": name[: -len("_20000101")], **row} for name in names])


def present(cohort: Cohort, name: str) -> list[list[bool]]:
    """Of one patient: t1, flair, t1c, by slice."""
    return cohort.cases.present[cohort.patient == cohort.patients.index(name)].tolist()


# -- What is absent ---------------------------------------------------------------------------


def test_a_copy_of_flair_is_absent_and_so_is_a_black_channel(tmp_path: Path) -> None:
    """By pixels alone, slice by slice."""
    names = write_site(tmp_path)

    cohort = read_cohort(tmp_path, SMALL, "AA")

    assert present(cohort, names[0]) == [[True, True, True]] * 4
    assert present(cohort, names[1]) == [[False, True, False]] * 4
    assert present(cohort, names[2]) == [[True, True, False]] * 4
    assert present(cohort, names[3]) == [[True, False, True], [False, True, True]] + [[True] * 3] * 2


def learns_no_copies(root: Path) -> None:
    """Where t1 or t1c count as present, they are not FLAIR again."""
    cohort = read_cohort(root, SMALL, "AA")
    flair = cohort.cases.inputs["flair"]
    for column, name in enumerate(CHANNELS):
        has = cohort.cases.present[:, column]
        same = (cohort.cases.inputs[name] == flair).flatten(1).all(1)
        assert name == "flair" or not (has & same).any()


def test_trusting_all_but_black_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant looks for black channels only, and so learns FLAIR as three modalities."""
    write_site(tmp_path)
    learns_no_copies(tmp_path)

    monkeypatch.setattr(slices, "_copies", lambda pixels: np.zeros(pixels.shape[:2], bool))

    with pytest.raises(AssertionError):
        learns_no_copies(tmp_path)


KINDS = st.sampled_from(["own", "copy", "black"])


@given(st.lists(st.tuples(KINDS, st.booleans(), KINDS), min_size=1, max_size=5))
def test_acquired_is_what_was_drawn(drawn: list[tuple[str, bool, str]]) -> None:
    """For every mixture of own, copied and black channels; a copy of a black FLAIR is black."""
    images = np.moveaxis(pixels(1, len(drawn), 8), 3, 1)
    expected = []
    for image, (t1, flair, t1c) in zip(images, drawn, strict=True):
        image[1] *= flair
        for channel, what in ((0, t1), (2, t1c)):
            image[channel] = {"own": image[channel], "copy": image[1], "black": 0}[what]
        expected.append([t1 == "own", flair, t1c == "own"])

    assert acquired(images).tolist() == expected


def test_one_differing_pixel_is_a_sequence_of_its_own() -> None:
    """Only an exact copy is a copy."""
    images = np.moveaxis(pixels(0, 1, 8), 3, 1)
    images[:, 0] = images[:, 1]
    images[0, 0, 4, 4] ^= 1

    assert acquired(images).tolist() == [[True, True, True]]


def test_what_stands_in_an_absent_place_is_nobodys_scan(tmp_path: Path) -> None:
    """Zeros, not the copy."""
    names = write_site(tmp_path)
    cohort = read_cohort(tmp_path, SMALL, "AA")
    rows = cohort.patient == cohort.patients.index(names[1])

    assert cohort.cases.inputs["t1"][rows].eq(0).all()
    assert not cohort.cases.inputs["flair"][rows].eq(0).all()


def test_absent_channels_do_not_move_the_scale(tmp_path: Path) -> None:
    """A slice that is black in one sequence is no part of that sequence's intensities."""
    images = pixels(0)
    write_slices(tmp_path, patient("AA", 0), images)
    black = np.concatenate([images, images[:1]])
    black[-1, ..., 1] = 0
    write_slices(tmp_path, patient("AA", 1), black)

    flair = read_cohort(tmp_path, SMALL, "AA").cases.inputs["flair"]

    torch.testing.assert_close(flair[:4], flair[4:8])


def test_tables_that_agree_change_nothing(tmp_path: Path) -> None:
    """`patients.csv` is a second witness."""
    names = write_site(tmp_path)
    alone = read_cohort(tmp_path, SMALL, "AA")
    tables(tmp_path, names)

    assert torch.equal(read_cohort(tmp_path, SMALL, "AA").cases.present, alone.cases.present)


@pytest.mark.parametrize(("number", "lie"), [(0, "no_post"), (1, "all"), (2, "FLAIR_only"), (2, "no_pre")])
def test_tables_that_contradict_the_pixels_are_refused(tmp_path: Path, number: int, lie: str) -> None:
    """Data said to be there that are not, or the other way round."""
    names = write_site(tmp_path)
    tables(tmp_path, names)
    text = (tmp_path / "patients.csv").read_text().splitlines()
    text[number + 1] = f"{names[number]},AA,{lie}"
    (tmp_path / "patients.csv").write_text("\n".join(text))

    message = refusal(lambda: read_cohort(tmp_path, SMALL, "AA"))

    assert "site 'AA'" in message
    assert "disagree" in message


# -- Cases -------------------------------------------------------------------------------------


def test_cases_are_slices_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """Slice 10 follows slice 9, though its name does not."""
    images = pixels(0)
    write_slices(tmp_path, patient("AA", 0), images)  # numbered 8 to 11
    expected = torch.from_numpy(images[..., 1]).float().view(4, 1, 16, 2, 16, 2).mean((3, 5))

    flair = read_cohort(tmp_path, SMALL, "AA").cases.inputs["flair"]

    brightest = [int(x.argmax()) for x in flair]
    assert brightest == [int(x.argmax()) for x in expected]


def test_masks_are_resized_with_their_slices(tmp_path: Path) -> None:
    """The mask of a quarter-wide square is a quarter-wide square."""
    write_site(tmp_path)

    masks = read_cohort(tmp_path, SMALL, "AA").cases.targets["tumour"]

    assert masks.shape == (16, 1, 16, 16)
    assert masks[:, 0, 4:8, 4:8].eq(1).all()
    assert masks.sum() == 16 * 16


def test_a_slice_without_a_mask_teaches_nothing(tmp_path: Path) -> None:
    """It is a case without that label."""
    name = patient("AA", 0)
    write_slices(tmp_path, name, pixels(0))
    (tmp_path / name / f"{name}_9_mask.tif").unlink()

    assert read_cohort(tmp_path, SMALL, "AA").cases.labelled["tumour"].tolist() == [True, False, True, True]


def test_fewer_slices_are_spread_evenly(tmp_path: Path) -> None:
    """`slices: 2` of four are the first and the last."""
    write_slices(tmp_path, patient("AA", 0), pixels(0))
    every = read_cohort(tmp_path, SMALL, "AA").cases
    two = read_cohort(tmp_path, recipe("slices", CHANNELS, TUMOUR, size=16, slices=2), "AA").cases

    assert len(two) == 2
    assert int(two.inputs["t1"][1].argmax()) == int(every.inputs["t1"][3].argmax())


def test_spacing_is_known_where_the_field_of_view_is(tmp_path: Path) -> None:
    """240 mm over 16 pixels."""
    write_site(tmp_path)

    known = read_cohort(tmp_path, recipe("slices", CHANNELS, TUMOUR, size=16, field_mm=240), "AA")

    assert known.spacing_mm == (15.0, 15.0)
    assert read_cohort(tmp_path, SMALL, "AA").spacing_mm is None


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 99))
def test_a_volume_holds_the_slices_about_its_middle(slices_: int, depth: int, seed: int) -> None:
    """By a loop over the slices of the volume; what a slice lacks is as dark as its modality gets."""
    chance = torch.Generator().manual_seed(seed)
    cases = _random_slices(slices_, chance)

    volume = slices.stacked(cases, depth)

    first = -((depth - slices_) // 2)
    for column, name in enumerate(CHANNELS):
        here = cases.present[:, column]
        assert volume.present[0, column] == here.any()
        for z in range(depth):
            found, row = volume.inputs[name][0, ..., z], first + z
            if 0 <= row < slices_ and here[row]:
                assert torch.equal(found, cases.inputs[name][row])
            elif here.any():
                assert found.eq(cases.inputs[name][here].min()).all()
    outlined = [
        volume.targets["tumour"][0, ..., z] for z in range(max(0, -first), min(depth, slices_ - first))
    ]
    assert all(
        torch.equal(found, cases.targets["tumour"][max(0, first) + i]) for i, found in enumerate(outlined)
    )
    assert volume.targets["tumour"].sum() == sum(float(each.sum()) for each in outlined)
    assert volume.targets["grade"].tolist() == cases.targets["grade"][:1].tolist()
    assert bool(volume.labelled["tumour"]) == bool(cases.labelled["tumour"].all())


def _random_slices(count: int, chance: torch.Generator) -> Batch:
    """Slices of 2 x 3 pixels, of one patient whose grade is 1."""

    def image() -> torch.Tensor:
        return torch.randn(count, 1, 2, 3, generator=chance)

    return Batch(
        {name: image() for name in CHANNELS},
        torch.rand(count, len(CHANNELS), generator=chance) < 0.7,
        {"tumour": (image() > 0).float(), "grade": torch.ones(count, dtype=torch.int64)},
        {"tumour": image()[:, 0, 0, 0] > -1, "grade": torch.ones(count, dtype=torch.bool)},
    )


def test_a_case_may_be_a_patient(tmp_path: Path) -> None:
    """With `depth`: every image, its outline and its grade; no distance is known between slices."""
    tables(tmp_path, write_site(tmp_path))
    asked = replace(BOTH, data=Part("slices", {"size": 16, "depth": 6, "field_mm": 240}))

    cohort = read_cohort(tmp_path, asked, "AA")

    assert cohort.patient.tolist() == [0, 1, 2, 3]
    assert cohort.cases.inputs["t1"].shape == cohort.cases.targets["tumour"].shape == (4, 1, 16, 16, 6)
    assert cohort.cases.inputs["clinical"].shape == (4, clinical.FEATURES)
    assert cohort.cases.present[:, :3].tolist() == [
        [True] * 3,
        [False, True, False],
        [True, True, False],
        [True] * 3,
    ]
    assert cohort.cases.labelled["grade"].all()
    assert cohort.spacing_mm is None


def test_sites_come_from_the_table_or_else_from_the_name(tmp_path: Path) -> None:
    """A row in `patients.csv` moves a patient."""
    names = write_site(tmp_path, "AA") + write_site(tmp_path, "BB")
    assert list_sites(tmp_path, SMALL) == ["AA", "BB"]
    write_sheet(tmp_path / "patients.csv", [{"patient": names[0], "site": "CC", "available": "all"}])

    assert list_sites(tmp_path, SMALL) == ["AA", "BB", "CC"]
    assert len(read_cohort(tmp_path, SMALL, "AA").patients) == 3
    assert read_cohort(tmp_path, SMALL, "CC").patients == (names[0],)


def test_a_folder_as_one_site_keeps_every_patients_split(tmp_path: Path) -> None:
    """With no site named, all of `root` is one site; nobody changes sides."""
    for site in ("AA", "BB"):
        write_site(tmp_path, site)
    whole = read_cohort(tmp_path, SMALL, None)
    names = [name.partition("/")[2] for name in whole.patients]
    found = {name: int(whole.split[whole.patient == i][0]) for i, name in enumerate(names)}

    assert whole.site == "own"
    for site in ("AA", "BB"):
        for name, split in split_patients(patient(site, n) for n in range(4)).items():
            assert found[name] == split


def test_the_recipes_seed_does_not_move_a_patient(tmp_path: Path) -> None:
    """Only `split_seed` does."""
    write_site(tmp_path, patients=4)
    first = read_cohort(tmp_path, SMALL, "AA").split
    second = read_cohort(tmp_path, replace(SMALL, seed=7), "AA").split
    others = [
        read_cohort(tmp_path, recipe("slices", CHANNELS, TUMOUR, size=16, split_seed=seed), "AA").split
        for seed in range(1, 4)
    ]

    assert torch.equal(first, second)
    assert any(not torch.equal(first, other) for other in others)


# -- Clinical table and labels -------------------------------------------------------------------


def test_table_and_grade_hold_for_all_slices(tmp_path: Path) -> None:
    """Age in units of 15 years from 45, then one-hot blocks; grade II is class 0."""
    tables(tmp_path, write_site(tmp_path))

    cohort = read_cohort(tmp_path, BOTH, "AA")

    assert cohort.cases.present[:, 3].all()
    table = cohort.cases.inputs["clinical"]
    assert table.shape == (16, clinical.FEATURES)
    assert table[0].tolist() == [1.0, *(1.0 if i in {0, 2, 4, 8, 12, 17, 20} else 0.0 for i in range(23))]
    assert cohort.cases.targets["grade"].eq(0).all()
    assert cohort.cases.labelled["grade"].all()


@pytest.mark.parametrize("label", [column for column, _ in clinical.LABELS.values()])
def test_labels_are_not_among_the_features(tmp_path: Path, label: str) -> None:
    """Changing what is learned changes nothing of what is seen."""
    names = write_site(tmp_path)
    tables(tmp_path, names)
    before = read_cohort(tmp_path, BOTH, "AA").cases.inputs["clinical"]
    tables(tmp_path, names, **{label: ""})

    assert torch.equal(read_cohort(tmp_path, BOTH, "AA").cases.inputs["clinical"], before)


def test_an_unknown_category_is_zeros_and_an_unknown_age_no_table(tmp_path: Path) -> None:
    """Two kinds of missing: a cell, and a row."""
    names = write_site(tmp_path)
    tables(tmp_path, names, RNASeqCluster="")
    cohort = read_cohort(tmp_path, BOTH, "AA")
    assert cohort.cases.inputs["clinical"][0, 9:13].eq(0).all()
    assert cohort.cases.present[:, 3].all()

    tables(tmp_path, names, **{clinical.AGE: ""})
    assert not read_cohort(tmp_path, BOTH, "AA").cases.present[:, 3].any()


def test_an_unknown_grade_is_no_label(tmp_path: Path) -> None:
    """The case still learns the outline."""
    tables(tmp_path, write_site(tmp_path), neoplasm_histologic_grade="")

    cohort = read_cohort(tmp_path, BOTH, "AA")

    assert not cohort.cases.labelled["grade"].any()
    assert cohort.usable.all()


def test_without_a_table_nobody_has_one(tmp_path: Path) -> None:
    """`data.csv` is optional."""
    write_site(tmp_path)

    cohort = read_cohort(tmp_path, BOTH, "AA")

    assert not cohort.cases.present[:, 3].any()
    assert "head:grade" not in cohort.counts()


# -- What is refused -----------------------------------------------------------------------------


def _truncated_slice(folder: Path) -> None:
    path = next(folder.glob("*_9.tif"))
    path.write_bytes(path.read_bytes()[:-500])


def _no_image(folder: Path) -> None:
    next(folder.glob("*_9.tif")).write_bytes(b"no image at all")


def _empty(folder: Path) -> None:
    next(folder.glob("*_9_mask.tif")).write_bytes(b"")


def _larger_mask(folder: Path) -> None:
    Image.new("L", (64, 64)).save(next(folder.glob("*_9_mask.tif")))


def _larger_slice(folder: Path) -> None:
    Image.new("RGB", (64, 64)).save(next(folder.glob("*_9.tif")))


def _grey_slices(folder: Path) -> None:
    for path in folder.glob("*.tif"):
        Image.new("L", (32, 32)).save(path)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_truncated_slice, "truncated"),
        (_no_image, "cannot be read"),
        (_empty, "cannot be read"),
        (_larger_mask, "mask is of another size"),
        (_larger_slice, "differ in size"),
        (_grey_slices, "square RGB"),
    ],
)
def test_damaged_images_are_refused(tmp_path: Path, damage: Callable[[Path], None], says: str) -> None:
    """Said with site and place, and without the patient."""
    damage(tmp_path / write_site(tmp_path)[2])

    message = refusal(lambda: read_cohort(tmp_path, SMALL, "AA"))

    assert says in message
    assert "site 'AA', patient folder 3 of 4" in message


def test_no_truncation_passes(tmp_path: Path) -> None:
    """Wherever the file ends early."""
    name = write_site(tmp_path)[0]
    path = tmp_path / name / f"{name}_9.tif"
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            read_cohort(tmp_path, SMALL, "AA")


def _column(name: str, new: str) -> Callable[[Path], None]:
    def rename(path: Path) -> None:
        path.write_text(path.read_text().replace(name, new))

    return rename


@pytest.mark.parametrize(
    ("table", "damage", "says"),
    [
        ("data.csv", _column(clinical.AGE, "age"), "no column 'age_at_initial_pathologic'"),
        ("data.csv", _column("Patient", "patient"), "no column 'Patient'"),
        ("data.csv", _column(",60,", ",sixty,"), "not a number"),
        ("data.csv", _column(",1,0\n", ",3,0\n"), "label is out of range"),
        ("data.csv", _column("TCGA", '"TCGA'), "cannot be read"),
        ("data.csv", lambda path: path.write_bytes(b"Patient\n\xff\xfe\xff"), "cannot be read"),
        ("patients.csv", _column("site", "hospital"), "no column 'site'"),
        ("patients.csv", _column("no_post", "nothing"), "'available'"),
    ],
)
def test_damaged_tables_are_refused(
    tmp_path: Path, table: str, damage: Callable[[Path], Any], says: str
) -> None:
    """By table and column, never by row."""
    tables(tmp_path, write_site(tmp_path))
    text = (tmp_path / table).read_bytes()
    (tmp_path / table).write_bytes(text.replace(b"\r\n", b"\n"))
    damage(tmp_path / table)

    assert says in refusal(lambda: read_cohort(tmp_path, BOTH, "AA"))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (recipe("slices", ("flair", "t2"), TUMOUR), "asks for t2"),
        (recipe("slices", CHANNELS, {"stage": Head("classification")}), "asks for stage"),
        (recipe("slices", CHANNELS, {"death": Head("survival")}), "asks for survival"),
    ],
)
def test_what_slices_do_not_hold_is_refused_before_the_run(tmp_path: Path, wrong: Recipe, says: str) -> None:
    """A modality that nobody has, a label that is not there."""
    write_site(tmp_path)

    assert says in refusal(lambda: list_sites(tmp_path, wrong))
    assert says in refusal(lambda: read_cohort(tmp_path, wrong, "AA"))


def test_missing_folders_and_sites_are_refused(tmp_path: Path) -> None:
    """No folder, an empty folder, an unknown site, a folder that names no site."""
    assert "not a folder" in refusal(lambda: read_cohort(tmp_path / "none", SMALL, None))
    assert "not a folder" in refusal(lambda: list_sites(tmp_path / "none", SMALL))
    assert "no site's data" in refusal(lambda: list_sites(tmp_path, SMALL))
    assert "no patient" in refusal(lambda: read_cohort(tmp_path, SMALL, None))
    write_site(tmp_path)
    assert "site 'ZZ' has no patient" in refusal(lambda: read_cohort(tmp_path, SMALL, "ZZ"))
    write_slices(tmp_path, "somebody", pixels(0))
    assert "has no site" in refusal(lambda: list_sites(tmp_path, SMALL))


def test_unknown_options_are_the_recipes_fault(tmp_path: Path) -> None:
    """Not the data's."""
    with pytest.raises(RecipeError, match=r"data\.sise"):
        read_cohort(tmp_path, recipe("slices", CHANNELS, TUMOUR, sise=16), "AA")


# -- The real set --------------------------------------------------------------------------------


def test_real_gliomas() -> None:
    """Eight patients lack sequences, as published; nobody's grade is learned from a blank."""
    root = real("lgg")
    assert list_sites(root, BOTH) == ["CS", "DU", "FG", "HT"]

    cohort = read_cohort(root, recipe("slices", CHANNELS, TUMOUR, size=32, slices=4), "FG")
    patterns = [
        tuple(cohort.cases.present[cohort.patient == n].any(0).tolist()) for n in range(len(cohort.patients))
    ]

    assert len(patterns) == 10
    assert patterns.count((False, True, False)) == 1
    assert patterns.count((True, True, False)) == 1
    assert set(cohort.split.tolist()) == {0, 1, 2}
