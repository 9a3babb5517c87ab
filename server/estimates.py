"""From single patients' scores to the rows and headlines of `server.robustness`.

    samples    condition -> site -> metric -> its tally for any draw of the patients
    draws      the data, then as many draws as wanted

Each number is computed from each draw by the functions that a report uses (`server.scores`).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protocol.metrics import subset_name, subsets_of
from server.resampling import Draw, Sample, interval, scores
from server.robustness import CHANCES, OWN, Estimate, Replicates, Row, by_pattern, key
from server.scores import (
    Errors,
    balanced_error,
    emm_average,
    emm_expectation,
    mean_over_sites,
    overall,
    relative_balanced_error,
    worst,
)

Values = NDArray[np.float64]
"""A number of the data and of each draw, `(1 + R,)`."""


class Condition(NamedTuple):
    """What the model was shown, see `server.robustness`."""

    family: str
    level: str


class Seen(NamedTuple):
    """A site's patients under a condition: how many of them it is possible for, and their scores."""

    patients: int
    sample: Sample


class Protocol(NamedTuple):
    """Which numbers to condense: the metric, the one whose complement is an error, and what may fail."""

    metric: str
    error: str
    modalities: tuple[str, ...]
    corruptions: tuple[str, ...]


def rows_of(
    condition: Condition, seen: Mapping[str, Seen], draws: Sequence[Mapping[str, Draw]]
) -> Iterable[tuple[Row, Values]]:
    """Yield a row for each metric that was measured, and its values over all patients."""
    samples = {site: each.sample for site, each in seen.items()}
    patients = sum(each.patients for each in seen.values())
    resampled = [scores(samples, draw) for draw in draws]
    for metric in dict.fromkeys(name for sample in samples.values() for name in sample):
        over = np.array([overall(told, metric) for told in resampled])
        mean = np.array([mean_over_sites(told, metric) for told in resampled])
        least = np.array([worst(told, metric)[1] for told in resampled])
        sites = {
            site: estimate(np.array([told[site][metric].value for told in resampled]))
            for site, sample in samples.items()
            if metric in sample
        }
        whole = {"overall": estimate(over), "mean": estimate(mean), "worst": estimate(least)}
        yield Row(condition.family, condition.level, metric, patients, **whole, sites=sites), over


def estimate(values: Values) -> Estimate:
    """Return the data's value with the interval of the draws."""
    return Estimate(float(values[0]), *interval(values[1:].tolist()))


def headlines(
    protocol: Protocol, rows: Iterable[Row], found: Replicates, reference: Replicates | None
) -> dict[str, Estimate]:
    """Return the headlines that could be computed, see `server.robustness.HEADLINES`."""
    told = {key(row.family, row.level, row.metric): row for row in rows}
    chosen = {"own": key(OWN, OWN, protocol.metric), "ece": key(OWN, OWN, ece_of(protocol.metric))}
    own = told[chosen["own"]]
    lines = {"own": own.overall, "mean over sites": own.mean, "worst site": own.worst}
    lines |= {name: told[k].overall for name, k in chosen.items() if k in told}
    lines |= {name: estimate(values) for name, values in condensed(protocol, found, reference).items()}
    return lines


def condensed(protocol: Protocol, found: Replicates, reference: Replicates | None) -> dict[str, Values]:
    """Return each headline that is an average over conditions, for the data and each draw."""
    names: dict[str, Values] = {}
    for family, title in _families(found).items():
        names |= _over_patterns(protocol, family, title, found)
    names |= {f"nm/{level}": v for level, v in _levels(found, "nm", protocol.metric).items()}
    if reference is not None:
        names |= _relative(protocol, found, reference)
    return names


def ece_of(metric: str) -> str:
    """Return the calibration error of the same head."""
    return f"{metric.rpartition('/')[0]}/ece"


def _families(found: Replicates) -> dict[str, str]:
    families = dict.fromkeys(name.partition("|")[0] for name in found)
    titles = {"declared": "emm", "zeroed": "emm_zeroed"}
    return {family: titles.get(family, family) for family in families if by_pattern(family)}


def _levels(found: Replicates, family: str, metric: str) -> dict[str, Values]:
    parts = {name: name.split("|") for name in found}
    return {level: found[n] for n, (f, level, m) in parts.items() if (f, m) == (family, metric)}


def _over_patterns(protocol: Protocol, family: str, title: str, found: Replicates) -> dict[str, Values]:
    """Average a failure over which modalities are left; nothing failed is `declared` with all left."""
    everything = subset_name(protocol.modalities)
    whole = _levels(found, "declared", protocol.metric)
    known = {n: v for n, v in whole.items() if n == everything} | _levels(found, family, protocol.metric)
    names = [n for n in map(subset_name, subsets_of(protocol.modalities)) if n in known]
    table = [dict(zip(names, column, strict=True)) for column in zip(*(known[n] for n in names), strict=True)]
    lines = {f"{title}/avg": np.array([emm_average(values) for values in table])}
    for p in CHANCES:
        expected = [emm_expectation(values, protocol.modalities, p) for values in table]
        lines[f"{title}/e_p{p:g}"] = np.array(expected)
    return lines


def _relative(protocol: Protocol, found: Replicates, reference: Replicates) -> dict[str, Values]:
    ours, theirs = (list(_errors(protocol, each)) for each in (found, reference))
    if not ours or not ours[0][0]:
        return {}
    both = list(zip(ours, theirs, strict=True))
    return {
        "be": np.array([balanced_error(mine[0], other[0]) for mine, other in both]),
        "rbe": np.array([relative_balanced_error(*mine, *other) for mine, other in both]),
    }


def _errors(protocol: Protocol, found: Replicates) -> Iterable[tuple[Errors, float]]:
    """Yield, for the data and each draw, corruption -> error at each severity, and the clean error."""
    clean = 1 - found[key(OWN, OWN, protocol.error)]
    levels = {c: list(_levels(found, c, protocol.error).values()) for c in protocol.corruptions}
    for at, error in enumerate(clean):
        yield {c: [1 - float(v[at]) for v in values] for c, values in levels.items() if values}, float(error)
