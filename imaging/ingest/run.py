"""The whole way: read what is new, build whoever has changed, write down what there is.

What was read and built is in the journal piece by piece. So a run may be killed at any instant; the
next one goes on, and ends with the same bytes.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from imaging.annotations import Outline, is_annotation, outlines
from imaging.deidentify import deidentify
from imaging.dicom import failures, read_header
from imaging.ingest.admit import row
from imaging.ingest.build import Record
from imaging.ingest.desk import Desk
from imaging.ingest.journal import NOT_TAKEN, TABLE, FileRow, Journal, opened_journal
from imaging.ingest.manifest import Manifest, write_manifest
from imaging.ingest.outlines import meaning
from imaging.ingest.tables import read_table
from imaging.ingest.walk import Entry, opened, walk
from imaging.ingest.workers import through
from imaging.quality import write_report
from imaging.reasons import Reason
from protocol.errors import DataError, DicomError, SettingsError

FILES_A_PIECE = 32
Watch = Callable[[str, int, int], None]
"""Told of progress: what is being done, how many of how many are."""


def ingest(
    sources: Iterable[Path], desk: Desk, *, workers: int = 1, rebuild: bool = False, watch: Watch
) -> Manifest:
    """Bring what lies under `sources` into the cohort of `desk.folder`; return its manifest.

    `rebuild` makes every patient anew from the copies that are there.

    Raises:
        DataError: a source is not there.
        SettingsError: another run of this cohort is going on, or its folder cannot be written.
    """
    try:
        return _ingest(sources, desk, workers, watch, rebuild=rebuild)
    except OSError as error:  # without its path, which may be a patient's
        raise SettingsError(f"{desk.folder}: {error.strerror}: make room, and run it again") from None


def _ingest(sources: Iterable[Path], desk: Desk, workers: int, watch: Watch, *, rebuild: bool) -> Manifest:
    desk.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with opened_journal(desk.folder) as journal:
        shutil.rmtree(desk.work, ignore_errors=True)
        desk.work.mkdir()
        _read(desk, journal, sources, workers, watch)
        _build(desk, journal, workers, watch, rebuild=rebuild)
        shutil.rmtree(desk.work)
        records = journal.records()
        manifest = write_manifest(desk.folder, desk.method.plain(), records, journal.sheets())
        write_report(desk.folder, manifest, [*journal.files()], asides(records))
    return manifest


def is_table(entry: Entry) -> bool:
    """Tell a table by its name."""
    return entry.parts[-1].lower().endswith(".csv")


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


def _read(desk: Desk, journal: Journal, sources: Iterable[Path], workers: int, watch: Watch) -> None:
    new = [entry for entry in walk(sources) if not journal.knows(desk.digest(entry), entry)]
    tables, images = [e for e in new if is_table(e)], [e for e in new if not is_table(e)]
    for entry in new:
        _forget(desk, journal, entry)
    journal.note([_table(desk, journal, entry) for entry in tables])
    done = 0
    for rows in through(desk, workers, "admit", images, FILES_A_PIECE):
        journal.note(FileRow(*row) for row in rows)
        done += len(rows)
        watch("reading", done, len(images))


def _forget(desk: Desk, journal: Journal, entry: Entry) -> None:
    """Remove the copy of a file as it was before: what it is now may be somebody else's, or nobody's."""
    row = journal.file(desk.digest(entry))
    if row is not None and row.patient:
        for copy in desk.clean(row.patient).glob(f"{row.digest}.*"):
            copy.unlink()


def _table(desk: Desk, journal: Journal, entry: Entry) -> FileRow:
    sheet, verdict, why = Path(entry.parts[-1]).stem.lower(), TABLE, ""
    if sheet not in desk.method.settings.tables:
        verdict, why = NOT_TAKEN, "a table of another name than `tables` in ingest.yaml lists"
    else:
        try:
            with opened(entry, desk.work) as path:
                journal.tell(sheet, read_table(desk, path))
        except DicomError as error:
            verdict, why = error.reason, str(error).partition(": ")[2]
        except DataError as error:
            verdict, why = NOT_TAKEN, str(error)
    return row(desk, entry, verdict, why)


# -- Building --------------------------------------------------------------------------------


def _build(desk: Desk, journal: Journal, workers: int, watch: Watch, *, rebuild: bool) -> None:
    known = sorted({*journal.patients(), *journal.records()})
    signatures = {patient: _signature(desk, journal.files(patient)) for patient in known}
    due = [each for each in known if rebuild or journal.signature(each) != signatures[each]]
    built = through(desk, workers, "build", due, 1)
    for done, (patient, (record,)) in enumerate(zip(due, built, strict=True), 1):
        journal.built(patient, signatures[patient], record)
        watch("building", done, len(due))


def _signature(desk: Desk, rows: Iterable[FileRow]) -> str:
    told = [desk.method.digest, *(f"{row.digest} {row.size} {row.stamp}" for row in rows)]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def asides(records: Mapping[str, Record]) -> dict[tuple[str, str], tuple[int, int]]:
    """Return what was put aside, and why -> how often, and of how many patients."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for each in (each for record in records.values() for each in record["aside"]):
        count, patients = found.get((each["what"], each["why"]), (0, 0))
        found[each["what"], each["why"]] = count + each["count"], patients + 1
    return found
