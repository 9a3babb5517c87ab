"""How a model holds out: its scores under every failure and corruption, with intervals, as data.

    robustness.json          all of it, for programs and for the report
    robustness.csv           the same numbers, a line each
    robustness.safetensors   every number once more for each draw of patients (`server.resampling`): what
                             differences between models, and errors relative to a reference, come from

A row is one metric under one condition. A condition has a family and a level:

    own          own                      each case with the modalities that it has
    declared     flair+t1, ...            only these of its modalities are there, and the model is told
    zeroed       flair+t1, ...            the others are zeros, and it is not told
    rmm0.5       flair+t1, ...            half of the others' values are zeros
    nm           low, mid, high           noise in all images at once
    blur, ...    1 to 5                   a corruption of all images (`models.corruptions`), by severity

Headlines condense them; `HEADLINES` says how.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from protocol import files
from protocol.errors import CheckpointError

FILE, TABLE, REPLICATES = "robustness.json", "robustness.csv", "robustness.safetensors"
OWN = "own"
CHANCES = (0.2, 0.1, 0.05)
"""Chances to lose a modality, as the paper's."""

Replicates = Mapping[str, NDArray[np.float64]]
"""`key(...)` -> the value over all sites' patients, `(1 + R,)`: of the data, then of each draw."""


class Estimate(NamedTuple):
    """A value and its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One metric under one condition: over all patients, mean over sites, worst site, and by site."""

    family: str
    level: str
    metric: str
    patients: int
    overall: Estimate
    mean: Estimate
    worst: Estimate
    sites: Mapping[str, Estimate]


@dataclass(frozen=True)
class Robustness:
    """A model's results. `metric` is what the protocol is about, `patients` are those of the test split."""

    model: str
    recipe: str  # its hash
    metric: str
    parameters: str  # final or best
    reference: str  # what BE and rBE are relative to; "" for nothing
    seed: int
    replicates: int
    patients: Mapping[str, int]
    rows: tuple[Row, ...]
    headlines: Mapping[str, Estimate]
    made: str  # ISO 8601, UTC
    commit: str


HEADLINES = {
    "own": "Each case with the modalities that it has, all sites' patients together.",
    "mean over sites": "The same, every site counting the same.",
    "worst site": "The same, of the site that is served worst.",
    "ece": "Expected calibration error, of the same predictions.",
    "emm": "Entire-missing-modality, over what is left of the modalities. avg: every pattern counts alike; "
    "e_p: expected if each modality is lost with chance p by itself. The model is told what is missing.",
    "emm_zeroed": "The same where lost modalities are zeros and the model is not told, as in the paper.",
    "rmm": "Random-missing-modality: of the lost modalities each value is zero with the chance named.",
    "nm": "Noisy modality: salt and pepper, then white noise, in all images at once.",
    "be": "Balanced error under corruption, relative to the reference model: mean over corruptions of the "
    "mean over severities. 1 is the reference, less is better.",
    "rbe": "The same for the error that corruption adds to that of clean images.",
}
"""A headline's name up to `/` or a number -> what it is."""


def by_pattern(family: str) -> bool:
    """Say whether a family's levels are what is left of the modalities."""
    return family in ("declared", "zeroed") or family.startswith("rmm")


def key(family: str, level: str, metric: str) -> str:
    """Return the name of a number among `Replicates`."""
    return f"{family}|{level}|{metric}"


def write(folder: Path, found: Robustness, replicates: Replicates) -> None:
    """Write the three files into `folder`."""
    files.write(folder / REPLICATES, save(dict(replicates)))
    files.write(folder / TABLE, to_csv(found).encode())
    files.write(folder / FILE, to_json(found).encode())


def read(folder: Path) -> Robustness | None:
    """Return what was found of the model in `folder`, None if nobody has looked."""
    path = folder / FILE
    return from_json(path.read_text(encoding="utf-8")) if path.exists() else None


def read_replicates(folder: Path) -> Replicates:
    """Return the numbers for each draw of patients; `CheckpointError` where they are not there or damaged."""
    try:
        return load((folder / REPLICATES).read_bytes())
    except (OSError, SafetensorError) as error:
        msg = f"{folder / REPLICATES} cannot be read ({error}): make it with `consilium evaluate`"
        raise CheckpointError(msg) from error


def logged(found: Robustness) -> dict[str, float]:
    """Return the headlines as metrics of a tracking store."""
    return {f"robustness/{name}": e.value for name, e in found.headlines.items() if math.isfinite(e.value)}


def to_csv(found: Robustness) -> str:
    """Write every number as a line: condition, metric, over whom, value and interval, patients."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("family", "level", "metric", "over", "value", "low", "high", "patients"))
    writer.writerows(_lines(found))
    return text.getvalue()


def _lines(found: Robustness) -> Iterator[Sequence[object]]:
    for name, estimate in found.headlines.items():
        yield "headline", name, found.metric, "", *estimate, ""
    for row in found.rows:
        over = {
            "all patients": row.overall,
            "mean over sites": row.mean,
            "worst site": row.worst,
            **row.sites,
        }
        for whom, estimate in over.items():
            yield row.family, row.level, row.metric, whom, *estimate, row.patients


def to_json(found: Robustness) -> str:
    """Write the results as JSON text; a number that does not exist is null."""
    return json.dumps(_plain(asdict(found)), indent=1, allow_nan=False)


def from_json(text: str) -> Robustness:
    """Read what `to_json` wrote; `CheckpointError` when it is not that."""
    try:
        plain = json.loads(text)
        told = {
            n: str(plain[n])
            for n in ("model", "recipe", "metric", "parameters", "reference", "made", "commit")
        }
        return Robustness(
            **told,
            seed=int(plain["seed"]),
            replicates=int(plain["replicates"]),
            patients={str(site): int(count) for site, count in plain["patients"].items()},
            rows=tuple(_row(row) for row in plain["rows"]),
            headlines=_estimates(plain["headlines"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        msg = f"{FILE} is damaged ({error!r}): make it anew with `consilium evaluate`"
        raise CheckpointError(msg) from error


def _plain(thing: Any) -> Any:
    if isinstance(thing, float):
        return thing if math.isfinite(thing) else None
    if isinstance(thing, Mapping):
        return {name: _plain(value) for name, value in thing.items()}
    return [_plain(value) for value in thing] if isinstance(thing, list | tuple) else thing


def _row(plain: Mapping[str, Any]) -> Row:
    return Row(
        str(plain["family"]),
        str(plain["level"]),
        str(plain["metric"]),
        int(plain["patients"]),
        overall=_estimate(plain["overall"]),
        mean=_estimate(plain["mean"]),
        worst=_estimate(plain["worst"]),
        sites=_estimates(plain["sites"]),
    )


def _estimates(plain: Mapping[str, Any]) -> dict[str, Estimate]:
    return {str(name): _estimate(each) for name, each in plain.items()}


def _estimate(plain: Sequence[float | None]) -> Estimate:
    return Estimate(*(math.nan if number is None else float(number) for number in plain))
