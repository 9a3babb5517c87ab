"""What this hospital allows, and the door that asks it before anything is read or trained.

The policy is one YAML file that the hospital edits; `client/policies/hospital.yaml` is a commented
one to begin with. What a file leaves out has the value that stands there, so forgetting a line
never opens anything. A site without a file, as in a simulation, allows everything (`OPEN`).

A task passes two doors, in this order:

    permit     what the task itself says: the recipe's text, its privacy numbers, device, hour, size.
               No file of the site has been touched.
    fits       what only the cohort can tell: enough patients, no group with too few contributors,
               a delta below one in so many patients. Nothing has been trained.

Whoever sends a recipe cannot weaken a number. What the recipe leaves to the site (`null`) the site
fills in, with the stricter of what the run needs and what the policy demands (`client.spending`). What
the recipe states and the policy forbids is refused, not corrected: a run in which a site silently does
something else than its recipe says is not that recipe's run.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from fnmatch import filter as fitting
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from client.limits import LARGEST_BYTES, too_large
from client.sampling import steps_a_round
from client.settings import Settings
from imaging.sources import SOURCES
from models.catalogue import MODELS, build_objectives
from models.objectives import OBJECTIVES
from privacy.keys import verified
from privacy.pace import pace, slots
from protocol.errors import PolicyError, PrivacyError, RecipeError
from protocol.messages import Task
from protocol.metrics import METRICS
from protocol.recipe import (
    SIGNED_FOR,
    Catalogue,
    Count,
    Hex,
    Inside,
    Natural,
    NotNegative,
    Positive,
    Recipe,
    Secure,
    check_parts,
    dump_recipe,
    parse_cached,
    read_plain,
    recipe_hash,
)
from protocol.stages import stages_of
from protocol.typed import Rule, one_of, record, unknown
from strategies.catalogue import STRATEGIES

CATALOGUES: Mapping[str, Catalogue] = {
    "data": SOURCES,
    "model": MODELS,
    "objective": OBJECTIVES,
    "strategy": STRATEGIES,
}

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _is_window(text: str) -> bool:
    try:
        start, end = map(time.fromisoformat, text.split("-"))
    except ValueError:
        return False
    return start.tzinfo is end.tzinfo is None


_WINDOW = Rule("such as 20:00-06:00", _is_window)

Window = Annotated[str, _WINDOW]
Day = Annotated[str, one_of(*DAYS)]
Patterns = tuple[str, ...]
"""Names, in which `*` stands for anything."""


@dataclass(frozen=True)
class Allowed:
    """Recipes whose every named part fits one of the patterns; what is left out fits anything."""

    name: Patterns = ("*",)
    data: Patterns = ("*",)
    model: Patterns = ("*",)
    strategy: Patterns = ("*",)
    objective: Patterns = ("*",)


@dataclass(frozen=True)
class Recipes:
    """A recipe is allowed by its hash, by a signature under its text, or by a rule: one is enough."""

    hashes: tuple[Hex, ...] = ()
    signers: tuple[Hex, ...] = ()
    rules: tuple[Allowed, ...] = ()


@dataclass(frozen=True)
class Floor:
    """The weakest privacy that the site accepts; null: no limit.

    `largest_epsilon_run` bounds what one run may cost a patient, `largest_epsilon_cohort` what all runs
    together may; both hold at a delta of at most `largest_delta`, which is also the delta of a recipe that
    names none.
    """

    required: bool = True
    least_noise_multiplier: NotNegative = 0.5
    largest_clip_norm: Positive | None = 100.0
    largest_epsilon_run: Positive | None = 4.0
    largest_epsilon_cohort: Positive | None = 8.0
    largest_delta: Inside | None = 1e-5

    def delta(self, recipe: Recipe, patients: int) -> float:
        """Return the recipe's delta, else the policy's, else a tenth of one in `patients`."""
        return recipe.privacy.delta or self.largest_delta or 1 / (10 * max(patients, 1))

    def budget(self, epsilon: float) -> float:
        """Return the strictest of a recipe's epsilon and what a run and a cohort may cost."""
        limits = (epsilon, self.largest_epsilon_run, self.largest_epsilon_cohort)
        return min(limit for limit in limits if limit is not None)


@dataclass(frozen=True)
class Sums:
    """What is asked of secure aggregation.

    `required`         an update leaves masked, or not at all
    `least_colluders`  where noise is split over the sites of a sum (`privacy.split`): so many of them may
                       tell the coordinator all they know, and epsilon holds; null: noise is not split
    """

    required: bool = False
    least_colluders: Count | None = None


@dataclass(frozen=True)
class Work:
    """The longest run that the machine is lent to; null: no limit. `largest_steps` are of one round."""

    largest_rounds: Count | None = 1_000
    largest_steps: Count | None = 10_000


@dataclass(frozen=True)
class Counts:
    """How many patients it takes, and how counts are told.

    `least_patients`      training patients, else the site takes no part
    `least_contributors`  training patients behind a group, else the group is not trained here
    `least_told`          a count of the cases of fewer patients is not told
    `told_in_steps_of`    counts are rounded to multiples of this, at least one
    """

    least_patients: Natural = 20
    least_contributors: Count = 5
    least_told: Count = 10
    told_in_steps_of: Count = 10

    def rounded(self, count: int) -> int:
        """Return the nearest multiple of the step that is not 0."""
        step = self.told_in_steps_of
        return max(1, (count + step // 2) // step) * step

    def tell(self, count: int, patients: int) -> int:
        """Return a count as it is told; 0 where too few patients are behind it."""
        return self.rounded(count) if patients >= max(self.least_told, 1) else 0


EXACT = Counts(least_patients=0, least_contributors=1, least_told=1, told_in_steps_of=1)


@dataclass(frozen=True)
class Leaves:
    """What may leave besides updates and counts.

    `metrics`               of the validation and test scores, as `head/metric`
    `scores_in_steps_of`    they are rounded so; null: exact. Kinds that are no mean stay then
    `loss`                  of training without privacy; with it, none leaves
    `largest_message_bytes` of a task or a reply
    """

    metrics: Patterns = ()
    scores_in_steps_of: Positive | None = 0.01
    loss: bool = False
    largest_message_bytes: Count | None = LARGEST_BYTES


@dataclass(frozen=True)
class Hours:
    """When training and evaluation may begin, by the clock of `zone`.

    A window past midnight belongs to the day on which it begins.
    """

    zone: str
    times: tuple[Window, ...]
    days: tuple[Day, ...] = DAYS


@dataclass(frozen=True)
class Policy:
    """All of it, see the module."""

    recipes: Recipes = field(default_factory=Recipes)
    privacy: Floor = field(default_factory=Floor)
    secure: Sums = field(default_factory=Sums)
    work: Work = field(default_factory=Work)
    counts: Counts = field(default_factory=Counts)
    leaves: Leaves = field(default_factory=Leaves)
    hours: Hours | None = None
    devices: Patterns = ("*",)


OPEN = Policy(
    Recipes(rules=(Allowed(),)),
    Floor(
        required=False,
        least_noise_multiplier=0.0,
        largest_clip_norm=None,
        largest_epsilon_run=None,
        largest_epsilon_cohort=None,
        largest_delta=None,
    ),
    Sums(least_colluders=1),
    Work(largest_rounds=None, largest_steps=None),
    EXACT,
    Leaves(metrics=("*",), scores_in_steps_of=None, loss=True, largest_message_bytes=None),
)
"""A site without a policy, as in a simulation: everything goes."""


# -- Reading it ----------------------------------------------------------------------------------


def read_policy(path: Path | None) -> Policy:
    """Read the policy as it stands now; no file is `OPEN`.

    Raises PolicyError with the key's path, what was expected and the nearest valid name: a policy
    that cannot be read allows nothing.
    """
    if path is None:
        return OPEN
    try:
        return parse_policy(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise PolicyError(f"this site's policy cannot be read ({reason}): it allows nothing") from error


@lru_cache(maxsize=16)
def parse_policy(text: str) -> Policy:
    """Read a policy from its text; PolicyError where it is none."""
    try:
        policy: Policy = record(read_plain(text, "policy") if text.strip() else {}, Policy, "")
        _check_names(policy)
    except RecipeError as error:
        raise PolicyError(f"this site's policy is wrong and allows nothing: {error}") from error
    return policy


def _check_names(policy: Policy) -> None:
    """Refuse a pattern that fits no name there is: a slip of the pen, not a choice."""
    for index, rule in enumerate(policy.recipes.rules):
        for kind, catalogue in CATALOGUES.items():
            for pattern in getattr(rule, kind):
                _fits_something(pattern, catalogue, f"recipes.rules[{index}].{kind}", kind)
    for pattern in policy.leaves.metrics:
        _fits_something(pattern.rpartition("/")[2], METRICS, "leaves.metrics", "metric")
    if policy.hours is not None:
        _zone(policy.hours.zone)


def _fits_something(pattern: str, names: Mapping[str, object], path: str, what: str) -> None:
    if not fitting(names, pattern):
        raise unknown(pattern, names, path, what=what)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise unknown(name, sorted(available_timezones()), "hours.zone", what="time zone") from None


# -- The first door: before anything is read -----------------------------------------------------


def permit(policy: Policy, settings: Settings, task: Task, now: datetime | None = None) -> None:
    """Raise PolicyError with every reason why the task as it was sent is refused."""
    reasons = [*objections(policy, task.recipe, task.signature), *_of_this_machine(policy, settings)]
    if task.kind != "describe" and policy.hours is not None:
        reasons += _closed(policy.hours, now or datetime.now(UTC))
    reasons.append(too_large(_bytes(task), policy.leaves.largest_message_bytes))
    if any(reasons):
        raise PolicyError("; ".join(filter(None, reasons)))


@lru_cache(maxsize=256)
def objections(policy: Policy, text: str, signature: str = "") -> tuple[str, ...]:
    """Return every reason why `policy` refuses the recipe in `text`, whoever's patients it is for.

    Raises RecipeError for what is no recipe: an unknown key, name or option, anything but data.
    """
    recipe = parse_cached(text)
    check_parts(recipe, CATALOGUES)
    weak = chain.from_iterable(_too_weak(policy.privacy, stage.recipe) for stage in stages_of(recipe))
    return (
        *_not_allowed(policy.recipes, recipe, signature),
        *dict.fromkeys(weak),
        *_too_open(policy.secure, recipe.secure),
        *_above("rounds", recipe.all_rounds, "work.largest_rounds", policy.work.largest_rounds),
    )


def _not_allowed(recipes: Recipes, recipe: Recipe, signature: str) -> Iterator[str]:
    by_rule = any(all(_fits(rule, stage.recipe) for stage in stages_of(recipe)) for rule in recipes.rules)
    if not (by_rule or recipe_hash(recipe) in recipes.hashes or _signed(recipes.signers, recipe, signature)):
        yield (
            f"recipes: '{recipe.name}' fits no rule, is not among the hashes ({recipe_hash(recipe)}), "
            "and is signed by none of the signers"
        )


def _fits(rule: Allowed, recipe: Recipe) -> bool:
    named = [
        (rule.name, recipe.name),
        (rule.data, recipe.data.name),
        (rule.model, recipe.model.name),
        (rule.strategy, recipe.strategy.name),
        *((rule.objective, head.objective.name) for head in recipe.heads.values()),
    ]
    return all(any(fnmatchcase(name, pattern) for pattern in patterns) for patterns, name in named)


def _signed(signers: tuple[str, ...], recipe: Recipe, signature: str) -> bool:
    try:
        signed = bytes.fromhex(signature)
    except ValueError:
        return False
    text = dump_recipe(recipe).encode()
    return any(verified(bytes.fromhex(key), SIGNED_FOR, text, signed) for key in signers)


def _too_weak(floor: Floor, recipe: Recipe) -> Iterator[str]:
    asked = recipe.privacy
    if asked.epsilon is None:
        if floor.required:
            yield "privacy.required: privacy.epsilon is null, and this site trains with privacy only"
        return
    yield from _above(
        "privacy.epsilon", asked.epsilon, "privacy.largest_epsilon_run", floor.largest_epsilon_run
    )
    yield from _above("privacy.delta", asked.delta, "privacy.largest_delta", floor.largest_delta)
    yield from _above(
        "privacy.clip_norm", asked.clip_norm, "privacy.largest_clip_norm", floor.largest_clip_norm
    )
    least, noise = floor.least_noise_multiplier, asked.noise_multiplier
    if noise is not None and noise < least:
        yield f"privacy.noise_multiplier: {noise:g} is below privacy.least_noise_multiplier {least:g}"
    try:
        build_objectives(recipe)
    except PrivacyError as error:  # an objective that couples patients
        yield str(error)


def _too_open(sums: Sums, asked: Secure) -> Iterator[str]:
    if sums.required and not asked.enabled:
        yield "secure.required: secure.enabled is false, and this site sends masked updates only"
    if asked.noise_over is None:
        return
    if sums.least_colluders is None:
        yield (
            "secure.least_colluders: null, this site counts on its own noise alone, and of secure.noise_over "
            f"{asked.noise_over} shares it would add one"
        )
    elif (most := asked.fewest - asked.noise_over) < sums.least_colluders:
        yield (
            f"secure.noise_over: {asked.noise_over} shares in sums of {asked.fewest} withstand {most} "
            f"colluding sites, below secure.least_colluders {sums.least_colluders}"
        )


def _above(key: str, asked: float | None, limit: str, most: float | None) -> Iterator[str]:
    if asked is not None and most is not None and asked > most:
        yield f"{key}: {asked:g} is above {limit} {most:g}"


def _of_this_machine(policy: Policy, settings: Settings) -> Iterator[str]:
    if not any(fnmatchcase(settings.device, pattern) for pattern in policy.devices):
        yield f"devices: '{settings.device}' is not among {', '.join(policy.devices)}"


def _closed(hours: Hours, now: datetime) -> list[str]:
    local = now.astimezone(ZoneInfo(hours.zone))
    if any(_within(local, window, hours.days) for window in hours.times):
        return []
    when = f"{', '.join(hours.times)} ({', '.join(hours.days)}; {hours.zone})"
    return [f"hours: it is {DAYS[local.weekday()]} {local:%H:%M}, allowed is {when}"]


def _within(local: datetime, window: str, days: tuple[str, ...]) -> bool:
    start, end = map(time.fromisoformat, window.split("-"))
    today, yesterday = DAYS[local.weekday()] in days, DAYS[local.weekday() - 1] in days
    if start < end:
        return today and start <= local.time() < end
    return (today and local.time() >= start) or (yesterday and local.time() < end)


def _bytes(task: Task) -> int:
    named = (task.vectors, *task.received.values())
    return sum(vector.nbytes for vectors in named for vector in vectors.values())


# -- The second door: before anything is trained -------------------------------------------------


def fits(
    policy: Policy, task: Task, recipe: Recipe, patients: int, owned: Collection[str], *, cases: int = 0
) -> None:
    """Raise PolicyError with every reason why this cohort does not do what is asked.

    `patients`: those to train on. `owned`: the groups that enough of them have. `cases`: theirs, one
    each where that is not known.
    """
    counts, reasons = policy.counts, list[str]()
    if patients < counts.least_patients or 0 < patients < counts.least_contributors:
        least = max(counts.least_patients, counts.least_contributors)
        reasons.append(f"counts.least_patients: this site has fewer than {least} patients to train on")
    if task.kind == "train" and (stray := sorted(task.vectors.keys() - set(owned))):
        reasons.append(
            f"counts.least_contributors: groups {stray} have fewer than {counts.least_contributors} "
            "training patients behind them here"
        )
    # Here, and not when it is priced: what affords a billion steps takes long to find out.
    steps = _steps(recipe, patients, max(cases, patients))
    reasons += _above("training", steps, "work.largest_steps", policy.work.largest_steps)
    delta = policy.privacy.delta(recipe, patients)
    if recipe.privacy.epsilon is not None and delta * patients > 1:
        reasons.append(f"privacy.delta: {delta:g} is more than one in this site's patients: an empty promise")
    if reasons:
        raise PolicyError("; ".join(reasons))


def _steps(recipe: Recipe, patients: int, cases: int) -> int:
    """Return the optimiser steps of a round; by correlated noise an event is an epoch of them."""
    if recipe.privacy.epsilon is None:
        return steps_a_round(recipe.training, cases)
    return pace(recipe, patients)[1] * max(slots(recipe, patients), 1)
