"""What a cohort's patients have paid, written down before it is spent.

    {"do": "reserve", "run": "b1/1", "round": 3, "noise_multiplier": 1.1, "sampling_rate": 0.1, "steps": 10}
    {"do": "commit", "run": "b1/1", "round": 3, "steps": 10}

A round reserves its steps, trains, and commits what it took. A line is on the disk before
`reserve` or `commit` returns, so that whatever instant a process is killed at, the ledger holds
at least what was released: a reservation without its commit counts in full. A line that was
being written when the power failed is the last one and lacks its newline; nothing had come of
it, and the next append cuts it off. Any other damage is somebody's hand, and is refused.

Lines are appended under a lock of the file, so that two runs on one machine share one ledger.
The durable, cross-run ledger takes this seam.
"""

import fcntl
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from privacy.accounting import Event, epsilon
from protocol.errors import PrivacyError, SettingsError

_FIELDS = {
    "reserve": {
        "do": str,
        "run": str,
        "round": int,
        "noise_multiplier": float,
        "sampling_rate": float,
        "steps": int,
    },
    "commit": {"do": str, "run": str, "round": int, "steps": int},
}


class Ledger:
    """The reservations and commits in one file, which only its owner may read (0600)."""

    def __init__(self, path: Path) -> None:
        """Take the file's path; file and folder are made with the first reservation."""
        self._path = path

    def reserve(self, run: str, number: int, event: Event) -> None:
        """Count `event` from now on; a second reservation of one round counts besides the first."""
        with self._locked() as file:
            _append(file, {"do": "reserve", "run": run, "round": number, **asdict(event)})

    def commit(self, run: str, number: int, steps: int) -> None:
        """Write down the `steps` that the round took of the latest open reservation it made.

        Raises:
            PrivacyError: if the round has nothing reserved, or took more than that.
        """
        line = {"do": "commit", "run": run, "round": number, "steps": steps}
        with self._locked() as file:
            file.seek(0)
            try:
                _Replay(self._path, file.read()).take(line)
            except ValueError as error:
                raise PrivacyError(f"{self._path}: {error}") from error
            _append(file, line)

    def events(self, run: str | None = None) -> list[Event]:
        """Return what counts, of one run or of all: commits, and open reservations in full."""
        with self._reachable():
            text = self._path.read_bytes() if self._path.exists() else b""
        return _Replay(self._path, text).events(run)

    def would_exceed(self, budget: float, delta: float, event: Event) -> bool:
        """Return whether everything so far and `event` cost more than epsilon `budget`."""
        return epsilon([*self.events(), event], delta) > budget

    @contextmanager
    def _locked(self) -> Generator[BinaryIO]:
        """Open the file, alone, without a torn last line."""
        with self._reachable():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new = not self._path.exists()
            with os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                os.fchmod(file.fileno(), 0o600)
                _cut_torn_line(file)
                yield file
            if new:
                _sync_folder(self._path.parent)

    @contextmanager
    def _reachable(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise SettingsError(
                f"{self._path}: {error.strerror}: free its disk or correct its owner; "
                "without a ledger nothing is released"
            ) from error


class _Replay:
    """Lines in order; knows each reservation's steps and which of them are still open."""

    def __init__(self, path: Path, text: bytes) -> None:
        self._counted: list[tuple[str, Event]] = []
        self._open: dict[tuple[str, int], list[int]] = {}
        *whole, _torn = text.split(b"\n")
        for number, line in enumerate(whole, 1):
            try:
                self.take(_decoded(line))
            except (ValueError, RecursionError, PrivacyError) as error:
                raise PrivacyError(
                    f"{path}, line {number}: {error}. The ledger was changed by hand or by a failing disk: "
                    "restore it from a backup; what it no longer says was spent all the same"
                ) from error

    def events(self, run: str | None) -> list[Event]:
        return [event for owner, event in self._counted if run in (None, owner)]

    def take(self, line: dict[str, Any]) -> None:
        """Count one line; ValueError if it cannot follow those before."""
        run, number = line["run"], line["round"]
        if line["do"] == "reserve":
            self._open.setdefault((run, number), []).append(len(self._counted))
            event = Event(line["noise_multiplier"], line["sampling_rate"], line["steps"])
            self._counted.append((run, event))
            return
        still_open = self._open.get((run, number))
        if not still_open:
            raise ValueError(f"run {run} commits round {number}, which it has not reserved")
        place = still_open.pop()
        reserved = self._counted[place][1]
        if not 0 <= line["steps"] <= reserved.steps:
            raise ValueError(f"round {number} took {line['steps']} steps of {reserved.steps} reserved")
        event = Event(reserved.noise_multiplier, reserved.sampling_rate, line["steps"])
        self._counted[place] = (run, event)


def _decoded(line: bytes) -> dict[str, Any]:
    found = json.loads(line)
    kind = found.get("do") if isinstance(found, dict) else None
    fields = _FIELDS.get(kind) if isinstance(kind, str) else None
    if fields is None or found.keys() != fields.keys():
        raise ValueError("neither a reservation nor a commit")
    for name, kind in fields.items():
        if type(found[name]) not in ({kind, int} if kind is float else {kind}):
            raise ValueError(f"'{name}' must be {kind.__name__}")
    return found


def _append(file: BinaryIO, line: dict[str, Any]) -> None:
    file.seek(0, os.SEEK_END)
    file.write(json.dumps(line).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def _cut_torn_line(file: BinaryIO) -> None:
    text = file.read()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        file.truncate(whole)
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
