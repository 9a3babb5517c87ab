"""`consilium site ingest SOURCE... --cohort NAME`: from an archive's export to a cohort.

It may be stopped at any time and called again: what was read is not read again. What becomes of the files
is `imaging.ingest`; how, is told by the home's `ingest.yaml` and `blackenings.yaml`, where there are any.

From a PACS that `pacs.yaml` describes, the studies that the options name are fetched (`imaging.pacs`).
Patients' numbers come in files, for what stands on a command line every user of the machine can read.
"""

import os
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from client.enrol_cli import HERE, Home
from client.home import SiteHome
from imaging.ingest.desk import Desk
from imaging.ingest.manifest import Manifest
from imaging.ingest.run import Watch, find, outlined
from imaging.ingest.run import ingest as bring
from imaging.pacs.asked import MODALITIES, Asked, distinct, read_list
from imaging.pacs.fetch import Source
from imaging.pacs.settings import chosen
from imaging.quality import NAME as REPORT
from protocol.errors import DataError
from protocol.recipe import Title
from protocol.typed import fit

PACS = "pacs:"
DAYS = ["%Y-%m-%d"]
Wanted = tuple[list[str], datetime | None, datetime | None, Path | None, Path | None]
"""The options of the same names: modalities, first and last day, lists of patients and accession numbers."""


def ingest(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="folders, zip files, and pacs:NAME of pacs.yaml")
    ],
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
    modality: Annotated[list[str], typer.Option(help="from a PACS: MR, CT, ...; by default all of use")] = [],  # noqa: B006
    since: Annotated[
        datetime | None, typer.Option(formats=DAYS, help="from a PACS: studies from then on")
    ] = None,
    until: Annotated[datetime | None, typer.Option(formats=DAYS, help="from a PACS: and up to then")] = None,
    patients: Annotated[
        Path | None, typer.Option(help="from a PACS: a file of their numbers, one a line")
    ] = None,
    accessions: Annotated[Path | None, typer.Option(help="from a PACS: a file of accession numbers")] = None,
) -> None:
    """Read scans, tables and reports, de-identify them, and make a cohort ready for training."""
    here = SiteHome(home)
    desk = _desk(here, data, cohort, settings)
    folders, supplies = _places(here, sources, (modality, since, until, patients, accessions))
    if digest:
        typer.echo(_found(folders, supplies, desk, digest))
        return
    console = Console()
    if outlines:
        console.print(_outlined(folders, desk))
        return
    with _bar(console) as watch:
        manifest = bring(folders, desk, supplies=supplies, workers=workers, rebuild=rebuild, watch=watch)
    console.print(_summary(manifest))
    console.print(f"cohort '{cohort}', version {manifest['version']}; look at {desk.folder / REPORT}")


def _desk(home: SiteHome, data: Path | None, cohort: str, settings: Path | None) -> Desk:
    fit(cohort, Title, "--cohort")
    method, blackenings = settings or home.if_there(home.ingest), home.if_there(home.blackenings)
    folder = ((data or home.cohorts) / cohort).resolve()
    return Desk.at(str(folder), str(home.pseudonyms), _text(method), _text(blackenings))


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _places(home: SiteHome, sources: list[str], wanted: Wanted) -> tuple[list[Path], list[Source]]:
    """Return the folders and zip files among the sources, and the archives with what is asked of them."""
    names = [source.removeprefix(PACS) for source in sources if source.startswith(PACS)]
    if not names and any(wanted):
        raise DataError(
            "--modality, --since, --until, --patients, --accessions: for a source pacs:NAME alone"
        )
    supplies = [Source(chosen(home.pacs, name), _asked(*wanted)) for name in names]
    return [Path(source) for source in sources if not source.startswith(PACS)], supplies


def _asked(
    modality: list[str],
    since: datetime | None,
    until: datetime | None,
    patients: Path | None,
    accessions: Path | None,
) -> Asked:
    return Asked(
        distinct(modality) or MODALITIES,
        since and since.date(),
        until and until.date(),
        read_list(patients) if patients else (),
        read_list(accessions) if accessions else (),
    )


def _found(folders: list[Path], supplies: list[Source], desk: Desk, digest: str) -> str:
    places = [
        lambda: find(folders, desk, digest),
        *(partial(supply.find, desk, digest) for supply in supplies),
    ]
    name = next((found for place in places if (found := place()) is not None), None)
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
        tasks = dict[str, TaskID]()

        def watch(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what)
            progress.update(tasks[what], completed=done, total=total)

        yield watch
