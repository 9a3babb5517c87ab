"""`consilium site policy new|check|explain`: a hospital looks at a recipe before anybody trains."""

from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from client.egress import statement
from client.home import HOSPITAL
from client.policy import CATALOGUES, Policy, fits, permit, read_policy
from client.settings import Settings
from client.spending import by_stage, caps, history
from imaging.cohort import Cohort, contributed
from imaging.sources import read_cohort
from privacy.accounting import Event, alone, epsilon
from privacy.statement import ADJACENCY, UNIT
from protocol.errors import BudgetError, PolicyError, SettingsError
from protocol.messages import Task
from protocol.recipe import Recipe, dump_recipe, load_recipe, recipe_hash
from protocol.stages import Stage

policy = typer.Typer(help="What this hospital allows.", no_args_is_help=True)

RecipeFile = Annotated[Path, typer.Argument(help="a recipe, e.g. recipes/lgg_seg.yaml")]
Overrides = Annotated[list[str] | None, typer.Argument(help="e.g. rounds=20 privacy.epsilon=8")]
PolicyFile = Annotated[Path, typer.Option("--policy", help="this hospital's policy")]
Data = Annotated[Path | None, typer.Option(help="folder of this hospital's data")]
Patients = Annotated[int, typer.Option(help="training patients, where the data are not at hand")]
Device = Annotated[str, typer.Option(help="where the site would train: cpu, cuda, cuda:1")]
Signed = Annotated[Path | None, typer.Option("--signature", help="file with a signature of the recipe")]
State = Annotated[Path | None, typer.Option(help="the site's state folder, with its ledger")]


@policy.command()
def new(file: Annotated[Path, typer.Argument(help="where to write it")]) -> None:
    """Write a commented policy to begin with: strict, and no recipe allowed yet."""
    if file.exists():
        raise SettingsError(f"{file} is there already: edit it, or name another file")
    file.write_text(HOSPITAL.read_text(encoding="utf-8"), encoding="utf-8")
    typer.echo(f"{file}: now say under `recipes` what may be trained here")


@dataclass(frozen=True)
class Question:
    """A recipe, and what this hospital is: `patients` None and `cohort` None where it is not told.

    `spent`: what the ledger counts; `reasons`: why the recipe is refused.
    """

    recipe: Recipe
    here: Policy
    cohort: Cohort | None
    patients: int | None
    spent: tuple[Event, ...]
    reasons: list[str]


def _about_a_recipe(answer: Callable[[Question], None]) -> Callable[[Question], None]:
    """Make a command of `answer`: all that look at a recipe take the same words."""

    @policy.command(answer.__name__, help=answer.__doc__)
    def command(
        recipe: RecipeFile,
        overrides: Overrides = None,
        *,
        rules: PolicyFile,
        data: Data = None,
        patients: Patients = 0,
        device: Device = "cpu",
        signature: Signed = None,
        state: State = None,
    ) -> None:
        loaded, here = load_recipe(recipe, overrides or [], CATALOGUES), read_policy(rules)
        cohort = None if data is None else _cohort(data, loaded, here)
        known = patients or None if cohort is None else _patients(cohort)
        spent = history(state) if state else ()
        reasons = refusals(here, loaded, known, device=device, signature=_read(signature), spent=spent)
        answer(Question(loaded, here, cohort, known, spent, reasons))

    del command
    return answer


@_about_a_recipe
def check(asked: Question) -> None:
    """Say whether RECIPE would be allowed here; exit status 45 and the reasons if not."""
    typer.echo(f"{asked.recipe.name}: hash {recipe_hash(asked.recipe)}")
    if asked.reasons:
        raise PolicyError("; ".join(asked.reasons))
    typer.echo(
        "allowed" if asked.patients is not None else "allowed, if the cohort is large enough: see --data"
    )


@_about_a_recipe
def explain(asked: Question) -> None:
    """Show what RECIPE would cost a patient here, what would leave, and why it is refused if it is."""
    console, recipe, here = Console(), asked.recipe, asked.here
    if recipe.privacy.epsilon is None:
        console.print("no differential privacy: an update may reveal single patients")
    elif asked.patients:
        for table in price_tables(recipe, here, asked.patients, asked.spent):
            console.print(table)
    if asked.cohort is not None:
        console.print(group_table(asked.cohort, recipe, here))
    console.print(_rows("what leaves", *statement(here, recipe).items()))
    for reason in asked.reasons:
        console.print(f"refused: {reason}", style="red", markup=False)
    if not asked.reasons:
        console.print("allowed")


def refusals(
    here: Policy,
    recipe: Recipe,
    patients: int | None,
    *,
    device: str,
    signature: str,
    spent: tuple[Event, ...] = (),
) -> list[str]:
    """Return every reason why a site with this policy would refuse, whatever the hour.

    `patients` None: not known, and nothing that depends on the cohort is looked at.
    """
    task = Task("describe", "", 0, dump_recipe(recipe), signature=signature)
    reasons: list[str] = []
    try:
        permit(here, Settings("here", Path(), Path(), device=device), task)
    except PolicyError as error:
        reasons.append(str(error))
    if patients is not None:
        try:
            fits(here, task, recipe, patients, ())
        except PolicyError as error:
            reasons.append(str(error))
    if patients and recipe.privacy.epsilon is not None:
        reasons += too_dear(here, recipe, patients, spent)
    return reasons


def too_dear(here: Policy, recipe: Recipe, patients: int, spent: tuple[Event, ...]) -> Iterator[str]:
    """Yield why this site would drop out before the recipe's last round."""
    try:
        for stage, before, event, delta in by_stage(recipe, here.privacy, patients, spent):
            for key, cap in caps(stage.recipe, here.privacy, delta).items():
                paid = before[len(spent) :] if cap.of_run else before
                number = first_refused(event, delta, stage.recipe.rounds, cap.epsilon, paid)
                if number <= stage.recipe.rounds:
                    place = f"{stage.first - 1 + number} of {recipe.all_rounds}"
                    yield f"{key}: {cap.epsilon:g} is used up before round {place}"
    except BudgetError as error:
        yield str(error)


def first_refused(event: Event, delta: float, rounds: int, limit: float, spent: tuple[Event, ...]) -> int:
    """Return the first of `rounds` that would exceed `limit`; one more than there are if none does."""

    def exceeds(number: int) -> bool:
        return epsilon([*spent, replace(event, steps=event.steps * number)], delta) > limit

    return 1 + bisect(range(1, rounds + 1), False, key=exceeds)


def price_tables(recipe: Recipe, here: Policy, patients: int, spent: tuple[Event, ...]) -> Iterator[Table]:
    """Yield what each stage costs one of `patients`, of whom the ledger says `spent`."""
    try:
        for stage, before, event, delta in by_stage(recipe, here.privacy, patients, spent):
            yield price_table(stage, here, patients, before, event, delta)
    except BudgetError:
        yield _rows(f"what one {UNIT} pays", ("no noise affords it", f"{recipe.all_rounds} rounds"))


def price_table(  # noqa: PLR0917 - one row of `by_stage`, and for whom
    stage: Stage, here: Policy, patients: int, spent: tuple[Event, ...], event: Event, delta: float
) -> Table:
    """Return what a stage costs one of `patients` who have `spent`; an ordinary run is one stage."""
    recipe = stage.recipe
    run = replace(event, steps=event.steps * recipe.rounds)
    limits = {key: f"{cap.epsilon:g}" for key, cap in caps(recipe, here.privacy, delta).items()}
    return _rows(
        f"what one {UNIT} pays" + (f" for {stage.name}" if stage.name else ""),
        ("training patients", str(patients)),
        ("chance to be in a step", f"{event.sampling_rate:.4g}"),
        ("steps in a round, rounds", f"{event.steps}, {recipe.rounds}"),
        ("noise multiplier", f"{event.noise_multiplier:.4g}"),
        ("delta", f"{delta:.3g}"),
        ("epsilon of a round", f"{epsilon([event], delta):.3f}"),
        ("epsilon of the run", f"{epsilon([run], delta):.3f}"),
        ("epsilon so far, all runs", f"{epsilon(spent, delta):.3f}"),
        ("epsilon after it, all runs", f"{epsilon([*spent, run], delta):.3f}"),
        *((f"at most, {key}", limit) for key, limit in limits.items()),
        *_alone(run, delta),
        ("adjacency", ADJACENCY),
    )


def _alone(run: Event, delta: float) -> Iterator[tuple[str, str]]:
    """Yield what the promise rests on where noise is split over sites."""
    if run.shares > 1:
        yield "all of it with so many honest sites", str(run.shares)
        yield "epsilon of the run, no other site honest", f"{epsilon(alone([run]), delta):.3f}"


def group_table(cohort: Cohort, recipe: Recipe, here: Policy) -> Table:
    """Return which groups of parameters this cohort would train, and the counts that would be told."""
    owned = cohort.counts("train")
    absent = [f"modality:{name}" for name in recipe.modalities] + [f"head:{name}" for name in recipe.heads]
    rows = [(group, f"counts as {here.counts.rounded(count)} cases") for group, count in owned.items()]
    rows += [(group, "not trained here: too few patients") for group in absent if group not in owned]
    return _rows("what is trained", *rows)


def _cohort(data: Path, recipe: Recipe, here: Policy) -> Cohort:
    return contributed(read_cohort(data, recipe, None), here.counts.least_contributors)


def _patients(cohort: Cohort) -> int:
    return cohort.patients_in(cohort.rows("train"))


def _read(signature: Path | None) -> str:
    return "" if signature is None else signature.read_text(encoding="utf-8").strip()


def _rows(title: str, *rows: tuple[str, str]) -> Table:
    table = Table(title, "")
    for row in rows:
        table.add_row(*row)
    return table
