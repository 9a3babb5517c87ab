"""Cases as memory-mapped arrays, so that a process which trains holds no more of a cohort than it looks at.

    FOLDER/<key>/
      inputs.flair.npy, present.npy, targets.tumour.npy, labelled.tumour.npy, ...     row i is case i
      index.json                 patient -> how many cases, the size of a voxel, a hash of each array

What a recipe makes of a cohort is the same in every process and every round, and a new process may come with
every message. So it is made once, patient by patient, whatever the size of memory, and mapped from
then on: the tensors of a `Batch` are pages of these files, read when they are looked at, shared by all
processes, and gone from memory when it is needed otherwise. Whoever writes to one writes to a private
page.

`key` stands for everything that arrays depend on. They can always be made anew, and are where a hash is
not what it should be; of what is no longer asked for, `KEPT` are left.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from imaging.cases import Spacing
from protocol.batch import Batch
from protocol.errors import SettingsError

INDEX, LOCK, PARTIAL = "index.json", "lock", "partial"
KEPT = 2

Patient = tuple[str, Batch, Spacing | None]
"""Name, cases, size of a voxel."""


@dataclass(frozen=True)
class Arrays:
    """Everybody's cases: `counts` patient -> how many, in the order of the rows; `spacings` that occur."""

    counts: dict[str, int]
    cases: Batch
    spacings: frozenset[Spacing]


def arrays(folder: Path, key: str, make: Callable[[], Iterable[Patient]]) -> Arrays:
    """Return the arrays of `key`, made by `make` if they are not in `folder` yet, or are damaged.

    Raises:
        SettingsError: they cannot be written.
    """
    place = folder / key
    try:
        with _locked(folder):
            if not _is_sound(place):
                _write(folder / PARTIAL, make())
                shutil.rmtree(place, ignore_errors=True)
                (folder / PARTIAL).rename(place)
            os.utime(place)
            _prune(folder)
            return _opened(place)
    except OSError as error:
        what = f"the site's state folder cannot keep its arrays ({error.strerror}): make room"
        raise SettingsError(what) from error  # without the path: this leaves the site


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Let one process at a time make arrays; the next finds them made."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _prune(folder: Path) -> None:
    places = sorted(
        (each.parent for each in folder.glob(f"*/{INDEX}")), key=lambda each: each.stat().st_mtime
    )
    for place in places[:-KEPT]:
        shutil.rmtree(place)


# -- Writing ---------------------------------------------------------------------------------


def _write(place: Path, patients: Iterable[Patient]) -> None:
    """Write all that `patients` yields; never more than one patient is in memory."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    columns, counts, spacings = dict[str, _Column](), dict[str, int](), set[Spacing]()
    try:
        for name, cases, spacing in patients:
            counts[name] = len(cases)
            spacings |= {spacing} if spacing else set()
            for part, tensor in _flat(cases).items():
                if part not in columns:
                    columns[part] = _Column(place / f"{part}.npy", tensor)
                columns[part].append(tensor)
    finally:
        for column in columns.values():
            column.close()
    index = {
        "counts": counts,
        "spacings": sorted(spacings),
        "sha256": {part: _hash(place / f"{part}.npy") for part in columns},
    }
    (place / INDEX).write_text(json.dumps(index), encoding="utf-8")


class _Column:
    """A `.npy` file that grows row by row; NumPy's header has room for a length that is not known yet."""

    def __init__(self, path: Path, like: Tensor) -> None:
        self._file: BinaryIO = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._rows, self._like = 0, like.numpy()
        self._head()

    def append(self, rows: Tensor) -> None:
        self._file.write(np.ascontiguousarray(rows.numpy()).data)
        self._rows += len(rows)

    def close(self) -> None:
        self._file.seek(0)
        self._head()
        self._file.close()

    def _head(self) -> None:
        shape = (self._rows, *self._like.shape[1:])
        told = {"descr": npy.dtype_to_descr(self._like.dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(self._file, told)


def _flat(cases: Batch) -> dict[str, Tensor]:
    """Return a batch's tensors by one name each."""
    found = dict[str, Tensor]()
    for part in fields(cases):
        value: Any = getattr(cases, part.name)
        if isinstance(value, Tensor):
            found[part.name] = value
        elif value is not None:
            found |= {f"{part.name}.{name}": tensor for name, tensor in value.items()}
    return found


# -- Reading ---------------------------------------------------------------------------------


def _is_sound(place: Path) -> bool:
    try:
        index = json.loads((place / INDEX).read_text(encoding="utf-8"))
        return all(_hash(place / f"{part}.npy") == digest for part, digest in index["sha256"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _opened(place: Path) -> Arrays:
    index = json.loads((place / INDEX).read_text(encoding="utf-8"))
    parts = {part: _mapped(place / f"{part}.npy") for part in index["sha256"]}

    def of(part: str) -> dict[str, Tensor]:
        found = (key.partition(".") for key in parts)
        return {name: parts[f"{part}.{name}"] for first, _, name in found if first == part and name}

    cases = Batch(of("inputs"), parts["present"], of("targets"), of("labelled"))
    return Arrays(index["counts"], cases, frozenset(map(tuple, index["spacings"])))


def _mapped(path: Path) -> Tensor:
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
