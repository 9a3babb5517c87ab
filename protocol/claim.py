"""One process at a time: a file that its holder keeps locked, with the holder's number in it.

The kernel gives the lock back when the holder ends, however it ends; a file that was left behind
says nothing. Works between processes of one machine, on a local disk.
"""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from protocol.errors import SettingsError


@contextmanager
def claim(path: Path) -> Generator[None]:
    """Hold `path` for the length of the block; `SettingsError` where another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"{path.parent}: process {file.read() or '?'} is at work here: stop it first"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def holder(path: Path) -> int | None:
    """Return the number of the process that holds `path`; None where nobody does."""
    if not path.exists():
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read() or 0) or None
    return None
