"""Counts, rows, and the union of sites."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imaging.cohort import SPLITS, Cohort, assemble, checked, concatenate, contributed
from imaging.splits import split_patients
from protocol.batch import Batch
from protocol.errors import DataError
from protocol.recipe import Head, Recipe
from tests.imaging.files import recipe, refusal

HEADS = {"tumour": Head("segmentation"), "grade": Head("classification")}
RECIPE = recipe("memory", ("flair", "t1"), HEADS)


def cases(present: list[list[int]], labelled: list[list[int]]) -> Batch:
    """Cases with 2x2 images; rows of `present` are (flair, t1), of `labelled` (tumour, grade)."""
    n = len(present)
    has, knows = (torch.tensor(x, dtype=torch.bool).view(n, 2) for x in (present, labelled))
    return Batch(
        {name: torch.rand(n, 1, 2, 2) for name in ("flair", "t1")},
        has,
        {"tumour": torch.zeros(n, 1, 2, 2), "grade": torch.zeros(n, dtype=torch.long)},
        {"tumour": knows[:, 0], "grade": knows[:, 1]},
    )


def three() -> Cohort:
    """Anna trains and has all; Ben trains with one usable case of three; Cai validates."""
    patients = {
        "ben": cases([[1, 0], [0, 0], [1, 1]], [[1, 0], [1, 1], [0, 0]]),
        "anna": cases([[1, 1]], [[1, 1]]),
        "cai": cases([[1, 1], [0, 1]], [[0, 1], [0, 1]]),
    }
    return assemble("north", RECIPE, patients, {"anna": 0, "ben": 0, "cai": 1}, (1.0, 2.0))


def test_cases_stand_in_the_order_of_patients() -> None:
    """Names are sorted, and each case points to its patient."""
    cohort = three()

    assert cohort.patients == ("anna", "ben", "cai")
    assert cohort.patient.tolist() == [0, 1, 1, 1, 2, 2]


def test_rows_are_usable_cases_only() -> None:
    """A case without any modality, or without any label, is never asked for."""
    assert three().rows("train").tolist() == [0, 1]
    assert three().rows("validation").tolist() == [4, 5]
    assert three().rows("test").tolist() == []


def test_counts_name_what_is_owned() -> None:
    """A group counts the usable cases that train it; a group that none trains is absent."""
    assert three().counts() == {
        "shared": 2,
        "modality:flair": 2,
        "modality:t1": 1,
        "head:tumour": 2,
        "head:grade": 1,
    }
    assert three().counts("validation") == {
        "shared": 2,
        "modality:flair": 1,
        "modality:t1": 2,
        "head:grade": 2,
    }
    assert three().counts("test") == {}


def test_summary_is_counts() -> None:
    """What is told of the cohort names no patient."""
    assert three().summary() == {
        "site": "north",
        "patients": {"train": 2, "validation": 1, "test": 0},
        "cases": {"train": 2, "validation": 2, "test": 0},
        "patterns": {"flair": 1, "flair+t1": 1},
        "labels": {"tumour": 2, "grade": 1},
    }


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=8), min_size=1, max_size=4))
def test_a_patient_never_straddles_and_the_union_keeps_every_split(sites: list[list[int]]) -> None:
    """Sites of patients with 0-3 cases each: every case of a patient is in one split, pooled or not."""
    cohorts: list[Cohort] = []
    for index, sizes in enumerate(sites):
        patients = {f"p{n}": cases([[1, 1]] * size, [[1, 1]] * size) for n, size in enumerate(sizes) if size}
        if patients:
            cohorts.append(assemble(f"s{index}", RECIPE, patients, split_patients(patients)))
    if not cohorts:
        return

    pooled = concatenate("pooled", cohorts)

    for cohort in (*cohorts, pooled):
        for patient in range(len(cohort.patients)):
            assert cohort.split[cohort.patient == patient].unique().numel() == 1
    assert pooled.split.tolist() == [code for cohort in cohorts for code in cohort.split.tolist()]
    for split in SPLITS:
        assert len(pooled.rows(split)) == sum(len(cohort.rows(split)) for cohort in cohorts)
    assert len(pooled.patients) == len(set(pooled.patients)) == sum(len(c.patients) for c in cohorts)


def test_the_union_knows_a_spacing_that_all_share() -> None:
    """Distances in mm need one spacing."""
    other = replace(three(), spacing_mm=(2.0, 2.0))

    assert concatenate("pooled", [three(), three()]).spacing_mm == (1.0, 2.0)
    assert concatenate("pooled", [three(), other]).spacing_mm is None


def test_a_site_without_patients_is_refused() -> None:
    """Nothing to train on is an error at once, not a round later."""
    assert "no patient" in refusal(lambda: assemble("north", RECIPE, {}, {}))
    assert "no patient" in refusal(lambda: assemble("north", RECIPE, {"a": cases([], [])}, {"a": 0}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_wild_values_are_refused_where_they_can_be_seen(value: float) -> None:
    """NaN in a case's own modality is an error; in an absent one's place it is nothing."""
    cohort = three()
    checked(cohort, RECIPE)
    cohort.cases.inputs["t1"][1, 0, 0, 0] = value
    checked(cohort, RECIPE)
    cohort.cases.inputs["t1"][0, 0, 0, 0] = value

    assert "1 of 6 cases hold NaN or infinite values in 't1'" in refusal(lambda: checked(cohort, RECIPE))


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_out_of_range_are_refused(label: int) -> None:
    """A binary head knows 0 and 1; what an unlabelled case holds does not count."""
    cohort = three()
    cohort.cases.targets["grade"][1] = label
    checked(cohort, RECIPE)
    cohort.cases.targets["grade"][0] = label

    assert "1 of 6 cases have a label 'grade' out of range" in refusal(lambda: checked(cohort, RECIPE))


@pytest.mark.parametrize("target", [(-1.0, 1.0), (5.0, 2.0), (float("nan"), 0.0), (float("inf"), 0.0)])
def test_impossible_survivals_are_refused(target: tuple[float, float]) -> None:
    """A time is finite and not negative, an event 0 or 1."""
    survival = recipe("memory", ("flair", "t1"), {"death": Head("survival")})
    batch = Batch(
        cases([[1, 1]], [[1, 1]]).inputs,
        torch.ones(1, 2).bool(),
        {"death": torch.tensor([target])},
        {"death": torch.tensor([True])},
    )

    assert "valid time and event" in refusal(
        lambda: checked(assemble("north", survival, {"a": batch}, {"a": 0}), survival)
    )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            recipe("memory", ("flair", "t1"), HEADS | {"tumour": Head("segmentation", 3)}),
            "heads.tumour.classes",
        ),
        (recipe("memory", ("flair", "table"), HEADS, table=5), "modalities.table.features"),
    ],
)
def test_widths_that_the_recipe_does_not_expect_are_refused(wrong: Recipe, says: str) -> None:
    """Before a model trips over them."""
    cohort = three()
    inputs = {**cohort.cases.inputs, "table": torch.zeros(6, 2)}
    cohort = replace(cohort, cases=replace(cohort.cases, inputs=inputs))

    with pytest.raises(DataError, match=says):
        checked(cohort, wrong)


def test_what_too_few_patients_have_counts_as_absent_in_training_alone() -> None:
    """Only Anna trains with t1 and with a grade; Cai, who validates, keeps both."""
    cohort = contributed(three(), 2)

    assert cohort.counts() == {"shared": 2, "modality:flair": 2, "head:tumour": 2}
    assert cohort.counts("validation") == three().counts("validation")
    assert contributed(three(), 1).counts() == three().counts()


def test_hiding_goes_on_until_every_group_has_enough_patients() -> None:
    """Without t1 (one patient) the grade's second patient has nothing to show, so the grade goes too."""
    patients = {
        "anna": cases([[1, 0]], [[1, 1]]),
        "ben": cases([[0, 1]], [[0, 1]]),
        "cai": cases([[1, 0]], [[1, 0]]),
    }
    cohort = assemble("north", RECIPE, patients, {"anna": 0, "ben": 0, "cai": 0}, None)

    assert cohort.counts()["head:grade"] == 2
    assert contributed(cohort, 2).counts() == {"shared": 2, "modality:flair": 2, "head:tumour": 2}


@given(
    st.lists(st.tuples(*[st.booleans()] * 4), min_size=1, max_size=12),
    st.integers(1, 5),
)
def test_no_group_but_shared_has_fewer_patients_than_the_minimum(
    rows: list[tuple[bool, ...]], least: int
) -> None:
    patients = {
        f"p{n:02}": cases([[int(x) for x in row[:2]]], [[int(x) for x in row[2:]]])
        for n, row in enumerate(rows)
    }
    before = assemble("north", RECIPE, patients, dict.fromkeys(patients, 0), None)
    after = contributed(before, least)

    users = after.users("train")
    assert all(after.patients_in(users[group]) >= least for group in users if group != "shared")
    assert not (after.cases.present & ~before.cases.present).any()
    assert torch.equal(before.cases.present, contributed(before, 1).cases.present)


def test_counts_are_told_as_the_site_wants_with_the_patients_behind_them() -> None:
    asked: list[tuple[int, int]] = []

    def tell(count: int, patients: int) -> int:
        asked.append((count, patients))
        return 10 * count if patients > 1 else 0

    told = three().summary(tell)

    assert told["patients"] == {"train": 20, "validation": 0, "test": 0}
    assert told["cases"] == {"train": 20, "validation": 0, "test": 0}
    assert told["patterns"] == {}
    assert told["labels"] == {"tumour": 20, "grade": 0}
    assert (2, 1) in asked  # Cai's two cases are one patient
