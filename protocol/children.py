"""Processes that are kept alive for as long as their keeper lives.

    keeper --starts--> child --its output--> LOGS/NAME.log, 10 MB each, the last five (`protocol.logs`)

A child that ends is started again after 1, 2, 4, ... 10 s, and after 1 s once it had lived for a
minute. When the keeper ends its children do: by SIGTERM, by SIGKILL five seconds later, and by the
kernel's hand where the keeper was killed (`protocol.leash`).

A keeper holds STATE/keeper.lock and writes into STATE/keeper.json what it keeps.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from logging import makeLogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import FrameType
from typing import IO

from rich.table import Table

from protocol import files
from protocol.claim import claim, holder
from protocol.errors import SettingsError
from protocol.logs import entry

LOOPBACK = "127.0.0.1"
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
"""In the environment of Flower's own programs: they call nobody but us."""
_MALLOC = {
    "hugetlb": 1,  # large pages: the kernel clears, and is asked for, one where it was five hundred
    "mmap_threshold": 32_000_000,  # what is smaller is used again, and not given back and cleared anew
    "trim_threshold": 8_000_000,
    "arena_max": 2,  # each thread would keep its own
}
MEMORY = {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{name}={value}" for name, value in _MALLOC.items())}
"""In the environment of all: how the C library gives memory to a process that moves models about."""

LOG_BYTES, LOG_FILES = 10_000_000, 5
STOP_S, STEADY_S, LONGEST_PAUSE_S = 5.0, 60.0, 10.0
TICK_S = 0.2
LOCK, REPORT = "keeper.lock", "keeper.json"


@dataclass(frozen=True)
class Program:
    """What to run, and what it finds in its environment besides ours."""

    name: str
    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Kept:
    """What a keeper says of one child: seconds since the epoch when it was started last, and how often."""

    name: str
    pid: int | None
    since: float
    starts: int


class Child:
    """One program, kept running."""

    def __init__(self, program: Program, folder: Path, logs: Path) -> None:
        self.program = program
        self.starts = 0
        self.since = time.time()
        self._folder = folder
        self._log = logs / f"{program.name}.log"
        self._process: subprocess.Popen[str] | None = None
        self._failures = 0
        self._due = 0.0

    @property
    def pid(self) -> int | None:
        """Its process, if it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def report(self) -> Kept:
        """What can be told of it."""
        return Kept(self.program.name, self.pid, self.since, self.starts)

    def tend(self) -> bool:
        """Start it if it does not run and its pause is over; return whether it was found dead just now."""
        if self.pid is not None:
            return False
        if died := self._process is not None:
            self._note_death()
        if time.monotonic() >= self._due:
            self._start()
        return died

    def stop(self) -> None:
        """Ask it to end; `wait` sees that it does."""
        if self._process is not None:
            self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Wait for its end, at most `seconds`, then make one."""
        if self._process is None:
            return
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - words of our own
            [sys.executable, "-P", "-m", "protocol.leash", str(os.getpid()), *self.program.words],
            env={**MEMORY, **os.environ, **self.program.environment},
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is the keeper's; it ends them in order
        )
        self.starts += 1
        self.since = time.time()
        threading.Thread(target=_copy, args=(self._process.stdout, self._log), daemon=True).start()

    def _note_death(self) -> None:
        lived = time.time() - self.since
        self._failures = 0 if lived > STEADY_S else self._failures
        pause = min(2.0**self._failures, LONGEST_PAUSE_S)
        with writing(self._log) as say:
            say(f"ended with {self._status()} after {lived:.0f} s; again in {pause:.0f} s")
        self._due = time.monotonic() + pause
        self._failures += 1
        self._process = None

    def _status(self) -> int | None:
        return self._process.returncode if self._process else None


Tick = Callable[[Sequence[Child]], None]


def keep(state: Path, children: Sequence[Child], tick: Tick) -> None:
    """Keep `children` running until Ctrl-C or SIGTERM; `tick` is called meanwhile with those just found dead.

    Raises `SettingsError` where another keeper is at work in `state`.
    """
    with claim(state / LOCK), suppress(KeyboardInterrupt):
        end_by_signals()
        try:
            while True:
                dead = [child for child in children if child.tend()]
                _report(state, children)
                tick(dead)
                time.sleep(TICK_S)
        finally:
            stop_all(children)


def is_kept(state: Path) -> bool:
    """Say whether a keeper is at work in `state`."""
    return holder(state / LOCK) is not None


def kept(state: Path) -> list[Kept]:
    """Return what the keeper in `state` keeps; `SettingsError` where there is none."""
    if not is_kept(state):
        raise SettingsError(f"{state.parent}: nothing runs here")
    return [Kept(**each) for each in json.loads((state / REPORT).read_text(encoding="utf-8"))]


def table(found: Iterable[Kept]) -> Table:
    """Return a row a process."""
    rows = Table("process", "number", "since", "starts")
    for each in found:
        since = datetime.fromtimestamp(each.since, UTC).isoformat(timespec="seconds")
        rows.add_row(each.name, str(each.pid or "starts again"), since, str(each.starts))
    return rows


def stop_keeper(state: Path, seconds: float = 4 * STOP_S) -> None:
    """End the keeper in `state` and all that it keeps; `SettingsError` where there is none, or it stays."""
    pid = holder(state / LOCK)
    if pid is None:
        raise SettingsError(f"{state.parent}: nothing runs here")
    os.kill(pid, signal.SIGTERM)
    closes = time.monotonic() + seconds
    while holder(state / LOCK) == pid:
        if time.monotonic() > closes:
            raise SettingsError(f"process {pid} does not end: kill -9 {pid}")
        time.sleep(TICK_S)


def stop_all(children: Sequence[Child]) -> None:
    """End all, the last started first, within `STOP_S`."""
    for child in reversed(children):
        child.stop()
    closes = time.monotonic() + STOP_S
    for child in reversed(children):
        child.wait(max(0.0, closes - time.monotonic()))


def end_by_signals() -> None:
    """Let SIGTERM do what Ctrl-C does, and the first of either be the last that is heard."""

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def _report(state: Path, children: Iterable[Child]) -> None:
    text = json.dumps([vars(child.report) for child in children]).encode()
    path = state / REPORT
    if not path.exists() or path.read_bytes() != text:
        files.write(path, text)


@contextmanager
def writing(path: Path) -> Generator[Callable[[str], None]]:
    """Yield what adds a line to a program's log; one that is full moves on, and the oldest goes."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with closing(RotatingFileHandler(path, "a", LOG_BYTES, LOG_FILES, encoding="utf-8")) as handler:
        yield lambda line: handler.emit(makeLogRecord({"msg": entry(path.stem, line, time.time())}))


def _copy(output: IO[str], path: Path) -> None:
    with output, writing(path) as say:
        for line in output:
            say(line.rstrip())
