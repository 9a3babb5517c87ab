"""Confidence intervals: what the numbers would be had other patients been in the test split.

The patients of each site are drawn anew, with replacement, as many as there are (Efron, Annals of
Statistics 1979): a draw says how often each of them counts. Every number of interest is then computed from
the draw as it is from the data, so that means over sites, worst sites and ratios have intervals too; and one
draw serves all conditions and models, which makes their differences as sharp as the data allow.

For that the scores of single patients are needed. In a federation they never leave their hospital: this is
for simulations, where all patients lie on one machine anyway.

A tally of patients that count `w` times is the sum of theirs, `w` times each, and for pairs of patients
(`c_index`) the sum over pairs, `w * w` times. An interval covers the choice of patients, not that of sites or
seeds; with four patients a site it is too narrow.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from protocol.metrics import Tally
from server.record import Scores

Draw = NDArray[np.float64]
"""How often each patient of a site counts, `(P,)`."""
Resample = Callable[[Draw], Tally]
Sample = Mapping[str, Resample]
"""Metric -> its tally for any draw of one site's patients."""

LEVEL = 0.95


def draws(patients: Mapping[str, int], replicates: int, seed: int) -> Iterator[Mapping[str, Draw]]:
    """Yield the data themselves, then `replicates` draws: site -> how often each patient counts.

    A site's draws follow from the seed, its name and its number of patients.
    """
    yield {site: np.ones(count) for site, count in patients.items()}
    streams = {site: np.random.default_rng([seed, *site.encode()]) for site in patients}
    for _ in range(replicates):
        yield {
            site: streams[site].multinomial(count, np.full(count, 1 / count)).astype(np.float64)
            for site, count in patients.items()
        }


def additive(tallies: Mapping[int, Tally], patients: int) -> Resample:
    """Resample a metric that is a sum over patients: place among `patients` -> tally of that one."""
    kind = next(iter(tallies.values())).kind
    if kind == "auroc":
        return _histogram(tallies, patients)
    parts = np.zeros((patients, len(next(iter(tallies.values())).sums)))
    for place, tally in tallies.items():
        parts[place] = tally.sums
    return lambda draw: Tally(kind, tuple((draw @ parts).tolist()))


def _histogram(tallies: Mapping[int, Tally], patients: int) -> Resample:
    # Sums are (bin, positives, negatives) of occupied bins: the bin is a name and no number.
    bins = sorted({int(place) for tally in tallies.values() for place in tally.sums[::3]})
    parts = np.zeros((patients, len(bins), 2))
    for row, tally in tallies.items():
        columns = [bins.index(int(place)) for place in tally.sums[::3]]
        parts[row, columns, 0], parts[row, columns, 1] = tally.sums[1::3], tally.sums[2::3]

    def resample(draw: Draw) -> Tally:
        counts = np.einsum("p,pbk->bk", draw, parts)
        table = np.column_stack([bins, counts])[counts.any(1)]
        return Tally("auroc", tuple(table.ravel().tolist()))

    return resample


def paired(
    concordant: NDArray[np.float64], comparable: NDArray[np.float64], owner: Sequence[int]
) -> Resample:
    """Resample `c_index` from the pairs of cases `(N, N)`; case `i` is of the patient `owner[i]`."""
    place = np.asarray(owner)

    def resample(draw: Draw) -> Tally:
        weight = draw[place]
        return Tally("c_index", (float(weight @ concordant @ weight), float(weight @ comparable @ weight)))

    return resample


def scores(samples: Mapping[str, Sample], draw: Mapping[str, Draw]) -> dict[str, Scores]:
    """Return site -> metric -> tally, as if the patients of `draw` were the data."""
    return {site: {m: resample(draw[site]) for m, resample in told.items()} for site, told in samples.items()}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the percentile interval at `LEVEL` of the replicates that have a value; NaN if none has."""
    known = np.asarray(values)[np.isfinite(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)
