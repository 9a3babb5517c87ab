"""From the sites' tallies to the numbers of a report: overall, worst site, mean over sites, EMM.

    overall         tallies merged: every patient counts the same, so a large site counts more
    mean_over_sites every site counts the same
    worst           the site that is served worst, whichever direction is better
    emm_*           over modality subsets, from one value a subset

EMM, "entire missing modality": Liao et al., "Benchmarking Multi-modal Semantic Segmentation under
Sensor Failures", arXiv 2503.18445. With s(A) the score when the modalities A are available,

    average        mean of s(A) over the non-empty A
    expectation    sum P(A) s(A) / sum P(A),   P(A) = p^(M - |A|) (1 - p)^|A|

where each modality is lost with chance p by itself. There the same test set is scored under every
pattern; a federation can score A only on cases that own A, so its terms are over different patients, and a
subset that nobody owns is left out of both sums (`unmeasured` names them).

BE and rBE, balanced error under corruption and relative to clean images, against a reference model: Di Salvo
et al., MedMNIST-C, arXiv 2406.17536. With e_s the error at severity s, mean over corruptions of

    BE    mean over s of e_s(model) / mean over s of e_s(reference)
    rBE   (mean over s of e_s(model) - clean error) / (the same of the reference)

1 is the reference, less is better. Where the reference does not lose anything by a corruption, rBE has no
value there and is left out.
"""

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from statistics import fmean

from protocol.metrics import METRICS, Tally, subset_name, subsets_of
from server.record import Scores

ByName = Mapping[str, float]
"""Subset name (`flair+t1`) -> value."""
Errors = Mapping[str, Sequence[float]]
"""Corruption -> error at each severity."""


def overall(scores_by_site: Mapping[str, Scores], metric: str) -> float:
    """Return `metric` (`head/name`) over all sites' cases together; NaN if nobody has any."""
    tallies = _tallies(scores_by_site, metric)
    return reduce(add, tallies.values()).value if tallies else math.nan


def mean_over_sites(scores_by_site: Mapping[str, Scores], metric: str) -> float:
    """Return the unweighted mean of the sites' values; a site without one does not count."""
    return _mean(_values(scores_by_site, metric))


def worst(scores_by_site: Mapping[str, Scores], metric: str) -> tuple[str, float]:
    """Return the site with the worst value, and the value; `("", nan)` if nobody has one."""
    values = _values(scores_by_site, metric)
    if not values:
        return "", math.nan
    return min(values.items(), key=lambda item: (goodness(metric, item[1]), item[0]))


def goodness(metric: str, value: float) -> float:
    """Return `value` turned such that more is better: minus millimetres, but plus Dice."""
    return value if METRICS[metric.rpartition("/")[2]].direction == "higher" else -value


def over_subsets(subsets_by_site: Mapping[str, Mapping[str, Scores]], metric: str) -> dict[str, float]:
    """Return subset name -> `metric` over all sites' cases, for `RunRecord.subsets`."""
    names = dict.fromkeys(name for subsets in subsets_by_site.values() for name in subsets)
    values = {
        name: overall({site: found[name] for site, found in subsets_by_site.items() if name in found}, metric)
        for name in names
    }
    return {name: value for name, value in values.items() if not math.isnan(value)}


def emm_average(values: ByName) -> float:
    """Return the mean over the measured subsets."""
    return _mean({name: value for name, value in values.items() if not math.isnan(value)})


def emm_expectation(values: ByName, modalities: Sequence[str], p: float) -> float:
    """Return the expected score if each of `modalities` is lost with chance `p`, 0 < p < 1."""
    chances = {name: p ** (len(modalities) - size) * (1 - p) ** size for name, size in _sizes(values)}
    total = sum(chances.values())
    return sum(chance * values[name] for name, chance in chances.items()) / total if total else math.nan


def unmeasured(values: ByName, modalities: Sequence[str]) -> list[str]:
    """Name the subsets of `modalities` without a value, which the two sums leave out."""
    measured = {name for name, _ in _sizes(values)}
    return [name for name in map(subset_name, subsets_of(tuple(modalities))) if name not in measured]


def balanced_error(errors: Errors, reference: Errors) -> float:
    """Return BE over the corruptions that both were measured under."""
    return _mean({c: _ratio(fmean(errors[c]), fmean(reference[c])) for c in errors if c in reference})


def relative_balanced_error(errors: Errors, clean: float, reference: Errors, reference_clean: float) -> float:
    """Return rBE over the corruptions by which the reference gets worse."""
    lost = {c: fmean(reference[c]) - reference_clean for c in errors if c in reference}
    return _mean({c: _ratio(fmean(errors[c]) - clean, loss) for c, loss in lost.items() if loss > 0})


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _sizes(values: ByName) -> list[tuple[str, int]]:
    return [(name, name.count("+") + 1) for name, value in values.items() if not math.isnan(value)]


def _tallies(scores_by_site: Mapping[str, Scores], metric: str) -> dict[str, Tally]:
    return {site: scores[metric] for site, scores in scores_by_site.items() if metric in scores}


def _values(scores_by_site: Mapping[str, Scores], metric: str) -> dict[str, float]:
    values = {site: tally.value for site, tally in _tallies(scores_by_site, metric).items()}
    return {site: value for site, value in values.items() if not math.isnan(value)}


def _mean(values: ByName) -> float:
    return sum(values.values()) / len(values) if values else math.nan
