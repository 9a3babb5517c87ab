"""What the SuperLink keeps of messages: Flower's tables, with large pieces as files beside the database.

SQLite lets one write at a time, and has the others look again after pauses of up to a tenth of a second; a
model is a hundred pieces for every site. So what is written is short here, and rare:

    a large piece     is a file before the database is asked for anything; most are gone again before the
                      disk has heard of them. Nothing is flushed: a power failure ends the run that the
                      pieces belong to, and the next one has its own.
    a silent process  is looked for once a second, and not with every request
    a run's bytes     are not counted: they are in our own record
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from sqlalchemy import make_url

LARGE_BYTES = 64_000
FOLDER = "pieces"
IN_A_FILE = b"\0"
"""Stands in the database for a piece that is a file; no piece of Flower's is this."""
LOOK_S = 1.0
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL


class PieceStore(SqlObjectStore):
    """Flower's store of pieces; what is large is in `FOLDER` beside the database, under its name."""

    def __init__(self, database_path: str) -> None:
        super().__init__(database_path, verify=False)  # the database may hold what stands for a piece
        self._folder = Path(str(make_url(self.database_url).database)).parent / FOLDER

    def initialize(self, *arguments: Any, **named: Any) -> list[str]:
        """Open the database, and remove files that a crash has left without a line in it."""
        tables = super().initialize(*arguments, **named)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for path in self._folder.iterdir():
            self._clear_away(path.name)
        return tables

    def aside(self, name: str, content: bytes) -> bytes:
        """Put a large piece into a file of its own, and return what `put` is to keep of it.

        Raises `ValueError` if the piece's name is not its content's.
        """
        if get_object_id(content) != name:
            raise ValueError(f"piece {name} is another one by its content")
        validate_object_content(content)
        if len(content) < LARGE_BYTES:
            return content
        kept = IN_A_FILE + uuid4().hex.encode()
        with os.fdopen(os.open(self._aside(name, kept), _NEW, 0o600), "wb") as file:
            file.write(content)
        return kept

    def put(self, object_id: str, object_content: bytes) -> None:
        """Keep a piece, as `aside` returned it."""
        if object_content.startswith(IN_A_FILE):
            self._aside(object_id, object_content).rename(self._folder / object_id)
            object_content = IN_A_FILE
        super().put(object_id, object_content)

    def forget(self, name: str, kept: bytes) -> None:
        """Remove what `aside` has put aside and nobody wants; what another has put there stays."""
        if kept.startswith(IN_A_FILE):
            self._aside(name, kept).unlink(missing_ok=True)

    def get(self, object_id: str) -> bytes | None:
        """Return a piece, empty if it was announced and is not there; None if it was not even announced."""
        content = super().get(object_id)
        if content != IN_A_FILE:
            return content
        with suppress(FileNotFoundError):
            return (self._folder / object_id).read_bytes()
        return None

    def delete(self, object_id: str) -> None:
        """Remove a piece that no other needs, and those that nothing else needs then."""
        super().delete(object_id)
        self._clear_away(object_id)

    def _clear_away(self, name: str) -> None:
        """Remove a file of which the database does not know."""
        if super().get(name) != IN_A_FILE:
            (self._folder / name).unlink(missing_ok=True)

    def _aside(self, name: str, kept: bytes) -> Path:
        return self._folder / f"{name}.{kept.removeprefix(IN_A_FILE).decode()}"


class ShortState(SqlLinkState):
    """Flower's state, which keeps others waiting for less."""

    _looks = 0.0

    def store_object(self, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        """Store a piece that somebody has announced; False for any other."""
        pieces = self.object_store
        if not isinstance(pieces, PieceStore):
            return super().store_object(run_id, session_id, object_id, object_content)
        kept = pieces.aside(object_id, object_content)
        stored = super().store_object(run_id, session_id, object_id, kept)
        if not stored:
            pieces.forget(object_id, kept)
        return stored

    def store_traffic(self, run_id: int, *, bytes_sent: int, bytes_recv: int) -> None:
        """Count nothing."""

    def _cleanup_expired_task_tokens(self) -> None:
        if (now := time.monotonic()) >= self._looks:
            self._looks = now + LOOK_S
            super()._cleanup_expired_task_tokens()
