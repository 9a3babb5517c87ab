"""What was read, what became of it, and what was built of it: one SQLite file in the cohort's folder.

    files     keyed digest of a path -> size, stamp, verdict, patient
    patients  stand-in -> signature of what it was built from, and the record of how
    cells     table, patient -> row
    studies   keyed digest of a PACS's study -> its number of images when all had come, and what did not

A row is written after the copy or the scan that it speaks of, in one transaction with its neighbours. So
a run that is killed anywhere has at most forgotten its last few files, and reads them again. While one
run is open no other can be: SQLite holds the file.
"""

import json
import sqlite3
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from imaging.ingest.walk import Entry
from imaging.reasons import Reason
from protocol.errors import SettingsError

NAME = "journal.sqlite"
ADMITTED, TABLE, CRASHED = "admitted", "table", "crashed"
MAY_IDENTIFY, NO_MODALITY, NOT_TAKEN = "may_identify", "no_modality", "not_taken"
PASSING = {Reason.UNREADABLE, CRASHED, MAY_IDENTIFY, NO_MODALITY, NOT_TAKEN, TABLE}
"""Verdicts that hang on more than the file: a disk that was away, or the site's settings."""

_TABLES = """
create table if not exists files (digest text primary key, size integer, stamp integer, verdict text,
    why text, patient text, instance text, flags text) without rowid;
create index if not exists of_patient on files (patient);
create table if not exists patients (patient text primary key, signature text, record text) without rowid;
create table if not exists cells (sheet text, patient text, row text,
    primary key (sheet, patient)) without rowid;
create table if not exists studies (digest text primary key, images text, why text, missing integer)
    without rowid;
"""


class FileRow(NamedTuple):
    """What became of a file: `verdict` is `ADMITTED` or one word, `why` says it in more.

    `instance` is the stand-in of what the file holds: two files with one hold the same image.
    """

    digest: str
    size: int
    stamp: int
    verdict: str
    why: str = ""
    patient: str = ""
    instance: str = ""
    flags: str = ""

    @property
    def lasts(self) -> bool:
        """Tell whether the verdict stands as long as the file does."""
        return self.verdict not in PASSING


class PutAside(NamedTuple):
    """How often something was put aside, of how many patients, and digests of a file of each, if known."""

    times: int
    patients: int
    which: tuple[str, ...] = ()


class Journal:
    """An open journal, see `opened_journal`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def knows(self, digest: str, entry: Entry) -> bool:
        """Tell whether the file was read as it is now."""
        row = self.file(digest)
        return row is not None and (row.size, row.stamp) == (entry.size, entry.stamp) and row.lasts

    def file(self, digest: str) -> FileRow | None:
        """Return what became of one file."""
        found = self._connection.execute("select * from files where digest = ?", [digest]).fetchone()
        return None if found is None else FileRow(*found)

    def note(self, rows: Iterable[FileRow]) -> None:
        """Write what became of files."""
        with self._connection:
            self._connection.executemany("insert or replace into files values (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def files(self, patient: str | None = None) -> Iterator[FileRow]:
        """Yield all files, or a patient's, in the order of their digests."""
        where, values = ("where patient = ?", [patient]) if patient is not None else ("", [])
        query = f"select * from files {where} order by digest"  # noqa: S608 - one of two texts
        yield from (FileRow(*row) for row in self._connection.execute(query, values))

    def patients(self) -> list[str]:
        """Return who has a file that was admitted."""
        query = "select distinct patient from files where verdict = ? order by patient"
        return [patient for (patient,) in self._connection.execute(query, [ADMITTED])]

    def signature(self, patient: str) -> str:
        """Return what a patient was built from; empty if it was not."""
        found = self._connection.execute("select signature from patients where patient = ?", [patient])
        return (found.fetchone() or ("",))[0]

    def built(self, patient: str, signature: str, record: dict[str, Any]) -> None:
        """Write that a patient was built, and how."""
        with self._connection:
            self._connection.execute(
                "insert or replace into patients values (?, ?, ?)",
                [patient, signature, json.dumps(record, sort_keys=True)],
            )

    def records(self) -> dict[str, dict[str, Any]]:
        """Return patient -> how it was built."""
        query = "select patient, record from patients order by patient"
        return {patient: json.loads(record) for patient, record in self._connection.execute(query)}

    def fetched(self, study: str) -> str:
        """Return how many images a study had when all of it had come; empty if it has not."""
        found = self._connection.execute("select images from studies where digest = ?", [study])
        return (found.fetchone() or ("",))[0]

    def came(self, study: str, images: str, why: str, missing: int) -> None:
        """Write that a study was fetched and read, with what of it the PACS did not send."""
        with self._connection:
            self._connection.execute(
                "insert or replace into studies values (?, ?, ?, ?)", [study, images, why, missing]
            )

    def unsent(self) -> dict[tuple[str, str], PutAside]:
        """Return what a PACS did not send, and why -> how many; for patients stand studies."""
        query = "select why, sum(missing), count(*) from studies where missing > 0 group by why order by why"
        rows = self._connection.execute(query)
        return {(Reason.NOT_SENT, why): PutAside(missing, studies) for why, missing, studies in rows}

    def tell(self, sheet: str, rows: dict[str, dict[str, str]]) -> None:
        """Write a table's rows, each in the place of an older one."""
        with self._connection:
            self._connection.executemany(
                "insert or replace into cells values (?, ?, ?)",
                [(sheet, patient, json.dumps(row)) for patient, row in rows.items()],
            )

    def sheets(self) -> dict[str, dict[str, dict[str, str]]]:
        """Return table -> patient -> row."""
        found: dict[str, dict[str, dict[str, str]]] = {}
        for sheet, patient, row in self._connection.execute("select * from cells order by sheet, patient"):
            found.setdefault(sheet, {})[patient] = json.loads(row)
        return found


@contextmanager
def opened_journal(folder: Path) -> Generator[Journal]:
    """Open the journal of a cohort's folder, or begin one.

    Raises:
        SettingsError: another run has it open, or it is no journal.
    """
    path = folder / NAME
    connection = sqlite3.connect(path, timeout=0)
    try:
        path.chmod(0o600)
        connection.execute("pragma locking_mode = exclusive")
        connection.execute("begin exclusive")
        connection.commit()
        connection.executescript(_TABLES)
        yield Journal(connection)
    except sqlite3.OperationalError as error:
        raise SettingsError(f"{path}: {error}; is another ingest of this cohort running?") from error
    except sqlite3.DatabaseError as error:
        raise SettingsError(f"{path}: {error}; move it away to read everything anew") from error
    finally:
        connection.close()
