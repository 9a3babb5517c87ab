"""Files that must be whole, and files that must not be read by others.

`write` replaces: after a crash the old file is there or the new one, on the disk and not only in
memory. `create` never replaces: two programs that both make a key cannot end with two. Unless told otherwise,
what they write only its owner may read.
"""

import os
from pathlib import Path
from tempfile import mkstemp

PRIVATE, PUBLIC = 0o600, 0o644


def write(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Replace `path` by a file of `data`, durably; its folder is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    _fill(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), data, mode)
    partial.replace(path)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`, as `write` does, for whoever may look into its folder."""
    write(path, text.encode(), PUBLIC)


def create(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Write a file that is not there yet, durably and whole; FileExistsError if it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = mkstemp(prefix=f"{path.name}.", suffix=".partial", dir=path.parent)
    try:
        _fill(handle, data, mode)
        path.hardlink_to(partial)
    finally:
        Path(partial).unlink()
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the folder's names durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _fill(handle: int, data: bytes, mode: int) -> None:
    with os.fdopen(handle, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
