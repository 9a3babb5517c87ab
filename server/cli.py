"""`consilium run list|show|compare` and `consilium report`: reading what runs left behind.

Everything comes from the run folders, so these commands work where no tracking store does,
and on a run that is going on or was killed.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from protocol.errors import CheckpointError
from protocol.recipe import Recipe, parse_cached, recipe_hash
from server.evidence import read_evidence
from server.folders import find_run, run_folders
from server.record import RunRecord, Scores, read_record
from server.report import Overlay, render
from server.robustness import read as read_robustness
from server.scores import mean_over_sites
from server.tracking import flatten

RunName = Annotated[str, typer.Argument(help="a run's name, or enough of its beginning to mean one run")]
Out = Annotated[Path, typer.Option(help="where run folders are")]

RUNS = Path("runs")
FILES = (
    "recipe.yaml",
    "record.json",
    "rounds.jsonl",
    "checkpoints",
    "best.safetensors",
    "report.html",
    "model-card.md",
    "audit.json",
    "robustness.json",
    "robustness.csv",
)

runs = typer.Typer(help="Look at runs, compare them, go on with one.", no_args_is_help=True)


@runs.command("list")
def list_runs(out: Out = RUNS) -> None:
    """List the runs, oldest first: how far, how good, how private."""
    folders = run_folders(out)
    if not folders:
        typer.echo(f"no runs in {out} yet: start one with `consilium sim run RECIPE --data FOLDER`")
        return
    table = Table("run", "recipe", "status", "rounds", "validation", "epsilon")
    for folder in folders:
        table.add_row(folder.name, *_row(folder))
    Console().print(table)


@runs.command()
def show(run: RunName, out: Out = RUNS) -> None:
    """Show one run: what was asked, how it went, where its files are."""
    folder = find_run(out, run)
    record, recipe = _open(folder)
    facts = Table("", folder.name)
    for name, value in _facts(record, recipe):
        facts.add_row(name, value)
    facts.add_section()
    for name in FILES:
        if (folder / name).exists():
            facts.add_row(name, str(folder / name))
    console = Console()
    console.print(facts)
    console.print(_sites(record, recipe))


@runs.command()
def compare(names: Annotated[list[str], typer.Argument(metavar="RUN...")], out: Out = RUNS) -> None:
    """Put runs side by side: the recipe's keys in which they differ, then their scores."""
    folders = [find_run(out, name) for name in names]
    records = [_open(folder)[0] for folder in folders]
    recipes = [dict(flatten(yaml.safe_load(record.recipe))) for record in records]
    table = Table("", *(folder.name for folder in folders))
    for key in _union(recipes):
        values = ["-" if key not in recipe else str(recipe[key]) for recipe in recipes]
        if len(set(values)) > 1:
            table.add_row(key, *values)
    table.add_section()
    scores = [final_scores(record) for record in records]
    for key in _union(scores):
        table.add_row(key, *(_number(score.get(key, math.nan)) for score in scores))
    Console().print(table)


def report(run: RunName, out: Out = RUNS) -> None:
    """Write a run's report anew and say where it is."""
    typer.echo(f"report: {write_report(find_run(out, run))}")


def write_report(folder: Path, overlays: Sequence[Overlay] = ()) -> Path:
    """Write `report.html` of the run in `folder` and return its path.

    `overlays` are (caption, PNG); they stay in the folder, so that a later report has them too.
    """
    if overlays:
        _keep(folder / "overlays", overlays)
    record, recipe = _open(folder)
    path = folder / "report.html"
    page = render(record, recipe, _kept(folder / "overlays"), read_evidence(folder), read_robustness(folder))
    path.write_text(page, encoding="utf-8")
    return path


def final_scores(record: RunRecord) -> dict[str, float]:
    """Return what a run came to, as means over sites: its last validation, then every subset held out."""
    scored = last_scores(record)
    values = {f"validation {m}": mean_over_sites(scored, m) for m in _union(scored.values())}
    for subset in _union(record.subsets.values()):
        here = {site: told[subset] for site, told in record.subsets.items() if subset in told}
        values |= {f"held-out {subset} {m}": mean_over_sites(here, m) for m in _union(here.values())}
    spent = _epsilon(record)
    return values if spent is None else values | {"epsilon spent, most at a site": spent}


def last_scores(record: RunRecord) -> Mapping[str, Scores]:
    """Return site -> validation scores of the last round that has any."""
    return next((ended.scores for ended in reversed(record.rounds) if ended.scores), {})


def _open(folder: Path) -> tuple[RunRecord, Recipe]:
    record = read_record(folder)
    return record, parse_cached(record.recipe)


def _row(folder: Path) -> tuple[str, str, str, str, str]:
    try:
        record, recipe = _open(folder)
    except CheckpointError:
        return "-", "no readable record", "-", "-", "-"
    select = recipe.evaluation.select
    score = f"{select} {_number(mean_over_sites(last_scores(record), select))}" if select else "-"
    rounds = f"{len(record.rounds)}/{recipe.all_rounds}"
    return recipe.name, _status(record), rounds, score, _spent(record)


def _facts(record: RunRecord, recipe: Recipe) -> Iterator[tuple[str, str]]:
    yield "recipe", f"{recipe.name} ({recipe_hash(recipe)[:12]})"
    yield "status", _status(record)
    yield "started", record.started
    yield "rounds", f"{len(record.rounds)} of {recipe.all_rounds}"
    if record.early:
        yield "ended early", record.early
    yield "strategy, model", f"{recipe.strategy.name}, {recipe.model.name}"
    yield "modalities", ", ".join(recipe.modalities)
    yield "epsilon, most at a site", _spent(record)
    yield from ((name, _number(value)) for name, value in final_scores(record).items())


def _sites(record: RunRecord, recipe: Recipe) -> Table:
    scores, select = last_scores(record), recipe.evaluation.select
    table = Table("site", "training cases", "modalities -> cases", f"validation {select}")
    for site in record.sites:
        patterns = ", ".join(f"{pattern} {count}" for pattern, count in site.patterns.items())
        tally = scores.get(site.site, {}).get(select)
        value = _number(tally.value) if tally else "-"
        table.add_row(site.site, str(site.cases.get("train", 0)), patterns, value)
    return table


def _status(record: RunRecord) -> str:
    # A killed run cannot write down that it was.
    return "going on or killed" if record.status == "running" else record.status


def _epsilon(record: RunRecord) -> float | None:
    spent = [s.epsilon for ended in record.rounds for s in ended.sites if s.epsilon is not None]
    return max(spent, default=None)


def _spent(record: RunRecord) -> str:
    spent = _epsilon(record)
    return "no privacy" if spent is None else f"{spent:.2f}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _union(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    """All keys, in the order of their first appearance."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _keep(folder: Path, overlays: Sequence[Overlay]) -> None:
    folder.mkdir(exist_ok=True)
    captions = {f"{index:03d}.png": caption for index, (caption, _) in enumerate(overlays)}
    for name, (_, png) in zip(captions, overlays, strict=True):
        (folder / name).write_bytes(png)
    (folder / "captions.json").write_text(json.dumps(captions, indent=1), encoding="utf-8")


def _kept(folder: Path) -> list[Overlay]:
    listed = folder / "captions.json"
    captions: dict[str, str] = json.loads(listed.read_text(encoding="utf-8")) if listed.exists() else {}
    return [(caption, (folder / name).read_bytes()) for name, caption in captions.items()]
