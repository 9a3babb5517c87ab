"""`consilium site ingest SOURCE... --cohort NAME`: from an archive's export to a cohort.

It may be stopped at any time and called again: what was read is not read again. What becomes of the files
is `imaging.ingest`; how, is told by the home's `ingest.yaml` and `blackenings.yaml`, where there are any.
"""

import os
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from client.enrol_cli import HERE, Home
from client.home import SiteHome
from imaging.ingest.desk import Desk
from imaging.ingest.manifest import Manifest
from imaging.ingest.run import Watch, find, outlined
from imaging.ingest.run import ingest as bring
from imaging.quality import NAME as REPORT
from protocol.errors import DataError
from protocol.recipe import Title
from protocol.typed import fit


def ingest(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="folders and zip files")],
    cohort: Annotated[str, typer.Option(help="name of the cohort; one that is there grows")],
    *,
    home: Home = HERE,
    data: Annotated[Path | None, typer.Option(help="folder of the cohorts; by default the home's")] = None,
    settings: Annotated[Path | None, typer.Option(help="by default the home's ingest.yaml")] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes; by default one a CPU")] = os.cpu_count()
    or 1,
    rebuild: Annotated[bool, typer.Option(help="make every patient anew from the copies")] = False,
    digest: Annotated[str, typer.Option("--find", help="only say which file a digest stands for")] = "",
    outlines: Annotated[bool, typer.Option(help="only list what outlines are called in the sources")] = False,
) -> None:
    """Read DICOM, NIfTI and tables of labels, de-identify them, and make a cohort ready for training."""
    desk = _desk(SiteHome(home), data, cohort, settings)
    if digest:
        typer.echo(_found(sources, desk, digest))
        return
    console = Console()
    if outlines:
        console.print(_outlined(sources, desk))
        return
    with _bar(console) as watch:
        manifest = bring(sources, desk, workers=workers, rebuild=rebuild, watch=watch)
    console.print(_summary(manifest))
    console.print(f"cohort '{cohort}', version {manifest['version']}; look at {desk.folder / REPORT}")


def _desk(home: SiteHome, data: Path | None, cohort: str, settings: Path | None) -> Desk:
    fit(cohort, Title, "--cohort")
    method, blackenings = settings or home.if_there(home.ingest), home.if_there(home.blackenings)
    folder = ((data or home.cohorts) / cohort).resolve()
    return Desk.at(str(folder), str(home.pseudonyms), _text(method), _text(blackenings))


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _found(sources: list[Path], desk: Desk, digest: str) -> str:
    name = find(sources, desk, digest)
    if name is None:
        raise DataError("no file of that digest under these sources: give those that it was read from")
    return name.replace("\0", ": ")


def _outlined(sources: list[Path], desk: Desk) -> Table:
    table = Table("called", "codes", "becomes", "files")
    for told, files in sorted(outlined(sources, desk).items()):
        table.add_row(*map(escape, told), str(files))
    return table


def _summary(manifest: Manifest) -> Table:
    patients = manifest["patients"].values()
    counted = Counter(name for record in patients for name in record["scans"]["volumes"])
    table = Table("scan or label map", "patients")
    for name, count in sorted(counted.items()):
        table.add_row(name, f"{count} of {len(patients)}")
    return table


@contextmanager
def _bar(console: Console) -> Generator[Watch]:
    """Show a bar for each thing that is done."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        tasks = {what: progress.add_task(what, total=None) for what in ("reading", "building")}

        def watch(what: str, done: int, total: int) -> None:
            progress.update(tasks[what], completed=done, total=total)

        yield watch
