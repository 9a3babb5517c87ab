"""What the SuperLink keeps of messages: Flower's tables, with every piece as a file beside the database.

SQLite lets one write at a time, and has the others look again after pauses of up to a tenth of a second. So
what is written is short here, and rare:

    a piece           is a file before the database is asked for anything, and a server application writes
                      its own there itself; most are gone again before the disk has heard of them. Nothing
                      is flushed: what a power failure has taken is asked for again. So all are read once
                      where the machine has been started anew, and not where this process has been.
    a slow line       keeps its message open as long as bytes come
    a silent process  is looked for once a second, and not with every request
    a run's bytes     are not counted: they are in our own record
"""

import os
import re
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from hashlib import file_digest, sha256
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from flwr.app import Message
from flwr.proto.message_pb2 import ObjectTree  # pyright: ignore[reportAttributeAccessIssue]
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import OBJECT_PUSH_SESSION_TTL_SECONDS
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.state.schema.corestate_models import ObjectPushSession
from flwr.supercore.state.schema.objectstore_models import StoredObject
from sqlalchemy import make_url, select, update

from protocol import files
from protocol.pieces import is_name

FOLDER = "pieces"
BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Another text each time that the machine starts."""
IN_A_FILE = b"\0"
"""Stands in the database for a piece that is there."""
LOOK_S = 1.0
MOST_PIECES = 1_000
"""Of one message: each is on the disk until whoever takes the message has done so."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL


class Kept(bytes):
    """The name of a file that holds a whole piece; bytes that came from elsewhere are none."""

    __slots__ = ()


@contextmanager
def new_file(folder: Path, name: str) -> Generator[tuple[str, BinaryIO]]:
    """Yield a file to write the piece `name` to, and what it is called: `name`, a dot, 32 hexadecimal digits.

    It is gone afterwards, unless `PieceStore.put` has taken it.
    """
    path = folder / f"{name}.{uuid4().hex}"
    with os.fdopen(os.open(path, _NEW, 0o600), "wb") as file:
        try:
            yield path.name, file
        finally:
            path.unlink(missing_ok=True)


class Incoming:
    """A piece that is being written down, under a name of its own."""

    def __init__(self, name: str, place: str, file: BinaryIO) -> None:
        self._name, self._place, self._file, self._digest = name, place, file, sha256()

    def write(self, *parts: bytes) -> None:
        """Write the next bytes down."""
        for part in parts:
            self._digest.update(part)
            self._file.write(part)

    def kept(self) -> Kept:
        """Return the whole piece for `PieceStore.put`; `ValueError` if its name is not its content's."""
        if self._digest.hexdigest() != self._name:
            raise ValueError(f"piece {self._name} is another one by its content")
        self._file.flush()
        return Kept(self._place.encode())


class PieceStore(SqlObjectStore):
    """Flower's store of pieces; what they hold is in `FOLDER` beside the database, under their names."""

    def __init__(self, database_path: str) -> None:
        super().__init__(database_path, verify=False)  # the database holds what stands for a piece
        self._folder = Path(str(make_url(self.database_url).database)).parent / FOLDER

    def initialize(self, *arguments: Any, **named: Any) -> list[str]:
        """Open the database; what a crash has left as a file alone, or as a line alone, is gone."""
        tables = super().initialize(*arguments, **named)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._strike_lost(Path.is_file if self._seen_since_boot() else _is_whole)
        files.write_text(self._boot, BOOT.read_text())
        for path in self._folder.iterdir():
            self._clear_away(path)
        return tables

    def path(self, name: str) -> Path:
        """Return where a piece is, if it is there; `ValueError` for what is no piece's name."""
        if not is_name(name):
            raise ValueError("a piece is called by its SHA-256")
        return self._folder / name

    @contextmanager
    def incoming(self, name: str) -> Generator[Incoming]:
        """Yield a place for a piece that comes; it is gone afterwards, unless `put` has taken it."""
        with new_file(self._folder, name) as (place, file):
            yield Incoming(name, place, file)

    def lying(self, name: str, place: str) -> Kept:
        """Return for `put` a piece that a server application has written; `ValueError` where it has not."""
        if not (re.fullmatch(rf"{name}\.[0-9a-f]{{32}}", place) and (self._folder / place).is_file()):
            raise ValueError(f"piece {name} is not where it is said to be")
        return Kept(place.encode())

    def put(self, object_id: str, object_content: bytes) -> None:
        """Keep a piece that `incoming` has taken in, or Flower's own words in place of a reply."""
        if not isinstance(object_content, Kept):
            with self.incoming(object_id) as piece:
                piece.write(object_content)
                self.put(object_id, piece.kept())
            return
        super().put(object_id, IN_A_FILE)
        # Last, while the database is held: who finds the file may have it removed, but only after this.
        (self._folder / object_content.decode()).rename(self.path(object_id))

    def delete(self, object_id: str) -> None:
        """Remove a piece that no other needs, and those that nothing else needs then.

        A site may say any text here, and Flower lets texts be announced that are no piece's name.
        """
        with self._mutation_session():  # else one that is put here meanwhile would be cleared away
            super().delete(object_id)
            if is_name(object_id):
                self._clear_away(self.path(object_id))

    @property
    def _boot(self) -> Path:
        """Holds what `BOOT` was when all files were found to be whole."""
        return self._folder.with_suffix(".boot")

    def _seen_since_boot(self) -> bool:
        return self._boot.exists() and self._boot.read_text() == BOOT.read_text()

    def _strike_lost(self, is_there: Callable[[Path], bool]) -> None:
        """Note that pieces are not there whose files never reached the disk, or not as they were."""
        there = select(StoredObject.object_id).where(StoredObject.content == IN_A_FILE)
        with self.session() as session:
            for name in filter(None, session.scalars(there).all()):
                if not is_there(self.path(name)):
                    lost = update(StoredObject).where(StoredObject.object_id == name)
                    session.execute(lost.values(content=b"", is_available=0))

    def _clear_away(self, path: Path) -> None:
        """Remove a file of which the database does not know."""
        if self.get(path.name) != IN_A_FILE:
            path.unlink(missing_ok=True)


def _is_whole(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest() == path.name
    except FileNotFoundError:
        return False


class ShortState(SqlLinkState):
    """Flower's state, which keeps others waiting for less."""

    _looks = 0.0

    def store_message_and_object_tree(
        self, message: Message, object_tree: ObjectTree, session_id: str
    ) -> tuple[bool, list[str]]:
        """Store a message and announce its pieces; `ValueError` for more than a message may have."""
        if sum(1 for _ in islice(iterate_object_tree(object_tree), MOST_PIECES + 1)) > MOST_PIECES:
            raise ValueError(f"a message of more than {MOST_PIECES} pieces")
        return super().store_message_and_object_tree(message, object_tree, session_id)

    def store_object(self, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        """Keep a piece that somebody brings; `ValueError` where it came another way than pieces come."""
        if not isinstance(object_content, Kept):
            raise ValueError(f"piece {object_id} came another way than pieces come")  # noqa: TRY004 - Flower's
        return super().store_object(run_id, session_id, object_id, object_content)

    def keep_open(self, session_id: str) -> None:
        """Note that a piece is coming: Flower gives up on a message of which none came for long."""
        until = now() + timedelta(seconds=OBJECT_PUSH_SESSION_TTL_SECONDS)
        with self.session() as session:
            session.execute(
                update(ObjectPushSession)
                .where(ObjectPushSession.session_id == session_id)
                .values(expires_at=until)
            )

    def store_traffic(self, run_id: int, *, bytes_sent: int, bytes_recv: int) -> None:
        """Count nothing."""

    def _cleanup_expired_task_tokens(self) -> None:
        if (now := time.monotonic()) >= self._looks:
            self._looks = now + LOOK_S
            super()._cleanup_expired_task_tokens()
