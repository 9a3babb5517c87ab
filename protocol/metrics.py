"""Metrics that merge: sums and counts travel, never a mean.

A site cannot send its patients, and a mean of the sites' means is not the mean over their
patients. So a site sends a `Tally`: the sums from which the metric's value is computed. For
tallies `s, t` of two disjoint sets of cases:

    s + t == the tally of the union     except c_index, see below
    (s + t).value                       the value over both sets, as if they were in one place
    s + zeros == s,  s + t == t + s,  (r + s) + t == r + (s + t)     (up to float rounding)

`c_index` compares pairs of patients, and a pair whose two members are at different sites cannot
be formed without moving one of them: the merged value is over the pairs *within* sites.

`auroc` is kept as a histogram of scores (`AUROC_BINS` bins a class), of which only occupied
bins travel, as (bin, positives, negatives). A pair of a positive and a negative in one bin counts
half, so the value is off by at most half the share of such pairs.

`METRICS` says what each metric is: the report prints it. It is the one place that knows what the
sums of a kind mean; `models.metrics` fills them from tensors.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, groupby
from typing import Literal

from protocol.errors import UpdateError

Sums = tuple[float, ...]

AUROC_BINS = 1024
ECE_BINS = 15


@dataclass(frozen=True)
class Tally:
    """What a metric has summed over some cases.

    `kind` is a key of `METRICS`, whose entry says what `sums` are. Raises `UpdateError` for
    an unknown kind, sums of a wrong number, and sums that are not finite.
    """

    kind: str
    sums: Sums

    def __post_init__(self) -> None:
        """Refuse what no metric here can have counted."""
        if self.kind not in METRICS:
            raise UpdateError(f"there is no metric '{self.kind}', only: {', '.join(METRICS)}")
        if not METRICS[self.kind].shaped(len(self.sums)):
            raise UpdateError(f"{self.kind}: {len(self.sums)} sums are not a tally of this metric")
        if not all(map(math.isfinite, self.sums)):
            raise UpdateError(f"{self.kind}: a sum is not finite: look for NaN in the model's outputs")

    def __add__(self, other: "Tally") -> "Tally":
        """Merge with the tally of other cases."""
        if self.kind != other.kind:
            raise UpdateError(f"a tally of '{self.kind}' and one of '{other.kind}' do not add")
        return Tally(self.kind, METRICS[self.kind].merge(self.sums, other.sums))

    @property
    def count(self) -> float:
        """What the value is an average over: patients, cases or pairs; 0 if nothing was counted."""
        return METRICS[self.kind].count(self.sums)

    @cached_property
    def value(self) -> float:
        """The metric over everything counted; NaN if that is nothing."""
        return METRICS[self.kind].value(self.sums) if self.count else math.nan


def coarsened(tally: Tally, step: float, told: Callable[[int], int]) -> Tally | None:
    """Return a mean to the nearest multiple of `step`, over a count as `told` tells it.

    None where nothing is left to tell: no count, or a kind whose sums are not a mean's. A histogram
    of scores or a confusion matrix shows single cases, however its cells are rounded.
    """
    if METRICS[tally.kind].value is not _ratio or not tally.count or not (count := told(round(tally.count))):
        return None
    value = round(tally.value / step) * step
    return Tally(tally.kind, (value * count, float(count), *(float(told(round(n))) for n in tally.sums[2:])))


# -- From sums to a value ------------------------------------------------------------------------


def _ratio(sums: Sums) -> float:
    return sums[0] / sums[1]


def _balanced_accuracy(sums: Sums) -> float:
    recalls = [row[label] / sum(row) for label, row in enumerate(_rows(sums)) if sum(row)]
    return sum(recalls) / len(recalls)


def _mcc(sums: Sums) -> float:
    # R_K: the correlation of two one-hot matrices, from their confusion matrix alone.
    rows = _rows(sums)
    true, predicted = [sum(row) for row in rows], [sum(column) for column in zip(*rows, strict=True)]
    total = sum(true)
    right = sum(row[label] for label, row in enumerate(rows))
    spread = (total**2 - sum(t * t for t in true)) * (total**2 - sum(p * p for p in predicted))
    covariance = right * total - sum(t * p for t, p in zip(true, predicted, strict=True))
    return covariance / math.sqrt(spread) if spread else 0.0


def _rows(sums: Sums) -> list[Sums]:
    classes = math.isqrt(len(sums))
    return [sums[start : start + classes] for start in range(0, len(sums), classes)]


def _ece(sums: Sums) -> float:
    gaps = (abs(sums[b] - sums[ECE_BINS + b]) for b in range(ECE_BINS))
    return sum(gaps) / sum(sums[2 * ECE_BINS :])


def _auroc(sums: Sums) -> float:
    classes = groupby(_triples(sums), lambda row: row[0] // AUROC_BINS)
    areas = [area for _, rows in classes if not math.isnan(area := _area(rows))]
    return sum(areas) / len(areas) if areas else math.nan


def _cases_in_bins(sums: Sums) -> float:
    # Every case stands once in the bins of every class.
    return sum(positives + negatives for place, positives, negatives in _triples(sums) if place < AUROC_BINS)


def _area(rows: Iterable[tuple[float, float, float]]) -> float:
    won = below = above = 0.0
    for _, positives, negatives in rows:
        won += positives * (below + negatives / 2)
        below, above = below + negatives, above + positives
    return won / (below * above) if below and above else math.nan


def _triples(sums: Sums) -> Iterator[tuple[float, float, float]]:
    return zip(sums[::3], sums[1::3], sums[2::3], strict=True)


# -- From two tallies to one ---------------------------------------------------------------------


def _add(left: Sums, right: Sums) -> Sums:
    if len(left) != len(right):
        raise UpdateError(f"tallies of {len(left)} and {len(right)} sums do not add: do the classes agree?")
    return tuple(a + b for a, b in zip(left, right, strict=True))


def _add_bins(left: Sums, right: Sums) -> Sums:
    bins = {place: (positives, negatives) for place, positives, negatives in _triples(left)}
    for place, positives, negatives in _triples(right):
        here = bins.get(place, (0.0, 0.0))
        bins[place] = (here[0] + positives, here[1] + negatives)
    return tuple(x for place in sorted(bins) for x in (place, *bins[place]))


# -- The table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """What a metric is (for readers), and how its sums behave (for `Tally`).

    `unit` as printed, `direction` in which it improves, `definition` in one or two sentences.
    `count`, `value` and `merge` work on sums; `shaped` says whether a number of sums is possible.
    """

    unit: str
    direction: Literal["higher", "lower"]
    definition: str
    value: Callable[[Sums], float] = _ratio
    count: Callable[[Sums], float] = lambda sums: sums[1]
    shaped: Callable[[int], bool] = lambda length: length == 2  # noqa: PLR2004 - a sum and a count
    merge: Callable[[Sums, Sums], Sums] = _add


def _is_square(length: int) -> bool:
    return length >= 4 and math.isqrt(length) ** 2 == length  # noqa: PLR2004 - two classes at least


METRICS: dict[str, Metric] = {
    "dice": Metric(
        "0 to 1",
        "higher",
        "Overlap 2|P and T| / (|P| + |T|) of a patient's whole volume (the slices are summed before the "
        "division), 1 if prediction and truth are both empty; mean over channels, then over patients.",
    ),
    "hd95_mm": Metric(
        "mm",
        "lower",
        "95th percentile of the distances between the surfaces of prediction and truth, the worse of the two "
        "directions; mean over cases (a slice in 2D, a volume in 3D) and channels. Where prediction or truth "
        "is empty there is no distance: left out; where only one of them is, also counted apart.",
        shaped=lambda length: length == 3,  # noqa: PLR2004 - millimetres, measured, one side empty
    ),
    "auroc": Metric(
        "0 to 1",
        "higher",
        "Chance that a positive case scores above a negative one, ties half, from a histogram of scores "
        f"({AUROC_BINS} bins); with more than two classes the mean of each class against the rest.",
        value=_auroc,
        count=_cases_in_bins,
        shaped=lambda length: length % 3 == 0,
        merge=_add_bins,
    ),
    "accuracy": Metric(
        "0 to 1", "higher", "Share of cases whose most probable class is the true one (binary: above 0.5)."
    ),
    "balanced_accuracy": Metric(
        "0 to 1",
        "higher",
        "Mean over the classes that occur of the share of their cases that is recognised.",
        value=_balanced_accuracy,
        count=sum,
        shaped=_is_square,
    ),
    "mcc": Metric(
        "-1 to 1",
        "higher",
        "Matthews correlation of predicted and true class (R_K with more than two classes), "
        "0 if either is constant.",
        value=_mcc,
        count=sum,
        shaped=_is_square,
    ),
    "ece": Metric(
        "0 to 1",
        "lower",
        "Expected calibration error: distance between the mean confidence in the predicted class and the "
        f"share of right predictions, in {ECE_BINS} bins of confidence, averaged by their cases (of a "
        "segmentation: by voxels, most of them easy background).",
        value=_ece,
        count=lambda sums: sum(sums[2 * ECE_BINS :]),
        shaped=lambda length: length == 3 * ECE_BINS,
    ),
    "c_index": Metric(
        "0 to 1",
        "higher",
        "Harrell's concordance: of the pairs of cases at one site where one is known to have died first, the "
        "share in which that one had the higher risk, equal risks half. A death and a censoring at one time "
        "are such a pair, two deaths at one time are not.",
    ),
    "loss": Metric(
        "as the pretext counts", "lower", "What a case costs by a pretext's own measure, mean over cases."
    ),
}
"""Metric name -> what it is. The sums of each kind:

`dice` (sum, patients) · `hd95_mm` (sum, measured, one side empty) · `accuracy` (right, cases) ·
`loss` (sum, cases) · `c_index` (concordant + half the ties, comparable pairs) ·
`balanced_accuracy`, `mcc` the confusion matrix by rows, `[true, predicted]` ·
`ece` confidence a bin, right a bin, cases a bin ·
`auroc` (class * AUROC_BINS + bin, positives, negatives) of each occupied bin, ascending.
"""


# -- Subsets of modalities -----------------------------------------------------------------------


def subsets_of(modalities: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the 2^M - 1 non-empty subsets, small ones first, each in the order of `modalities`."""
    return [subset for size in range(1, len(modalities) + 1) for subset in combinations(modalities, size)]


def subset_name(subset: tuple[str, ...]) -> str:
    """Return the name under which scores of this subset travel: `flair+t1`."""
    return "+".join(subset)
