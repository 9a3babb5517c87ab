"""What happened in a run, as data: the source of the report, the tracking run and the resume.

Scores are mergeable tallies (`protocol.metrics`), so that "over all sites" is computed
from sums and counts and never from a mean of means.

A record is JSON on disk: `record.json` (everything but, while the run goes on, its rounds)
and `rounds.jsonl` (a line as each round ends). A number that JSON cannot hold (a loss that
became NaN) is written as text, "nan", so that every reader accepts the file.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from protocol.errors import CheckpointError, UpdateError
from protocol.metrics import Tally

T = TypeVar("T")

LOG = "run.log"
CONDUCTOR = "conductor.lock"
"""In the run folder: held by the process that conducts the run (`protocol.claim`)."""

Scores = Mapping[str, Tally]
"""`head/metric` -> tally, e.g. `tumour/dice`."""


@dataclass(frozen=True)
class SiteRound:
    """One site in one round: what was asked of it and what became of its answer."""

    site: str
    status: str  # accepted | refused | failed | late | declined (its policy) | spent (its privacy budget)
    reason: str = ""
    cases: int = 0
    groups: tuple[str, ...] = ()
    loss: float | None = None
    seconds: float = 0.0
    bytes_down: int = 0
    bytes_up: int = 0
    epsilon: float | None = None  # spent so far by this run at the site, PRV
    epsilon_pld: float | None = None  # the same by the independent accountant
    delta: float | None = None
    noise_multiplier: float | None = None
    epsilon_alone: float | None = None  # where noise is split over sites: spent if no other site is honest


@dataclass(frozen=True)
class Round:
    """One ask-and-aggregate."""

    number: int
    sites: tuple[SiteRound, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)  # train, evaluate, checkpoint
    update_norm: float = 0.0
    scores: Mapping[str, Scores] = field(default_factory=dict)  # site -> validation scores
    releases: int = 0  # models that a strategy has noised so far, those of lost rounds included


@dataclass(frozen=True)
class SiteSummary:
    """What a site tells of its cohort: counts, no patient.

    `patterns`: modalities present joined by '+' -> training cases; `patients`, `cases`:
    split name -> count; `labels`: head -> labelled training cases; `leaves`: what leaves the site
    -> accounted, suppressed or declared; `declined`: why its policy keeps it out of the run;
    `version`: of Consilium there.
    """

    site: str
    patients: Mapping[str, int]
    cases: Mapping[str, int]
    patterns: Mapping[str, int]
    labels: Mapping[str, int]
    leaves: Mapping[str, str] = field(default_factory=dict)
    declined: str = ""
    version: str = ""


@dataclass(frozen=True)
class RunRecord:
    """A whole run. `subsets`: site -> subset ('flair+t1') -> scores on its test cases.

    `early`: why it is finished before its last round.
    """

    run: str
    recipe: str  # canonical YAML text
    started: str  # ISO 8601, UTC
    sites: tuple[SiteSummary, ...]
    rounds: tuple[Round, ...] = ()
    subsets: Mapping[str, Mapping[str, Scores]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    status: str = "running"  # running | finished | stopped | failed
    early: str = ""


def to_json(record: RunRecord) -> str:
    """Write a record as JSON text."""
    return json.dumps(_plain(record), indent=1, allow_nan=False)


def from_json(text: str) -> RunRecord:
    """Read what `to_json` wrote; `CheckpointError` when it is not that."""
    return _reading(text, "record", _record)


def round_to_json(ended: Round) -> str:
    """Write a round as one line of JSON."""
    return json.dumps(_plain(ended), allow_nan=False)


def round_from_json(line: str) -> Round:
    """Read what `round_to_json` wrote; `CheckpointError` when it is not that."""
    return _reading(line, "round", _round)


def read_record(folder: Path) -> RunRecord:
    """Read the record of the run in `folder`, with the rounds that have ended so far.

    Raises `CheckpointError` where no record was written yet, or none that can be read.
    """
    path = folder / "record.json"
    if not path.exists():
        raise CheckpointError(f"{folder} holds no record.json: the run has not met its sites yet")
    record = from_json(path.read_text(encoding="utf-8"))
    rounds = _rounds_so_far(folder / "rounds.jsonl")
    return replace(record, rounds=rounds) if len(rounds) > len(record.rounds) else record


def _rounds_so_far(path: Path) -> tuple[Round, ...]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    # What stands after the last line's end is a line that is just being written.
    return tuple(round_from_json(line) for line in text.split("\n")[:-1])


def _plain(thing: Any) -> Any:
    if isinstance(thing, float):  # first, since tallies make most of a record
        return thing if math.isfinite(thing) else str(thing)
    if isinstance(thing, tuple):
        return [_plain(value) for value in thing]
    if isinstance(thing, Mapping):
        return {key: _plain(value) for key, value in thing.items()}
    if is_dataclass(thing):
        return {each.name: _plain(getattr(thing, each.name)) for each in fields(thing)}
    return thing


_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, UpdateError)


def _reading(text: str, what: str, read: Callable[[Any], T]) -> T:
    try:
        return read(json.loads(text))
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{what} is damaged ({type(error).__name__}: {error}): restore it from a backup"
        ) from error


def _record(plain: Any) -> RunRecord:
    return RunRecord(
        run=str(plain["run"]),
        recipe=str(plain["recipe"]),
        started=str(plain["started"]),
        sites=tuple(_summary(site) for site in plain["sites"]),
        rounds=tuple(_round(each) for each in plain["rounds"]),
        subsets={site: _by_name(_scores)(scores) for site, scores in plain["subsets"].items()},
        environment=_by_name(str)(plain["environment"]),
        status=str(plain["status"]),
        early=str(plain.get("early", "")),
    )


def _round(plain: Any) -> Round:
    return Round(
        number=int(plain["number"]),
        sites=tuple(_site_round(site) for site in plain["sites"]),
        seconds=_by_name(float)(plain["seconds"]),
        update_norm=float(plain["update_norm"]),
        scores=_by_name(_scores)(plain["scores"]),
        releases=int(plain.get("releases", 0)),
    )


def _site_round(plain: Any) -> SiteRound:
    numbers = ("loss", "epsilon", "epsilon_pld", "delta", "noise_multiplier")
    told = {name: None if plain[name] is None else float(plain[name]) for name in numbers}
    alone = plain.get("epsilon_alone")  # not in records of earlier versions
    return SiteRound(
        site=str(plain["site"]),
        status=str(plain["status"]),
        reason=str(plain["reason"]),
        cases=int(plain["cases"]),
        groups=tuple(str(group) for group in plain["groups"]),
        seconds=float(plain["seconds"]),
        bytes_down=int(plain["bytes_down"]),
        bytes_up=int(plain["bytes_up"]),
        epsilon_alone=None if alone is None else float(alone),
        **told,
    )


def _summary(plain: Any) -> SiteSummary:
    counts = {name: _by_name(int)(plain[name]) for name in ("patients", "cases", "patterns", "labels")}
    leaves = _by_name(str)(plain.get("leaves", {}))
    declined, version = (str(plain.get(name, "")) for name in ("declined", "version"))
    return SiteSummary(str(plain["site"]), **counts, leaves=leaves, declined=declined, version=version)


def _scores(plain: Any) -> Scores:
    return {name: Tally(str(told["kind"]), tuple(map(float, told["sums"]))) for name, told in plain.items()}


def _by_name(read: Callable[[Any], T]) -> Callable[[Any], dict[str, T]]:
    return lambda plain: {str(name): read(value) for name, value in plain.items()}
