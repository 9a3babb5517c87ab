"""Patients keep their split whatever else changes."""

from hypothesis import given
from hypothesis import strategies as st

from imaging.splits import TEST, TRAIN, VALIDATION, split_patients

PATIENTS = st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=80)


@given(PATIENTS)
def test_three_patients_are_enough_for_every_split(patients: set[str]) -> None:
    """Each split of a site with three patients or more has one; fewer all train."""
    found = set(split_patients(patients).values())

    assert found == ({TRAIN, VALIDATION, TEST} if len(patients) >= 3 else {TRAIN})


@given(PATIENTS, st.randoms(use_true_random=False))
def test_order_of_patients_does_not_matter(patients: set[str], random: object) -> None:
    """The same set, in any order, some twice, gives the same splits."""
    listed = sorted(patients)
    random.shuffle(listed)  # type: ignore[attr-defined]

    assert split_patients(listed + listed[:3]) == split_patients(patients)


def test_shares() -> None:
    """Of a hundred patients 60 train, 15 validate and 25 test."""
    splits = list(split_patients(map(str, range(100))).values())

    assert [splits.count(code) for code in (TRAIN, VALIDATION, TEST)] == [60, 15, 25]


def test_seed_gives_another_split() -> None:
    """`split_seed` moves patients, and the same seed does not."""
    patients = [f"p{n}" for n in range(40)]

    assert split_patients(patients, 1) == split_patients(patients, 1) != split_patients(patients)


def test_splits_never_move() -> None:
    """Published results name these patients: a change of the rule must be a decision."""
    assert [split_patients("abcdef")[name] for name in "abcdef"] == [TRAIN] * 3 + [TEST] * 2 + [VALIDATION]
