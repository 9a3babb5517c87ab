"""The whole way: read what is new, build whoever has changed, write down what there is.

What was read and built is in the journal piece by piece. So a run may be killed at any instant; the
next one goes on, and ends with the same bytes.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from imaging.annotations import Outline, is_annotation, outlines
from imaging.deidentify import deidentify
from imaging.dicom import failures, read_header
from imaging.ingest.admit import row
from imaging.ingest.build import Record
from imaging.ingest.desk import Desk
from imaging.ingest.journal import NOT_TAKEN, TABLE, FileRow, Journal, PutAside, opened_journal
from imaging.ingest.manifest import Manifest, write_manifest
from imaging.ingest.outlines import meaning
from imaging.ingest.tables import read_rows, sheet_of
from imaging.ingest.walk import Entry, opened, walk
from imaging.ingest.workers import Crew, hired
from imaging.quality import write_report
from imaging.reasons import Reason
from protocol.errors import DataError, DicomError, SettingsError

FILES_A_PIECE = 32
Watch = Callable[[str, int, int], None]
"""Told of progress: what is being done, how many of how many are."""


class Supply(Protocol):
    """What brings folders one after the other, each there only until the next is asked for."""

    def fetch(self, desk: Desk, journal: Journal, watch: Watch) -> Iterator[Path]:
        """Yield folders to read."""
        ...


@dataclass(frozen=True)
class Run:
    """What one run works with."""

    desk: Desk
    journal: Journal
    crew: Crew
    watch: Watch


def ingest(
    sources: Iterable[Path],
    desk: Desk,
    *,
    supplies: Iterable[Supply] = (),
    workers: int = 1,
    rebuild: bool = False,
    watch: Watch,
) -> Manifest:
    """Bring what lies under `sources`, and what `supplies` bring, into the cohort of `desk.folder`.

    `rebuild` makes every patient anew from the copies that are there. Returns the cohort's manifest.

    Raises:
        DataError: a source is not there.
        PacsError: an archive does not answer, or refuses.
        SettingsError: another run of this cohort is going on, or its folder cannot be written.
    """
    try:
        desk.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with opened_journal(desk.folder) as journal, hired(desk, workers) as crew:
            return _ingest(Run(desk, journal, crew, watch), sources, supplies, rebuild=rebuild)
    except OSError as error:  # without its path, which may be a patient's
        raise SettingsError(f"{desk.folder}: {error.strerror}: make room, and run it again") from None


def _ingest(run: Run, sources: Iterable[Path], supplies: Iterable[Supply], *, rebuild: bool) -> Manifest:
    desk, journal = run.desk, run.journal
    shutil.rmtree(desk.work, ignore_errors=True)
    desk.work.mkdir()
    _read(run, sources)
    for supply in supplies:
        for folder in supply.fetch(desk, journal, run.watch):
            _read(run, [folder])
    _build(run, rebuild=rebuild)
    shutil.rmtree(desk.work)
    records = journal.records()
    manifest = write_manifest(desk.folder, desk.method.plain(), records, journal.sheets())
    studies = sum(record["studies"] for record in records.values())
    put_aside = {**asides(records), **journal.unsent()}
    write_report(desk.folder, manifest, [*journal.files()], put_aside, studies)
    return manifest


def find(sources: Iterable[Path], desk: Desk, digest: str) -> str | None:
    """Return the path that a digest in a report stands for, if it is under `sources`."""
    return next((entry.name for entry in walk(sources) if desk.digest(entry) == digest), None)


def outlined(sources: Iterable[Path], desk: Desk) -> Counter[tuple[str, str, str]]:
    """Return (name, codes, what `segments` makes of it) -> files, of all that files under `sources` outline.

    Names are as people wrote them: for eyes at the hospital alone.
    """
    meant, found = desk.method.meant(desk.pseudonyms), Counter[tuple[str, str, str]]()
    with TemporaryDirectory() as work:
        for entry in walk(sources):
            with suppress(DicomError), opened(entry, Path(work)) as path:
                header = read_header(path)
                with failures(Reason.UNREADABLE):
                    clean = deidentify(header, desk.pseudonyms)[0] if is_annotation(header) else header
                    pairs = zip(outlines(header), outlines(clean), strict=True)
                    found.update({_becomes(said.label, kept, meant) for said, kept in pairs})
    return found


def _becomes(name: str, kept: Outline, meant: Mapping[str, tuple[str, int]]) -> tuple[str, str, str]:
    label_map, number = meaning(kept, meant) or ("", 0)
    return name, ", ".join(kept.codes), f"{label_map}, class {number}" if label_map else ""


# -- Reading ---------------------------------------------------------------------------------


def _read(run: Run, sources: Iterable[Path]) -> None:
    desk, journal = run.desk, run.journal
    tables, images = list[tuple[str, Entry]](), list[Entry]()
    for entry in walk(sources):
        sheet = sheet_of(entry, desk.method.settings.tables)
        if sheet is None and journal.knows(desk.digest(entry), entry):
            continue
        _forget(desk, journal, entry)
        images.append(entry) if sheet is None else tables.append((sheet, entry))
    journal.note([_table(desk, journal, sheet, entry) for sheet, entry in tables])
    done = 0
    for rows in run.crew.through("admit", images, FILES_A_PIECE):
        journal.note(FileRow(*row) for row in rows)
        done += len(rows)
        run.watch("reading", done, len(images))


def _forget(desk: Desk, journal: Journal, entry: Entry) -> None:
    """Remove the copy of a file as it was before: what it is now may be somebody else's, or nobody's."""
    row = journal.file(desk.digest(entry))
    if row is not None and row.patient:
        for copy in desk.clean(row.patient).glob(f"{row.digest}.*"):
            copy.unlink()


def _table(desk: Desk, journal: Journal, sheet: str, entry: Entry) -> FileRow:
    verdict, why = TABLE, ""
    if sheet not in desk.method.settings.tables:
        verdict, why = NOT_TAKEN, "a table of another name than `tables` in ingest.yaml lists"
    else:
        try:
            with opened(entry, desk.work) as path:
                journal.tell(sheet, read_rows(desk, entry, path))
        except DicomError as error:
            verdict, why = error.reason, str(error).partition(": ")[2]
        except DataError as error:
            verdict, why = NOT_TAKEN, str(error)
    return row(desk, entry, verdict, why)


# -- Building --------------------------------------------------------------------------------


def _build(run: Run, *, rebuild: bool) -> None:
    desk, journal = run.desk, run.journal
    known = sorted({*journal.patients(), *journal.records()})
    signatures = {patient: _signature(desk, journal.files(patient)) for patient in known}
    due = [each for each in known if rebuild or journal.signature(each) != signatures[each]]
    built = run.crew.through("build", due, 1)
    for done, (patient, (record,)) in enumerate(zip(due, built, strict=True), 1):
        journal.built(patient, signatures[patient], record)
        run.watch("building", done, len(due))


def _signature(desk: Desk, rows: Iterable[FileRow]) -> str:
    told = [desk.method.digest, *(f"{row.digest} {row.size} {row.stamp}" for row in rows)]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def asides(records: Mapping[str, Record]) -> dict[tuple[str, str], PutAside]:
    """Return what was put aside, and why -> how often, of how many patients, and which."""
    found: dict[tuple[str, str], PutAside] = {}
    for each in (each for record in records.values() for each in record["aside"]):
        key = each["what"], each["why"]
        count, patients, which = found.get(key, PutAside(0, 0))
        found[key] = PutAside(count + each["count"], patients + 1, (*which, *each["which"]))
    return found
