"""`consilium sim run` and `consilium run resume`: a federation on this machine, with progress."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from imaging.sources import SOURCES
from models.catalogue import MODELS
from models.objectives import OBJECTIVES
from protocol.recipe import Recipe, load_recipe
from server.app import sign
from server.cli import RunName, write_report
from server.folders import find_run
from server.record import Round, RunRecord, SiteRound, read_record
from server.scores import mean_over_sites
from sim.overlays import overlays
from sim.phantom import write_phantom
from sim.run import Launch, conduct, new_run
from strategies.catalogue import STRATEGIES

CATALOGUES = {"data": SOURCES, "model": MODELS, "objective": OBJECTIVES, "strategy": STRATEGIES}

sim = typer.Typer(help="Simulate a federation on this machine.", no_args_is_help=True)


@sim.command("run")
def start(
    recipe: Annotated[Path, typer.Argument(help="a recipe, e.g. recipes/lgg_seg.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="e.g. rounds=20 privacy.epsilon=8")] = None,
    *,
    data: Annotated[Path, typer.Option(help="folder of the data, all sites")],
    engine: Annotated[str, typer.Option(help="inprocess, processes or ray")] = "inprocess",
    out: Annotated[Path, typer.Option(help="where run folders go")] = Path("runs"),
    tracking: Annotated[str, typer.Option(help="MLflow URI; empty: SQLite in --out; off: none")] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads a site; 0: all cores")] = 0,
    policy: Annotated[str, typer.Option(help="file of what every site allows; empty: everything")] = "",
    key: Annotated[Path | None, typer.Option(help="private key that signs the recipe")] = None,
) -> None:
    """Train RECIPE over the sites found in the data folder."""
    loaded = load_recipe(recipe, overrides or [], CATALOGUES)
    folder = new_run(loaded, Launch(data, engine, tracking, device, threads, policy), out)
    if key is not None:
        sign(folder, loaded, key)
    follow(folder, loaded)


@sim.command()
def phantom(
    folder: Annotated[Path, typer.Argument(help="where to write it")],
    sites: int = 4,
    patients: int = 24,
    seed: int = 0,
    dicom: Annotated[Path | None, typer.Option(help="where to write it all as DICOM, too")] = None,
) -> None:
    """Write a synthetic multi-modal federation with known truth."""
    write_phantom(folder, sites=sites, patients=patients, seed=seed)
    if dicom is not None:
        from sim.phantom_dicom import write_archive  # noqa: PLC0415 - nobody else waits for pydicom
        from sim.phantom_outlines import write_outlines  # noqa: PLC0415

        write_archive(folder, dicom)
        write_outlines(folder, dicom)


def resume(
    run: RunName, out: Annotated[Path, typer.Option(help="where run folders are")] = Path("runs")
) -> None:
    """Go on with a simulated run after Ctrl-C or a kill, from its last checkpoint."""
    folder = find_run(out, run)
    follow(folder, load_recipe(folder / "recipe.yaml", (), CATALOGUES))


def follow(folder: Path, recipe: Recipe) -> None:
    """Run with a progress bar, then print the tables and write the report."""
    console = Console()
    console.print(
        f"run [bold]{folder.name}[/]: {recipe.name}, {recipe.all_rounds} rounds, {recipe.strategy.name}"
    )
    try:
        with bar(console) as progress:
            task = progress.add_task("meeting the sites", total=recipe.all_rounds)

            def watch(number: int, news: SiteRound | Round) -> None:
                if isinstance(news, Round):
                    progress.update(task, completed=number, description=headline(recipe, news))
                elif news.status != "accepted":
                    progress.console.print(f"round {number}: {news.site} {news.status}: {news.reason}")

            conduct(folder, recipe, watch)
    except KeyboardInterrupt:
        console.print(f"stopped; nothing is lost: consilium run resume {folder.name} --out {folder.parent}")
        raise
    record = read_record(folder)
    if record.early:
        console.print(f"ended early: {record.early}")
    console.print(subset_table(record, recipe))
    report = write_report(folder, overlays(folder, recipe))
    console.print(f"report: {report}")


def bar(console: Console) -> Progress:
    """Return a progress bar over rounds."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:g}/{task.total:g} rounds"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def headline(recipe: Recipe, ended: Round) -> str:
    """Say a round in a few words: its mean loss, and its validation score if it has one."""
    text = f"round {ended.number}"
    if losses := [site.loss for site in ended.sites if site.loss is not None]:
        text += f" loss {sum(losses) / len(losses):.3f}"
    if spent := [site.epsilon for site in ended.sites if site.epsilon is not None]:
        text += f" epsilon {max(spent):.2f}"
    if ended.scores and recipe.evaluation.select:
        text += f" {recipe.evaluation.select} {mean_over_sites(ended.scores, recipe.evaluation.select):.3f}"
    return text


def subset_table(record: RunRecord, recipe: Recipe) -> Table:
    """Return held-out scores by modality subset (rows) and site (columns)."""
    metric = recipe.evaluation.select
    sites = sorted(record.subsets)
    table = Table("modalities", *sites, "mean", title=f"held-out patients: {metric}")
    names = dict.fromkeys(subset for scores in record.subsets.values() for subset in scores)
    for subset in names:
        here = {s: record.subsets[s][subset] for s in sites if subset in record.subsets[s]}
        values = {s: scores[metric].value for s, scores in here.items() if metric in scores}
        cells = [f"{values[s]:.3f}" if s in values else "-" for s in sites]
        table.add_row(subset, *cells, f"{mean_over_sites(here, metric):.3f}" if values else "-")
    return table
