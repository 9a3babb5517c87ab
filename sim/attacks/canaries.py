"""A lower bound of epsilon, measured in one run: the one-run audit by canaries.

    Steinke, Nasr, Jagielski: Privacy Auditing with One (1) Training Run. NeurIPS 2023.

    1. of m canaries each takes part by a fair coin
    2. the run is made, once; the auditor sees what is released
    3. the auditor says of r canaries, those it is surest of, whether they took part; v times rightly

If the run were (epsilon, delta)-DP, v would be bounded (theorem 5.2): with W ~ Binomial(r, q),
q = e^epsilon / (1 + e^epsilon),

    P[v or more right] <= P[W >= v] + 2 m delta max over i = 1..v of P[v > W >= v - i] / i

The largest epsilon that this rejects at 5 % is the lower bound. It is a bound on what *this* attack
tells with this many canaries, not an estimate of epsilon: with m = 1,000 it never exceeds 5.8.

A canary is a patient with a mark of its own: a direction of the gradient in which nobody else has
anything (a Dirac canary), so large that the clipped gradient is the mark alone. It has the greatest
influence that clipping allows, in the place where it is seen best. The canaries are patients of a
made-up hospital, and what trains is the site's own loop (`client.training`): its draw of patients,
its model, its clipping over all parameters, its noise. The auditor watches every step, which is
all that differential privacy allows an adversary to see, and more than a coordinator is sent.

For a mark's coordinate x_t (in clip norms) of step t, noise sigma and sampling rate p, the log
likelihood ratio of taking part is exact:

    L = sum over t of log(1 - p + p exp((x_t - 1/2) / sigma^2))

The guess is L's sign, for the r canaries with the largest |L|. How many to guess is decided before the
run, from the noise, the rate and the steps alone: the r whose expected bound is largest in an
imagined honest run, where a guess is right with chance 1 / (1 + e^-|L|).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from scipy.optimize import brentq  # pyright: ignore[reportMissingTypeStubs]
from scipy.stats import binom  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor, nn

from client.sampling import seeded
from client.site import Site
from client.spending import Spending
from client.training import private, trained, walk
from models.base import MultiModal
from models.flat import Flat
from models.masking import Seen
from models.objectives import Objective
from privacy.accounting import Event, epsilon
from protocol.batch import Batch
from protocol.groups import head_group
from protocol.recipe import Head, Part, Recipe
from sim.attacks import hospital

CANARIES = 1000
CONFIDENCE = 0.95
DELTA = 1e-5
"""At which the claim is tested: a delta near 1 / canaries would excuse any number of right guesses."""
BYSTANDERS = 8
"""Ordinary patients, who train beside the canaries and lend them their scans."""

_MARK = "canary"
_LOUD = 1e4
"""Length of a canary's gradient along its mark, thousands of times an ordinary patient's."""
_QUIET = 0.02
"""Without noise the ratio is infinite; this stands for zero."""
_TRIES = 40
_MOST = 60.0

Watch = Callable[[], object]
"""Called after every step."""


@dataclass(frozen=True)
class Measured:
    """What the auditor said and what follows; `claim` is the accountant's epsilon at `DELTA`."""

    canaries: int
    guesses: int
    right: int
    bound: float
    claim: float


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Return the most chance that an (epsilon, delta)-DP run has of `right` or more right guesses."""
    chance = 1 / (1 + math.exp(-epsilon))
    above = float(binom.sf(right - 1, guesses, chance))
    below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, chance))
    slope = float((below / np.arange(1, right + 1)).max()) if right else 0.0
    return min(1.0, above + 2 * canaries * delta * slope)


def lower_bound(
    canaries: int, guesses: int, right: int, delta: float, confidence: float = CONFIDENCE
) -> float:
    """Return the largest epsilon that `right` of `guesses` refute at `confidence`; 0 if none."""
    level = 1 - confidence

    def excess(epsilon: float) -> float:
        return p_value(canaries, guesses, right, epsilon, delta) - level

    if excess(0.0) >= 0:
        return 0.0
    return max(0.0, cast("float", brentq(excess, 0.0, _MOST, xtol=1e-6)) - 1e-6)


def measure(
    recipe: Recipe, event: Event, seed: int, canaries: int = CANARIES, watch: Watch = lambda: None
) -> Measured:
    """Audit `event.steps` private steps of the recipe's own model; `seed` draws who takes part."""
    generator = torch.Generator().manual_seed(seed)
    joined = torch.rand(canaries, generator=generator) < 0.5  # noqa: PLR2004 - a fair coin
    marks = observed(_clinic(recipe, joined, seed), event, watch)
    certain = ratios(marks, event)
    guesses = how_many(event, canaries)
    surest = certain.abs().argsort(descending=True, stable=True)[:guesses]
    right = int(((certain[surest] > 0) == joined[surest]).sum())
    bound = lower_bound(canaries, guesses, right, DELTA)
    return Measured(canaries, guesses, right, bound, epsilon([event], DELTA))


def observed(site: Site, event: Event, watch: Watch) -> Tensor:
    """Train, and return every step's released coordinates of the marks in clip norms, `(steps, m)`."""
    patients = list(site.rows.split(1))
    expected = event.sampling_rate * len(patients)
    seen: list[Tensor] = []

    def look(group: str, grad: Tensor, here: Tensor) -> None:
        del here
        if group == head_group(_MARK):
            seen.append(grad.double() * expected / site.recipe.privacy.clip_norm)
            watch()

    spending = Spending(event, DELTA, expected, patients)
    walk(site, trained(site), private(site, spending), look)
    return torch.stack(seen)


def ratios(marks: Tensor, event: Event) -> Tensor:
    """Return each mark's log likelihood ratio of taking part, `(steps, m)` -> `(m,)`."""
    rate, variance = event.sampling_rate, max(event.noise_multiplier, _QUIET) ** 2
    drawn = (marks - 0.5) / variance + math.log(rate)
    passed = torch.full_like(drawn, math.log1p(-rate) if rate < 1 else -math.inf)
    return torch.logaddexp(drawn, passed).sum(0)


def how_many(event: Event, canaries: int) -> int:
    """Return how many guesses to make after `event`; it follows from the arguments alone."""
    generator = seeded("an imagined run")
    joined = torch.rand(canaries, generator=generator) < 0.5  # noqa: PLR2004 - a fair coin
    shape = event.steps, canaries
    drawn = torch.rand(shape, generator=generator) < event.sampling_rate
    noise = torch.randn(shape, generator=generator, dtype=torch.float64) * event.noise_multiplier
    return best_number(ratios(noise + (drawn & joined), event).abs())


def best_number(certainty: Tensor) -> int:
    """Return how many of the surest guesses promise the largest bound, from the |L| `(m,)` of a run."""
    total = len(certainty)
    expected = certainty.sort(descending=True).values.sigmoid().cumsum(0)
    numbers = sorted({max(1, round(total ** (k / _TRIES))) for k in range(_TRIES + 1)})
    return max(numbers, key=lambda r: lower_bound(total, r, int(expected[r - 1]), DELTA))


class _Marked(MultiModal):
    """The recipe's model beside one parameter a canary, which every case reads."""

    def __init__(self, model: MultiModal, canaries: int) -> None:
        super().__init__(model.modalities)
        self.model = model
        self.marks = nn.ModuleDict({head_group(_MARK): nn.Linear(1, canaries, bias=False)})

    def predict(self, seen: dict[str, Seen]) -> dict[str, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows = next(iter(seen.values())).x
        marks = self.marks[head_group(_MARK)](rows.new_ones(len(rows), 1))
        return self.model.predict(seen) | {_MARK: marks}

    def pretext(self, seen: dict[str, Seen], draw: Tensor) -> dict[str, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.model.pretext(seen, draw)

    @property
    def told(self) -> tuple[str, ...]:
        return self.model.told

    def tell(self, batch: Batch) -> dict[str, Tensor]:
        return self.model.tell(batch)


def _clinic(recipe: Recipe, joined: Tensor, seed: int) -> Site:
    """A hospital of bystanders and of the canaries that `joined` `(m,)`."""
    plain = hospital.hospital(recipe, hospital.cases(recipe, BYSTANDERS, seed))
    heads = {**recipe.heads, _MARK: Head("survival", objective=Part("exponential"))}
    objectives = {**plain.objectives, _MARK: Objective(_along_the_mark, "case")}
    flat = Flat(_Marked(plain.flat.model, len(joined)))
    site = replace(plain, recipe=replace(recipe, heads=heads), flat=flat, objectives=objectives)
    site = replace(site, owned=dict.fromkeys(flat.vectors, 1))
    return hospital.treating(site, _patients(plain.cohort.cases, joined))


def _patients(bystanders: Batch, joined: Tensor) -> Batch:
    own = torch.eye(len(joined))[joined]
    scans = torch.arange(len(own)) % len(bystanders)
    batch = bystanders.map(lambda x: torch.cat([x, x[scans]]))
    marks = torch.cat([torch.zeros(len(bystanders), len(joined)), own])
    marked = torch.arange(len(marks)) >= len(bystanders)
    return replace(batch, targets={**batch.targets, _MARK: marks}, labelled={**batch.labelled, _MARK: marked})


def _along_the_mark(logits: Tensor, mark: Tensor) -> Tensor:
    return _LOUD * (logits * mark).sum(1)
