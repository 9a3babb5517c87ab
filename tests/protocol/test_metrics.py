"""Tallies are sums: they merge in any order, and their value is the metric over everything."""

import json
import math
from dataclasses import asdict
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, matthews_corrcoef, roc_auc_score

from protocol.errors import UpdateError
from protocol.metrics import AUROC_BINS, ECE_BINS, METRICS, Tally, coarsened, subset_name, subsets_of

COUNT = st.integers(0, 1000).map(float)
LENGTHS = {"hd95_mm": 3, "balanced_accuracy": 9, "mcc": 9, "ece": 3 * ECE_BINS}


def histograms() -> st.SearchStrategy[Tally]:
    bins = st.dictionaries(st.integers(0, 40), st.tuples(COUNT, COUNT), max_size=8)
    return bins.map(
        lambda b: Tally("auroc", tuple(x for place in sorted(b) for x in (float(place), *b[place])))
    )


def tallies(kind: str) -> st.SearchStrategy[Tally]:
    if kind == "auroc":
        return histograms()
    length = LENGTHS.get(kind, 2)
    return st.lists(COUNT, min_size=length, max_size=length).map(lambda sums: Tally(kind, tuple(sums)))


def zero(kind: str) -> Tally:
    return Tally(kind, () if kind == "auroc" else (0.0,) * LENGTHS.get(kind, 2))


@pytest.mark.parametrize("kind", METRICS)
@given(data=st.data())
def test_tallies_are_a_commutative_monoid(kind: str, data: st.DataObject) -> None:
    """Order and grouping of sites do not matter, and a site that counted nothing changes nothing."""
    r, s, t = (data.draw(tallies(kind)) for _ in range(3))

    assert (r + s) + t == r + (s + t)
    assert r + s == s + r
    assert r + zero(kind) == r == zero(kind) + r
    assert (r + s).count == r.count + s.count


@pytest.mark.parametrize("kind", METRICS)
@given(data=st.data())
def test_a_tally_survives_json(kind: str, data: st.DataObject) -> None:
    """It travels as JSON text and comes back equal."""
    tally = data.draw(tallies(kind))
    plain = json.loads(json.dumps(asdict(tally), allow_nan=False))

    assert Tally(plain["kind"], tuple(plain["sums"])) == tally


@pytest.mark.parametrize("kind", METRICS)
def test_nothing_counted_is_nan(kind: str) -> None:
    """Not zero, which would read as a bad score, and not an exception."""
    assert math.isnan(zero(kind).value)
    assert zero(kind).count == 0


@pytest.mark.parametrize("kind", METRICS)
def test_the_report_can_say_what_a_metric_is(kind: str) -> None:
    """Every metric has a unit, a direction, and a definition that ends."""
    metric = METRICS[kind]

    assert metric.unit
    assert metric.direction in ("higher", "lower")
    assert metric.definition.endswith(".")


def test_hospitals_of_different_size_are_merged_by_patients() -> None:
    """Merging is not the mean of the sites' means, which is (0.9 + 0.5) / 2 here."""
    large, small = Tally("dice", (81.0, 90.0)), Tally("dice", (5.0, 10.0))

    assert (large + small).value == pytest.approx(0.86)
    assert (large + small).value != pytest.approx((large.value + small.value) / 2)


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (Tally("dice", (1.0, 1.0)), Tally("accuracy", (1.0, 1.0)), "'dice' and one of 'accuracy'"),
        (Tally("mcc", (1.0,) * 4), Tally("mcc", (1.0,) * 9), "4 and 9 sums"),
    ],
)
def test_different_tallies_do_not_add(left: Tally, right: Tally, message: str) -> None:
    """Neither another metric nor another number of classes."""
    with pytest.raises(UpdateError, match=message):
        left + right


@pytest.mark.parametrize(
    ("kind", "sums"),
    [
        ("f1", (1.0, 2.0)),
        ("dice", (1.0,)),
        ("dice", (math.nan, 2.0)),
        ("accuracy", (math.inf, 2.0)),
        ("mcc", (1.0,) * 5),
        ("balanced_accuracy", (1.0,)),
        ("auroc", (1.0, 2.0)),
        ("ece", (1.0,) * 3),
        ("hd95_mm", (1.0, 2.0)),
    ],
)
def test_what_no_metric_can_have_counted_is_refused(kind: str, sums: tuple[float, ...]) -> None:
    """A site's reply is read into a tally: nonsense stops there, saying which metric."""
    with pytest.raises(UpdateError, match=kind):
        Tally(kind, sums)


CONFUSIONS = st.integers(2, 4).flatmap(
    lambda n: st.lists(st.integers(0, 6), min_size=n * n, max_size=n * n).map(lambda c: np.reshape(c, (n, n)))
)


@given(matrix=CONFUSIONS.filter(lambda matrix: matrix.sum() > 0))
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_confusion_matrices_match_sklearn(matrix: np.ndarray) -> None:
    """Balanced accuracy and MCC from the matrix equal scikit-learn's from the cases it counts."""
    true, predicted = (np.repeat(axis.ravel(), matrix.ravel()) for axis in np.indices(matrix.shape))
    sums = tuple(map(float, matrix.ravel()))

    assert Tally("balanced_accuracy", sums).value == pytest.approx(balanced_accuracy_score(true, predicted))
    assert Tally("mcc", sums).value == pytest.approx(matthews_corrcoef(true, predicted), abs=1e-12)


def test_mcc_of_a_constant_prediction_is_zero() -> None:
    """A model that always says the same correlates with nothing."""
    assert Tally("mcc", (7.0, 0.0, 3.0, 0.0)).value == 0


@given(
    positives=st.lists(st.integers(0, 30), min_size=1, max_size=20),
    negatives=st.lists(st.integers(0, 30), min_size=1, max_size=20),
)
def test_auroc_matches_sklearn_on_its_bins(positives: list[int], negatives: list[int]) -> None:
    """Given the bins, nothing more is lost: ties count half."""
    one_each = [Tally("auroc", (float(b), 1.0, 0.0)) for b in positives]
    one_each += [Tally("auroc", (float(b), 0.0, 1.0)) for b in negatives]
    labels = [1] * len(positives) + [0] * len(negatives)

    assert reduce(add, one_each).value == pytest.approx(roc_auc_score(labels, positives + negatives))


def test_auroc_of_several_classes_is_their_mean() -> None:
    """A class of which there are no cases, or only cases, does not count."""
    perfect = (1.0, 0.0, 3.0, 9.0, 2.0, 0.0)
    reversed_ = (AUROC_BINS + 1.0, 1.0, 0.0, AUROC_BINS + 5.0, 0.0, 4.0)
    absent = (2 * AUROC_BINS + 1.0, 0.0, 5.0)

    assert Tally("auroc", perfect + reversed_ + absent).value == pytest.approx(0.5)
    assert math.isnan(Tally("auroc", absent).value)


def test_ece_weighs_bins_by_their_cases() -> None:
    """Three cases at confidence 0.9 of which two are right, one at 0.6 that is right."""
    confidence, right, cases = ([0.0] * ECE_BINS for _ in range(3))
    confidence[13], right[13], cases[13] = 2.7, 2.0, 3.0
    confidence[9], right[9], cases[9] = 0.6, 1.0, 1.0

    assert Tally("ece", (*confidence, *right, *cases)).value == pytest.approx((0.7 + 0.4) / 4)


def test_distances_are_averaged_over_what_was_measured() -> None:
    """Cases without a distance are counted apart and do not dilute the mean."""
    tally = Tally("hd95_mm", (12.0, 4.0, 96.0))

    assert tally.value == 3
    assert tally.count == 4


def test_subsets_are_all_but_the_empty_one() -> None:
    """2^M - 1, small ones first, each in the recipe's order, all with different names."""
    assert subsets_of(("t1", "flair", "ct")) == [
        ("t1",),
        ("flair",),
        ("ct",),
        ("t1", "flair"),
        ("t1", "ct"),
        ("flair", "ct"),
        ("t1", "flair", "ct"),
    ]
    names = {subset_name(subset) for subset in subsets_of(tuple("abcde"))}
    assert len(names) == 31
    assert "a+c+e" in names


# -- Coarse tallies ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", METRICS)
@given(data=st.data())
def test_a_coarse_mean_has_a_coarse_value_over_a_coarse_count_and_nothing_else_is_told(
    kind: str, data: st.DataObject
) -> None:
    tally = data.draw(tallies(kind))
    told = coarsened(tally, 0.25, lambda count: 5 * (count // 5))

    if kind not in {"dice", "hd95_mm", "accuracy", "c_index", "loss"} or tally.count < 5:
        assert told is None
    else:
        assert told is not None
        assert told.count == 5 * (tally.count // 5)
        assert told.value == pytest.approx(round(tally.value / 0.25) * 0.25)
        assert all(each % 5 == 0 for each in told.sums[1:])
