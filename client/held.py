"""Pieces of a model that came to be scored, kept on this machine until it comes to be trained from.

What came in pieces for the one task is not fetched again for the next. They are files named by the SHA-256
of what they hold; once another task has come they are removed, as the model that training made is a new one.
What is damaged is fetched anew. None of them holds anything of the hospital's.
"""

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from protocol.carriage import in_blocks
from protocol.files import PRIVATE
from protocol.pieces import Part, Parts, Pull


class Held:
    """The pieces in `folder`, which need not be there yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def pull(self, pull: Pull, name: str, *, hold: bool) -> Iterable[Part]:
        """Return a piece: the one that is held, or what `pull` brings, which may be held from now on."""
        if (found := self._read(name)) is not None:
            return found
        if not hold:
            return pull(name)
        parts = list(pull(name))
        with suppress(OSError):  # a full disk, say: the next task fetches it
            self._write(name, parts)
        return parts

    def keep(self, names: Collection[str]) -> None:
        """Remove all pieces but `names`."""
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path.name not in names:
                path.unlink(missing_ok=True)

    def _read(self, name: str) -> Parts | None:
        """Return what a file holds; None where there is none, or it holds not what it is called by."""
        digest, parts = sha256(), list[bytes]()
        try:
            for block in in_blocks((self._folder / name).open("rb", buffering=0)):
                digest.update(block)
                parts.append(block)
        except OSError:  # not there, or a disk that fails: either way it is fetched
            return None
        return parts if digest.hexdigest() == name else None

    def _write(self, name: str, parts: Parts) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path, flags = self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(path, flags, PRIVATE), "wb") as file:
            file.writelines(parts)
