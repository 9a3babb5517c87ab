"""Where the SuperLink keeps the pieces of messages: large ones as files beside its database.

SQLite writes a piece into its log and from there into its place, and lets nobody else write meanwhile;
a model is a hundred pieces for every site. As a file a piece is written once, without anybody waiting, and
most are gone again before the disk has heard of them. Nothing is flushed: a power failure ends the run that
the pieces belong to, and the next one has its own.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from sqlalchemy import make_url

LARGE_BYTES = 64_000
FOLDER = "pieces"
IN_A_FILE = b"\0"
"""Stands in the database for a piece that is a file; no piece of Flower's is this."""


class PieceStore(SqlObjectStore):
    """Flower's store; what is large is in `FOLDER` beside the database, under its name."""

    def __init__(self, database_path: str) -> None:
        super().__init__(database_path, verify=False)  # the database holds what stands for a piece
        self._folder = Path(str(make_url(self.database_url).database)).parent / FOLDER

    def initialize(self, *arguments: Any, **named: Any) -> list[str]:
        """Open the database, and remove files that a crash has left without a line in it."""
        tables = super().initialize(*arguments, **named)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for path in self._folder.iterdir():
            if path.name not in self:
                path.unlink()
        return tables

    def put(self, object_id: str, object_content: bytes) -> None:
        """Keep a piece; `ValueError` if its name is not its content's."""
        if get_object_id(object_content) != object_id:
            raise ValueError(f"piece {object_id} is another one by its content")
        validate_object_content(object_content)
        if len(object_content) < LARGE_BYTES:
            super().put(object_id, object_content)
            return
        self._write(object_id, object_content)
        super().put(object_id, IN_A_FILE)

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
        if object_id not in self:
            (self._folder / object_id).unlink(missing_ok=True)

    def _write(self, name: str, content: bytes) -> None:
        partial = self._folder / f"{name}.{uuid4().hex}"
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        partial.rename(self._folder / name)
