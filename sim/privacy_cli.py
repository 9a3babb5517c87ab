"""`consilium privacy plan|audit|key`: what privacy will cost, what attacks find, and who signs a recipe."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from client.policy import Floor, read_policy
from client.spending import by_stage, history
from imaging.sources import list_sites, read_cohort
from privacy import accounting
from privacy.accounting import Event
from privacy.keys import make_signer
from privacy.ledger import History
from privacy.statement import ADJACENCY, UNIT
from protocol.errors import BudgetError, SettingsError
from protocol.recipe import Recipe, load_recipe
from protocol.stages import Stage
from sim.cli import CATALOGUES
from sim.evidence_cli import audit

privacy = typer.Typer(help="What privacy costs, and what attacks find.", no_args_is_help=True)
privacy.command("audit")(audit)

BUDGETS = (0.25, 0.5, 1.0, 2.0)
LENGTHS = (0.5, 1.0, 2.0)
"""The trade-off is shown at these multiples of the asked epsilon and of the recipe's rounds."""


@dataclass(frozen=True)
class Cohort:
    """One site's training patients, what they have paid before, and the least its policy accepts."""

    patients: int
    spent: tuple[Event, ...]
    floor: Floor

    def prices(self, recipe: Recipe) -> list[tuple[Stage, History, Event, float]]:
        """Return what each stage costs (`by_stage`); [] where no noise affords all rounds."""
        try:
            return list(by_stage(recipe, self.floor, self.patients, self.spent))
        except BudgetError:
            return []


@privacy.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="a recipe, e.g. recipes/lgg_seg.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="e.g. rounds=20 training.batch=8")] = None,
    *,
    epsilon: Annotated[float, typer.Option(help="the most that a patient may pay")],
    data: Annotated[Path | None, typer.Option(help="folder of the data, all sites")] = None,
    patients: Annotated[str, typer.Option(help="instead: training patients, as north=120,south=80")] = "",
    ledger: Annotated[
        list[str] | None,
        typer.Option(help="SITE=STATE_FOLDER: what was spent before counts into --epsilon there"),
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="file of what every site allows")] = None,
) -> None:
    """Show noise and steps at each site, and what other epsilons and numbers of rounds would need."""
    loaded = load_recipe(recipe, [*(overrides or []), f"privacy.epsilon={epsilon}"], CATALOGUES)
    floor = read_policy(policy).privacy
    spent = {site: history(Path(folder)) for site, folder in map(_pair, ledger or [])}
    cohorts = {n: Cohort(count, spent.get(n, ()), floor) for n, count in _counted(loaded, data, patients)}
    if stray := sorted(spent.keys() - cohorts.keys()):
        raise SettingsError(f"--ledger names {stray}, the sites are {', '.join(cohorts)}")
    console = Console()
    console.print(site_table(loaded, cohorts))
    for site, cohort in cohorts.items():
        console.print(trade_off(loaded, site, cohort))
    console.print(f"Unit: one {UNIT}. Adjacency: {ADJACENCY}. Noise in multiples of the clip norm.")


@privacy.command()
def key(file: Annotated[Path, typer.Argument(help="a private key; made if it is not there")]) -> None:
    """Print the public half of a key, as hospitals write it under `signers` in their policy."""
    typer.echo(make_signer(file).public.hex())


def site_table(recipe: Recipe, cohorts: Mapping[str, Cohort]) -> Table:
    """Return a row a site and stage: how often a patient is drawn, the noise, and epsilon as it grows.

    The noise of the mean gradient is the noise multiplier over the patients in a step: below 1 the
    gradient of patients who agree stands out of it.
    """
    table = Table(
        "site",
        "patients",
        "rounds",
        "a step sees",
        "steps",
        "delta",
        "noise multiplier",
        "noise of the mean",
        "epsilon before",
        "after its first round",
        "after its last",
        title=f"{recipe.name}: epsilon {recipe.privacy.epsilon:g} over {recipe.all_rounds} rounds",
    )
    for site, cohort in cohorts.items():
        for cells in _costs(recipe, cohort):
            table.add_row(site, str(cohort.patients), *cells)
    return table


def trade_off(recipe: Recipe, site: str, cohort: Cohort) -> Table:
    """Return the noise multiplier that each epsilon (rows) needs for each number of rounds (columns).

    Stages keep their parts of both; each has a noise multiplier of its own.
    """
    lengths = {scaled(recipe, 1.0, times).all_rounds: times for times in sorted(LENGTHS)}
    table = Table(f"{site}: noise for epsilon", *(f"{n} rounds" for n in lengths))
    for times in BUDGETS:
        prices = [cohort.prices(scaled(recipe, times, length)) for length in lengths.values()]
        cells = [", ".join(f"{price[2].noise_multiplier:.3f}" for price in each) or "none" for each in prices]
        table.add_row(f"{(recipe.privacy.epsilon or 0.0) * times:g}", *cells)
    return table


def scaled(recipe: Recipe, budget: float, length: float) -> Recipe:
    """Return the recipe with every stage's epsilon and rounds multiplied, and the noise left to the sites."""

    def more(epsilon: float | None) -> float | None:
        return None if epsilon is None else epsilon * budget

    def rounds(number: int) -> int:
        return max(1, round(number * length))

    stages = [replace(each, rounds=rounds(each.rounds), epsilon=more(each.epsilon)) for each in recipe.stages]
    privacy = replace(recipe.privacy, epsilon=more(recipe.privacy.epsilon), noise_multiplier=None)
    return replace(recipe, rounds=rounds(recipe.rounds), privacy=privacy, stages=tuple(stages))


def _costs(recipe: Recipe, cohort: Cohort) -> Iterator[Sequence[str]]:
    prices = cohort.prices(recipe)
    if not prices:
        yield ["no noise affords this: fewer rounds, more patients in the cohort, or a larger epsilon"]
    for stage, before, event, delta in prices:
        rounds, seen = stage.recipe.rounds, event.sampling_rate * cohort.patients
        steps = [replace(event, steps=event.steps * number) for number in (0, 1, rounds)]
        yield (
            f"{stage.first}-{stage.last} {stage.name}".strip(),
            f"{seen:.3g}",
            str(event.steps * rounds),
            f"{delta:.2g}",
            f"{event.noise_multiplier:.4f}",
            f"{event.noise_multiplier / seen:.3f}",
            *(f"{accounting.epsilon([*before, each], delta):.3f}" for each in steps),
        )


def _counted(recipe: Recipe, data: Path | None, patients: str) -> Iterable[tuple[str, int]]:
    if (data is None) == (not patients):
        raise SettingsError("give either --data FOLDER or --patients north=120,south=80")
    if data is None:
        return [(site, _whole(count)) for site, count in map(_pair, patients.split(","))]
    cohorts = ((site, read_cohort(data, recipe, site)) for site in list_sites(data, recipe))
    return [(site, cohort.patients_in(cohort.rows("train"))) for site, cohort in cohorts]


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise SettingsError(f"{text[:60]!r}: expected a site and a value, as in north=120")
    return name.strip(), value


def _whole(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise SettingsError(f"{text[:60]!r}: expected a number of patients, 1 or more")
    return int(text)
