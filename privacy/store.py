"""A file that is only ever added to, and holds what it was told when the power fails.

    entries   counter 1, 2, 3, ... | body, canonical JSON | hash of the previous hash and the body
    members   patient, a pseudonym | cohort

SQLite, because a transaction of its is whole or absent after any crash. Chosen for that:

    synchronous = FULL        a commit returns when the disk has it
    journal_mode = TRUNCATE   with DELETE, FULL does not sync the folder after the journal is
                              unlinked: a power failure can bring the journal back, and the
                              commit is undone. TRUNCATE syncs the emptied journal. With WAL
                              a copy of the one file that a hospital thinks of would lack the
                              newest entries.

Triggers refuse every UPDATE and DELETE, and an INSERT that is not the next entry. They stop a
mistake, not a person with an editor: the chain of hashes shows that, when the entries are read.
Only the file's owner may read it (0600). One process writes at a time (`alone`); reading
needs no lock.
"""

import fcntl
import json
import os
import sqlite3
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from privacy.heads import Head, canonical, chained
from protocol.errors import PrivacyError, SettingsError

VERSION = 1
SYNCHRONOUS = "FULL"
_WAIT_S = 10.0
"""A reader looks for some milliseconds, and the writer waits for it."""

_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE entries (counter INTEGER PRIMARY KEY, body TEXT NOT NULL, hash TEXT NOT NULL);
CREATE TABLE members (
    patient TEXT NOT NULL, cohort TEXT NOT NULL, PRIMARY KEY (patient, cohort)
) WITHOUT ROWID;
CREATE INDEX patients_of ON members (cohort);
CREATE TRIGGER entries_follow BEFORE INSERT ON entries
WHEN NEW.counter IS NOT (SELECT coalesce(max(counter), 0) + 1 FROM entries)
BEGIN SELECT RAISE(ABORT, 'entries follow one another'); END;
CREATE TRIGGER entries_stay BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'entries stay'); END;
CREATE TRIGGER entries_last BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'entries stay'); END;
CREATE TRIGGER members_stay BEFORE UPDATE ON members BEGIN SELECT RAISE(ABORT, 'members stay'); END;
CREATE TRIGGER members_last BEFORE DELETE ON members BEGIN SELECT RAISE(ABORT, 'members stay'); END;
PRAGMA user_version = 1;
COMMIT;
"""


@contextmanager
def writing(path: Path) -> Generator[sqlite3.Connection]:
    """Open the file for this process alone, made if need be; SettingsError if another has it."""
    with ExitStack() as held:
        with reachable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(_alone(path.with_suffix(".lock")))
            private_file(path)
            db = held.enter_context(_connected(path))
            db.execute("PRAGMA journal_mode = TRUNCATE")
            db.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
            if _version(db) == 0:
                db.executescript(_SCHEMA)
            _require_ours(db, path)
        yield db


@contextmanager
def reading(path: Path) -> Generator[sqlite3.Connection]:
    """Open the file to look at it, also while another process writes; it must exist."""
    if not path.exists():
        raise SettingsError(f"{path}: there is no such file: name the folder that the site's settings name")
    # Not `mode=ro`: after a kill SQLite must roll the torn transaction back before anybody reads.
    with _connected(path) as db:
        with reachable(path):
            db.execute("PRAGMA query_only = ON")
            _require_ours(db, path)
        yield db


@contextmanager
def transaction(db: sqlite3.Connection) -> Generator[None]:
    """Do all of the block's writing, durably, or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def append(db: sqlite3.Connection, body: dict[str, Any]) -> int:
    """Write the next entry, inside a transaction, and return its counter."""
    last, text = head(db), canonical(body)
    row = (last.counter + 1, text, chained(last.hash, text))
    db.execute("INSERT INTO entries VALUES (?, ?, ?)", row)
    return last.counter + 1


def entries(db: sqlite3.Connection) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield counter and body of every entry; PrivacyError at the first that is not as it was written."""
    before = ""
    for place, (counter, text, digest) in enumerate(
        db.execute("SELECT counter, body, hash FROM entries ORDER BY counter"), 1
    ):
        before = chained(before, text)
        if counter != place or digest != before:
            raise damaged(place, "is not what was written there")
        yield counter, json.loads(text)


def head(db: sqlite3.Connection) -> Head:
    """Return the last entry's counter and hash."""
    row = db.execute("SELECT counter, hash FROM entries ORDER BY counter DESC LIMIT 1").fetchone()
    return Head(*row) if row else Head()


def holds(db: sqlite3.Connection, seen: Head) -> bool:
    """Return whether the chain has gone through `seen`."""
    row = db.execute("SELECT hash FROM entries WHERE counter = ?", (seen.counter,)).fetchone()
    return seen == Head() or row == (seen.hash,)


def damaged(counter: int, what: str) -> PrivacyError:
    """Return the error for an entry that somebody, or a failing disk, has changed."""
    return PrivacyError(
        f"ledger, entry {counter}: {what}. It was changed by hand or by a failing disk: restore "
        "the newest backup; what the ledger no longer says was spent all the same"
    )


@contextmanager
def reachable(path: Path) -> Generator[None]:
    """Say what the machine or SQLite complains of as an error of ours."""
    try:
        yield
    except OSError as error:
        raise _unusable(path, error.strerror or type(error).__name__) from error
    except sqlite3.OperationalError as error:
        raise _unusable(path, str(error)) from error
    except sqlite3.DatabaseError as error:
        raise PrivacyError(f"{path}: {error}: not a ledger, or damaged: restore the newest copy") from error


def private_file(path: Path) -> None:
    """Make the file if it is not there; only its owner may read it."""
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)


@contextmanager
def _connected(path: Path) -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)) as db:
        yield db


@contextmanager
def _alone(path: Path) -> Generator[None]:
    # The kernel frees the lock when its holder dies, however it dies.
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingsError(
                f"{path}: process {file.read(20).strip() or '?'} is spending from this ledger: wait "
                "until its round is over, or stop it; two at once could spend one budget twice"
            ) from error
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


def _require_ours(db: sqlite3.Connection, path: Path) -> None:
    found = _version(db)
    if found != VERSION:
        raise SettingsError(f"{path}: a ledger of version {found}, this program reads {VERSION}: update it")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _unusable(path: Path, why: str) -> SettingsError:
    return SettingsError(
        f"{path}: {why}: free its disk or correct its owner; without a ledger nothing is released"
    )
