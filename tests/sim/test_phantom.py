"""Synthetic hospitals: what they lack, what is true, and that each modality shows a part of it."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nibabel.nifti1 import load
from numpy.random import default_rng
from numpy.typing import NDArray

from imaging.sources import list_sites, read_cohort
from protocol.recipe import Head, load_recipe
from sim.phantom import (
    LACKS,
    MODALITIES,
    OEDEMA,
    RIM,
    YEARLY_HAZARD,
    Scanner,
    draw_head,
    followed,
    lacking,
    scan,
    write_phantom,
)

RECIPES = Path(__file__).parents[2] / "recipes"
PATIENTS = 9
QUIET = Scanner(gain=1000, gamma=1, shading=0, noise=0)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four hospitals of nine patients."""
    root = tmp_path_factory.mktemp("phantom")
    write_phantom(root, patients=PATIENTS, size=24)
    return root


def files(root: Path) -> dict[str, bytes]:
    """Every file's bytes by its path."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_same_seed_same_bytes(phantom: Path, tmp_path: Path) -> None:
    """And another seed, other heads."""
    write_phantom(tmp_path / "again", patients=PATIENTS, size=24)
    write_phantom(tmp_path / "other", patients=PATIENTS, size=24, seed=1)

    again, other = files(tmp_path / "again"), files(tmp_path / "other")
    assert files(phantom) == again
    assert again.keys() == other.keys()
    assert all(again[path] != other[path] for path in again if path.endswith(".nii.gz"))


def test_more_patients_leave_the_first_as_they_are(phantom: Path, tmp_path: Path) -> None:
    """A larger phantom contains the smaller."""
    write_phantom(tmp_path, patients=2, size=24)

    assert all(files(phantom)[p] == data for p, data in files(tmp_path).items() if p.endswith(".nii.gz"))


def test_absences_are_as_declared(phantom: Path) -> None:
    """The folder, the reader and `lacking` agree on every patient."""
    recipe = load_recipe(RECIPES / "phantom.yaml", ["data.size=[24,24]"])
    assert list_sites(phantom, recipe) == ["site_1", "site_2", "site_3", "site_4"]
    for site, lacks in enumerate(LACKS):
        cohort = read_cohort(phantom, recipe, f"site_{site + 1}")
        for patient in range(PATIENTS):
            missing = lacking(site, patient)
            folder = phantom / f"site_{site + 1}" / cohort.patients[patient]
            has = {path.name.partition(".")[0] for path in folder.iterdir()}
            assert has == set(MODALITIES) - set(missing) | {"tumour"}
            present = cohort.cases.present[cohort.patient == patient]
            assert present.tolist() == [[name not in missing for name in recipe.modalities]] * len(present)
            assert len(missing) == len(lacks) + (patient == 7)


def test_nobody_lacks_everything() -> None:
    """At any hospital, for any patient."""
    assert all(set(lacking(site, patient)) < set(MODALITIES) for site in range(9) for patient in range(99))


def test_grades_are_everywhere_but_at_the_last(phantom: Path) -> None:
    """So that one hospital does not own the head."""
    recipe = load_recipe(RECIPES / "phantom.yaml", ["data.size=[24,24]"])
    graded = replace(recipe, heads={"grade": Head("classification")})

    owned = ["head:grade" in read_cohort(phantom, graded, f"site_{n}").counts() for n in range(1, 5)]

    assert owned == [True, True, True, False]


def test_who_takes_up_contrast_dies_earlier() -> None:
    """Three times as fast, and some of either grade live to their last visit."""
    years = [[followed(grade, default_rng((grade, patient))) for patient in range(400)] for grade in (0, 1)]
    rates = [sum(died for _, died in told) / sum(float(time) for time, _ in told) for told in years]

    assert rates == pytest.approx(YEARLY_HAZARD, rel=0.2)
    assert all(0 < sum(died for _, died in told) < 400 for told in years)


def contrast(modality: str, seed: int, *, uptake: bool = True) -> float:
    """How much brighter the tumour is than the healthy brain, in units of the brain's spread."""
    rng = default_rng(seed)
    tissue = draw_head(32, rng)
    values = scan(tissue, modality, QUIET, rng, uptake=uptake)
    brain = values[(tissue > 0) & (tissue < OEDEMA)]
    return float((values[tissue >= OEDEMA].mean() - brain.mean()) / brain.std())


@pytest.mark.parametrize(("modality", "low", "high"), [("flair", 1.5, 9), ("t2", 1.0, 9), ("t1", -9, -0.5)])
def test_tumours_show(modality: str, low: float, high: float) -> None:
    """Bright in flair and t2, dark in t1."""
    shown = [contrast(modality, seed) for seed in range(12)]

    assert low < np.median(shown) < high


def test_uptake_shows_in_t1c_alone() -> None:
    """The grade is hidden from all other sequences."""
    tissue = draw_head(32, default_rng(3))

    def drawn(modality: str, *, uptake: bool) -> NDArray[np.float64]:
        return scan(tissue, modality, QUIET, default_rng(0), uptake=uptake)

    for modality in MODALITIES:
        changed = not np.array_equal(drawn(modality, uptake=True), drawn(modality, uptake=False))
        assert changed == (modality == "t1c")
    enhancing = drawn("t1c", uptake=True) - drawn("t1c", uptake=False)
    assert enhancing[tissue == RIM].mean() > 10 * np.abs(enhancing[tissue < OEDEMA]).mean()


def test_truth_is_the_tumour(phantom: Path) -> None:
    """Every patient has one, within the head, in some slices and not in all of the volume."""
    for path in phantom.rglob("tumour.nii.gz"):
        truth = np.asarray(load(path).dataobj)
        assert 0.005 < truth.mean() < 0.12
        assert set(np.unique(truth)) == {0, 1}
        assert truth[[0, -1]].sum() == truth[:, [0, -1]].sum() == 0


def test_scanners_differ(phantom: Path) -> None:
    """Raw intensities tell the hospital, normalised ones much less."""
    raw = {
        site: np.median([np.asarray(load(p).dataobj).max() for p in (phantom / site).rglob("t1c.nii.gz")])
        for site in ("site_1", "site_2", "site_4")
    }
    recipe = load_recipe(RECIPES / "phantom.yaml", ["data.size=[24,24]"])
    read = {site: read_cohort(phantom, recipe, site).cases.inputs["t1c"].max() for site in raw}

    assert max(raw.values()) / min(raw.values()) > 1.3
    assert torch.stack(list(read.values())).max() <= 10


def test_grades_are_both(phantom: Path) -> None:
    """About half of the tumours take up contrast."""
    grades = []
    for path in phantom.rglob("labels.csv"):
        with path.open() as file:
            grades += [row["grade"] for row in csv.DictReader(file)]

    assert len(grades) == 3 * PATIENTS
    assert 0.25 < grades.count("1") / len(grades) < 0.75
