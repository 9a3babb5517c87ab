"""What a report says of a federation, from the sites' tallies."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.metrics import Tally, subset_name, subsets_of
from server.scores import (
    balanced_error,
    emm_average,
    emm_expectation,
    goodness,
    mean_over_sites,
    over_subsets,
    overall,
    relative_balanced_error,
    unmeasured,
    worst,
)

SITES = {
    "north": {
        "tumour/dice": Tally("dice", (81.0, 90.0)),
        "tumour/hd95_mm": Tally("hd95_mm", (90.0, 30.0, 0.0)),
    },
    "south": {
        "tumour/dice": Tally("dice", (5.0, 10.0)),
        "tumour/hd95_mm": Tally("hd95_mm", (80.0, 10.0, 2.0)),
    },
    "west": {"tumour/dice": Tally("dice", (0.0, 0.0))},
    "east": {},
}


def test_overall_counts_patients_and_the_mean_counts_sites() -> None:
    """86 of 100 patients against (0.9 + 0.5) / 2; sites that measured nothing take no part."""
    assert overall(SITES, "tumour/dice") == pytest.approx(0.86)
    assert mean_over_sites(SITES, "tumour/dice") == pytest.approx(0.7)
    assert overall(SITES, "tumour/hd95_mm") == pytest.approx(170 / 40)


def test_worst_follows_the_direction_of_the_metric() -> None:
    """The least Dice, but the largest distance."""
    assert worst(SITES, "tumour/dice") == ("south", 0.5)
    assert worst(SITES, "tumour/hd95_mm") == ("south", 8.0)
    assert goodness("tumour/dice", 0.5) > goodness("tumour/dice", 0.4)
    assert goodness("tumour/ece", 0.1) > goodness("tumour/ece", 0.2)


def test_worst_of_equals_is_the_first_by_name() -> None:
    """So that two runs of one experiment say the same."""
    same = {"dice": Tally("dice", (1.0, 2.0))}

    assert worst({"south": same, "north": same}, "dice") == ("north", 0.5)


@pytest.mark.parametrize("scores", [{}, {"east": {}}, {"west": SITES["west"]}])
def test_nobody_measured_is_nan(scores: dict[str, dict[str, Tally]]) -> None:
    """Not zero, and not an exception in the middle of a run."""
    assert math.isnan(overall(scores, "tumour/dice"))
    assert math.isnan(mean_over_sites(scores, "tumour/dice"))
    site, value = worst(scores, "tumour/dice")
    assert site == ""
    assert math.isnan(value)


def test_emm_golden_values() -> None:
    """All there .8, the first lost .5, the second lost .6; p = .1: (.648 + .045 + .054) / .99."""
    values = {"a+b": 0.8, "b": 0.5, "a": 0.6}

    assert emm_average(values) == pytest.approx(1.9 / 3)
    assert emm_expectation(values, ("a", "b"), 0.1) == pytest.approx(0.7545454545)
    assert emm_expectation(values, ("a", "b"), 0.2) == pytest.approx(0.7166666667)
    assert emm_expectation(values, ("a", "b"), 0.05) == pytest.approx(0.7761904762)


def test_balanced_error_golden_values() -> None:
    """Mean error .3 against .4, and .2 more than clean against .2 more."""
    ours, theirs = {"c": (0.2, 0.25, 0.3, 0.35, 0.4)}, {"c": (0.3, 0.35, 0.4, 0.45, 0.5)}

    assert balanced_error(ours, theirs) == pytest.approx(0.75)
    assert relative_balanced_error(ours, 0.1, theirs, 0.2) == pytest.approx(1.0)


def test_balanced_error_is_a_mean_of_ratios_over_corruptions() -> None:
    """Not a ratio of means; what only one was measured under, or costs the reference nothing, is left out."""
    ours = {"a": (0.2, 0.4), "b": (0.5, 0.7), "only here": (1.0, 1.0)}
    theirs = {"a": (0.3, 0.3), "b": (0.2, 0.2)}

    assert balanced_error(ours, theirs) == pytest.approx((0.3 / 0.3 + 0.6 / 0.2) / 2)
    assert relative_balanced_error(ours, 0.1, theirs, 0.2) == pytest.approx((0.3 - 0.1) / (0.3 - 0.2))
    assert math.isnan(balanced_error(ours, {}))
    assert math.isnan(relative_balanced_error({"b": (0.5,)}, 0.1, {"b": (0.2,)}, 0.2))


@given(count=st.integers(1, 5), p=st.floats(0.01, 0.99), score=st.floats(0, 1), lost=st.integers(0, 30))
def test_emm_weights_sum_to_one(count: int, p: float, score: float, lost: int) -> None:
    """A model that scores the same everywhere is expected to score that, whatever was not measured."""
    modalities = tuple("abcde"[:count])
    names = [subset_name(subset) for subset in subsets_of(modalities)]
    values = dict.fromkeys(names, score)
    if len(values) > 1:
        values[names[lost % len(names)]] = math.nan

    assert emm_expectation(values, modalities, p) == pytest.approx(score)
    assert emm_average(values) == pytest.approx(score)
    assert len(unmeasured(values, modalities)) == (len(names) > 1)


def test_emm_expectation_is_the_plain_simulation() -> None:
    """Lose each of three modalities by itself and average what is left, but for losing all."""
    modalities, p = ("a", "b", "c"), 0.2
    values = {subset_name(s): 0.3 + 0.2 * len(s) + 0.05 * ("b" in s) for s in subsets_of(modalities)}
    total = kept = 0.0
    for fate in range(1, 8):
        there = [m for i, m in enumerate(modalities) if fate >> i & 1]
        chance = math.prod(1 - p if m in there else p for m in modalities)
        total, kept = total + chance * values["+".join(there)], kept + chance

    assert emm_expectation(values, modalities, p) == pytest.approx(total / kept)


def test_subsets_that_nobody_owns_are_left_out_and_named() -> None:
    """The sums are over what was measured, and the report can say what was not."""
    subsets = {
        "north": {"a": SITES["north"], "a+b": SITES["south"]},
        "south": {"a": SITES["south"], "b": SITES["west"]},
        "east": {"b": {}},
    }
    values = over_subsets(subsets, "tumour/dice")

    assert values == pytest.approx({"a": 0.86, "a+b": 0.5})
    assert unmeasured(values, ("a", "b")) == ["b"]
    assert emm_average(values) == pytest.approx(0.68)
    assert emm_expectation(values, ("a", "b"), 0.5) == pytest.approx(0.68)


def test_no_subset_measured_is_nan() -> None:
    """An evaluation without the metric at all."""
    assert math.isnan(emm_average({}))
    assert math.isnan(emm_expectation({}, ("a",), 0.1))
