"""`consilium bench methods`: recipes against each other and against their controls, on simulated sites."""

import shlex
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from protocol import files
from protocol.errors import SettingsError
from protocol.recipe import Recipe, load_recipe
from server.book import Watch
from server.ranking import Line, forest, lines, markdown
from server.record import Round, SiteRound
from sim.assessment import Effort
from sim.cli import CATALOGUES
from sim.comparison import EARLY_FUSION, Cell, Controls, Found, Plan, compared, contenders

bench = typer.Typer(help="Compare methods.", no_args_is_help=True)

ABOUT = """\
Every method, its controls and every seed on the same data and the same test patients. All take their rounds,
optimiser, learning rate and batch from the recipe: nothing was tuned for this comparison, for any of them.
`pooled` has all training cases in one place, with as many steps as the largest site takes in the federation,
and with as many as all sites take. Early fusion is trained as the first recipe says.

An interval is of 95 % over draws of the test patients within their sites, of the mean over seeds; \u00b1 is
the standard deviation over seeds. The gain is over early fusion with zeros where a modality is absent, draw
by draw; `no gain measured` means that its interval holds 0, or that seeds disagree. Each case is seen with
the modalities that it has; `emm`, `rmm` and `nm` are scores when they fail, `be` is the error on corrupted
scans relative to early fusion, and `ece` the calibration error: `consilium evaluate` measures them.
"""

Trained = Mapping[str, Sequence[Found]]
"""Label -> what was found with each seed."""


@bench.command()
def methods(
    recipes: Annotated[list[Path], typer.Argument(help="recipes, e.g. recipes/phantom.yaml")],
    *,
    data: Annotated[list[str], typer.Option(help="NAME=FOLDER of a data set; may be repeated")],
    seeds: Annotated[str, typer.Option(help="e.g. 42,43,44")] = "42,43,44",
    out: Annotated[Path, typer.Option(help="where the runs go, and are found again")] = Path("runs/bench"),
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="override of all, rounds=5, or on a data set or of a recipe, NAME:rounds=5"
        ),
    ] = None,
    controls: Annotated[
        Controls, typer.Option(help="each recipe's, the first one's, or early fusion alone")
    ] = "each",
    replicates: Annotated[int, typer.Option(min=1, help="draws of patients, for the intervals")] = 1000,
    clean: Annotated[
        bool, typer.Option("--clean", help="score clean scans alone: failures and corruptions take long")
    ] = False,
    page: Annotated[
        Path | None, typer.Option(help="Markdown to write, plots beside; OUT/comparison.md")
    ] = None,
) -> None:
    """Train and evaluate each RECIPE and its controls; stopped, it goes on where it stood."""
    sets, numbers = [_named(each) for each in data], _seeds(seeds)
    changes = _scoped(change or [], {name for name, _ in sets}, {path.stem for path in recipes})
    loaded = {name: [_loaded(path, name, changes) for path in recipes] for name, _ in sets}
    metric = _metric(list(chain.from_iterable(loaded.values())))
    target, plan = page or out / "comparison.md", Plan(out, Effort(0, replicates, clean))
    words = ["consilium", "bench", "methods", *map(str, recipes), *(f"--data {each}" for each in data)]
    words += [
        f"--seeds {seeds}",
        f"--controls {controls}",
        f"--replicates {replicates}",
        *(["--clean"] if clean else []),
        *(f"--set {shlex.quote(c)}" for c in change or []),
    ]
    text = [f"# Methods compared\n\n```console\n{' '.join(words)}\n```\n\n{ABOUT}"]
    for name, folder in sets:
        wanted = contenders(loaded[name], folder, controls)
        found = _on(wanted, (name, folder), numbers, plan)
        text.append(_section(name, target, lines(found, metric, EARLY_FUSION), metric))
    files.write_text(target, "".join(text))
    typer.echo(f"comparison: {target}")


Scoped = Sequence[tuple[set[str], str]]
"""Overrides, each with the names of the data set and the recipe that it is meant for; none: all."""


def _scoped(changes: Sequence[str], sets: AbstractSet[str], recipes: AbstractSet[str]) -> Scoped:
    """Read `lgg:fedmema:strategy.server=DU` and the like."""
    scoped: list[tuple[set[str], str]] = []
    for change in changes:
        key, equals, value = change.partition("=")
        *names, key = key.split(":")
        if wrong := set(names) - (sets | recipes):
            raise SettingsError(
                f"--set {change[:60]!r}: '{min(wrong)}' is neither a data set nor a recipe here; "
                f"give one of {', '.join(sorted(sets | recipes))}"
            )
        if both := set(names) & sets & recipes:
            raise SettingsError(
                f"--set {change[:60]!r}: '{min(both)}' is a data set and a recipe; "
                "give the data set another name in --data"
            )
        scoped.append((set(names), key + equals + value))
    return scoped


def _loaded(path: Path, dataset: str, changes: Scoped) -> Recipe:
    overrides = [override for names, override in changes if names <= {dataset, path.stem}]
    return load_recipe(path, overrides, CATALOGUES)


def _on(wanted: Mapping[str, Recipe], dataset: tuple[str, Path], seeds: Sequence[int], plan: Plan) -> Trained:
    console = Console()
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console
    ) as progress:
        task = progress.add_task(dataset[0], total=len(wanted) * len(seeds))

        def watch(cell: Cell) -> Watch:
            progress.advance(task)

            def told(number: int, news: SiteRound | Round) -> None:
                del news
                about = f"{cell.dataset}, seed {cell.recipe.seed}: {cell.label}"
                progress.update(task, description=f"{about}, round {number} of {cell.recipe.all_rounds}")

            return told

        return compared(wanted, dataset, seeds, plan, watch)


def _section(name: str, target: Path, told: Sequence[Line], metric: str) -> str:
    plot = target.with_name(f"{target.stem}-{name}.svg")
    files.write_text(plot, forest(told, metric))
    return f"\n## {name}\n\n{markdown(told, metric)}\n![{metric} of each method]({plot.name})\n"


def _metric(recipes: Sequence[Recipe]) -> str:
    """Return what all of them are judged by."""
    metrics = {recipe.evaluation.select: recipe.name for recipe in recipes}
    if len(metrics) > 1:
        told = " and ".join(f"{name} by {metric}" for metric, name in metrics.items())
        raise SettingsError(f"{told} cannot be compared: give recipes that select by one metric")
    return recipes[0].evaluation.select


def _named(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name.isidentifier() and equals and folder):
        raise SettingsError(f"--data {text[:60]!r}: expected NAME=FOLDER")
    return name, Path(folder)


def _seeds(text: str) -> list[int]:
    if not all(each.strip().isdecimal() for each in text.split(",")):
        raise SettingsError(f"--seeds {text[:60]!r}: expected numbers, as in 42,43,44")
    return [int(each) for each in text.split(",")]
