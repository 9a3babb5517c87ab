"""What happened in a run, as data: the source of the report, the tracking run and the resume.

Scores are mergeable tallies (`protocol.metrics`), so that "over all sites" is computed
from sums and counts and never from a mean of means.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.metrics import Tally

Scores = Mapping[str, Tally]
"""`head/metric` -> tally, e.g. `tumour/dice`."""


@dataclass(frozen=True)
class SiteRound:
    """One site in one round: what was asked of it and what became of its answer."""

    site: str
    status: str  # accepted | refused | failed | late | spent (its privacy budget)
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


@dataclass(frozen=True)
class Round:
    """One ask-and-aggregate."""

    number: int
    sites: tuple[SiteRound, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)  # train, evaluate, checkpoint
    update_norm: float = 0.0
    scores: Mapping[str, Scores] = field(default_factory=dict)  # site -> validation scores


@dataclass(frozen=True)
class SiteSummary:
    """What a site tells of its cohort: counts, no patient.

    `patterns`: modalities present joined by '+' -> training cases; `patients`, `cases`:
    split name -> count; `labels`: head -> labelled training cases.
    """

    site: str
    patients: Mapping[str, int]
    cases: Mapping[str, int]
    patterns: Mapping[str, int]
    labels: Mapping[str, int]


@dataclass(frozen=True)
class RunRecord:
    """A whole run. `subsets`: site -> subset ('flair+t1') -> scores on its test cases."""

    run: str
    recipe: str  # canonical YAML text
    started: str  # ISO 8601, UTC
    sites: tuple[SiteSummary, ...]
    rounds: tuple[Round, ...] = ()
    subsets: Mapping[str, Mapping[str, Scores]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    status: str = "running"  # running | finished | stopped | failed
