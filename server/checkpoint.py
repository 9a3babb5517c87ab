"""Parameters and memory on disk, so that a crash, a full disk or a flipped bit loses one round.

A checkpoint is a file `round-000012.checkpoint`:

    {"round":12,"sha256":"9f2c...","length":1048576}     one line, about what follows
    safetensors bytes                                    vectors; the facts in its metadata

Saving never touches a checkpoint that exists: a partial file in the same folder is written
and flushed to the disk, takes its name in one atomic step (`os.replace`), and the folder is
flushed too (a name is data of its folder: Pillai et al., "All File Systems Are Not Created
Equal", OSDI 2014). The two newest stay. Loading recomputes the first line from what follows
and compares: whatever bit differs, wherever, the file counts as torn and the one before it
is taken.

The vectors are hashed and written from their own memory, at the same time: a model is
never copied to be saved.
"""

import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from protocol import files
from protocol.errors import CheckpointError
from protocol.update import Vectors

KEPT = 2

log = logging.getLogger("consilium.checkpoint")

_NAME = re.compile(r"^round-(\d{6,})\.checkpoint$")
_PARTIAL = ".partial"
_LONGEST_LINE = 200
_FACTS = "facts"
_KINDS = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Checkpoint:
    """What stood after `round`: named vectors, and plain data beside them."""

    round: int
    vectors: Vectors
    facts: Mapping[str, Any]


def save(folder: Path, vectors: Vectors, facts: Mapping[str, Any], number: int) -> Path:
    """Write the checkpoint of round `number` durably and return its file.

    `facts` is anything that JSON can hold. Raises `CheckpointError` when the disk is full or
    the folder cannot be written; earlier checkpoints then stand as they were.
    """
    target = folder / f"round-{number:06d}.checkpoint"
    partial = target.with_suffix(_PARTIAL)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            _write(file, _safetensors(vectors, facts), number)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        files.sync_folder(folder)
        for old in _newest_first(folder)[KEPT:]:
            old.unlink()
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise _no_room(folder, number, error) from error
    return target


def newest(folder: Path) -> Path | None:
    """Return the newest file ever finished in `folder`, intact or not; None before the first."""
    return next(iter(_newest_first(folder)), None)


def load(folder: Path) -> Checkpoint:
    """Return the newest intact checkpoint, and sweep away what a killed save left behind.

    A torn file is passed over with a warning. Raises `CheckpointError` when none is intact.
    """
    for leftover in folder.glob(f"*{_PARTIAL}"):
        leftover.unlink()
    found = _newest_first(folder)
    for path in found:
        try:
            return _read(path)
        except (OSError, ValueError, SafetensorError) as error:
            log.warning("%s is not intact (%s): going back to the one before", path, error)
    raise CheckpointError(
        f"{folder} holds no intact checkpoint ({len(found)} damaged): "
        "restore the folder from a backup, or start the run anew"
    )


def _write(file: BinaryIO, pieces: Sequence[Bytes], number: int) -> None:
    length = sum(piece.size for piece in pieces)
    # The line's length does not depend on the hash, so that the hash may be filled in last.
    file.write(_line(number, "0" * 64, length))
    with ThreadPoolExecutor(1) as aside:
        digest = aside.submit(_sha256, pieces)
        file.writelines(piece.data for piece in pieces)
        file.seek(0)
        file.write(_line(number, digest.result(), length))


def _read(path: Path) -> Checkpoint:
    number = _number(path)
    with path.open("rb") as file:
        line = file.readline(_LONGEST_LINE)
        payload = file.read()
    if line != _line(number, hashlib.sha256(payload).hexdigest(), len(payload)):
        raise ValueError("its first line does not fit what follows")
    size = int.from_bytes(payload[:8], "little")
    metadata = json.loads(payload[8 : 8 + size])["__metadata__"]
    return Checkpoint(number, load_tensors(payload), json.loads(metadata[_FACTS]))


def _line(number: int, sha256: str, length: int) -> bytes:
    plain = {"round": number, "sha256": sha256, "length": length}
    return json.dumps(plain, separators=(",", ":")).encode() + b"\n"


def _safetensors(vectors: Vectors, facts: Mapping[str, Any]) -> list[Bytes]:
    """The format of `safetensors.save`, as pieces that lend the vectors' memory instead of copying it."""
    table: dict[str, Any] = {"__metadata__": {_FACTS: json.dumps(facts)}}
    pieces: list[Bytes] = []
    offset = 0
    # Widest kind first, as the library does: every vector then starts where its kind may be read.
    for name, vector in sorted(vectors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        piece = _bytes_of(vector)
        span = [offset, offset + piece.size]
        table[name] = {"dtype": _KINDS[vector.dtype], "shape": list(vector.shape), "data_offsets": span}
        pieces.append(piece)
        offset += piece.size
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return [np.frombuffer(head, np.uint8), *pieces]


def _bytes_of(vector: Tensor) -> Bytes:
    return vector.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _sha256(pieces: Sequence[Bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece.data)
    return digest.hexdigest()


def _newest_first(folder: Path) -> list[Path]:
    names = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in names if _NAME.match(path.name)), key=_number, reverse=True)


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("round-"))


def _no_room(folder: Path, number: int, error: OSError) -> CheckpointError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    what = "free some space there" if full else "see that the folder exists and may be written"
    return CheckpointError(
        f"checkpoint of round {number} cannot be written to {folder} ({error.strerror}): {what}, "
        "then `consilium run resume`; earlier checkpoints are as they were"
    )
