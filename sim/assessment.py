"""One model's robustness, from simulated sites to the files that hold it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from client.site import Site
from protocol.errors import DataError, SettingsError
from protocol.recipe import Recipe, recipe_hash
from server.app import environment
from server.estimates import Protocol, headlines, rows_of
from server.resampling import draws
from server.robustness import Replicates, Robustness, key, read, read_replicates
from sim.robustness import CLEAN, Shown, conditions, examined, protocol_of


@dataclass(frozen=True)
class Effort:
    """How exactly to look: `seed` of failures, corruptions and draws; how many draws of patients.

    `clean`: at clean scans alone, not at what failures and corruptions do to them.
    """

    seed: int = 0
    replicates: int = 1000
    clean: bool = False


@dataclass(frozen=True)
class Question:
    """What to ask of a model: `metric` as head/metric, and the folder of an evaluated reference, if any."""

    recipe: Recipe
    protocol: Protocol
    shown: tuple[Shown, ...]
    effort: Effort
    reference: Path | None


def question(recipe: Recipe, metric: str, effort: Effort, reference: Path | None = None) -> Question:
    """Return the protocol for a recipe's models.

    Raises `SettingsError` where the reference was not evaluated, or in another way.
    """
    protocol = protocol_of(recipe, metric)
    if reference is not None:
        asked = {"metric": protocol.metric, "seed": effort.seed, "replicates": effort.replicates}
        _check_alike(reference, asked)
    every = conditions(recipe, protocol)
    shown = tuple(each for each in every if not effort.clean or each.family in CLEAN)
    return Question(recipe, protocol, shown, effort, reference)


def assess(
    asked: Question, sites: Iterable[Site], model: str, parameters: str, watch: Callable[[], object]
) -> tuple[Robustness, Replicates]:
    """Return what was found, and every number for each draw.

    `watch` is called `len(asked.shown)` times a site. Raises `DataError` where nobody has a labelled test
    patient, and `SettingsError` where the reference was evaluated on other patients.
    """
    protocol, effort = asked.protocol, asked.effort
    samples, patients = examined(sites, asked.shown, protocol, effort.seed, watch)
    if not samples:
        raise DataError(
            f"no site has a test patient with a label for {protocol.metric}: check the data folder"
        )
    drawn = list(draws(patients, effort.replicates, effort.seed))
    told = [each for condition, seen in samples.items() for each in rows_of(condition, seen, drawn)]
    numbers = {key(row.family, row.level, row.metric): values for row, values in told}
    found = Robustness(
        model,
        recipe_hash(asked.recipe),
        protocol.metric,
        parameters,
        asked.reference.name if asked.reference else "",
        effort.seed,
        effort.replicates,
        patients,
        tuple(row for row, _ in told),
        {},
        datetime.now(UTC).isoformat(timespec="seconds"),
        environment().get("commit", "not known"),
    )
    theirs = _numbers_of(asked.reference, patients) if asked.reference else None
    return replace(found, headlines=headlines(protocol, found.rows, numbers, theirs)), numbers


def _numbers_of(reference: Path, patients: Mapping[str, int]) -> Replicates:
    _check_alike(reference, {"patients": patients})
    return read_replicates(reference)


def _check_alike(reference: Path, asked: Mapping[str, object]) -> None:
    found = read(reference)
    if found is None:
        raise SettingsError(
            f"{reference.name} was not evaluated: `consilium evaluate {reference.name}` first"
        )
    for name, ours in asked.items():
        if (theirs := getattr(found, name)) != ours:
            raise SettingsError(
                f"{reference.name} was evaluated with {name} {theirs}, this with {ours}: do both alike"
            )
