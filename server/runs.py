"""Keeping runs going: somebody wants a run, and Flower loses it now and then.

    RUN/wanted.json      what somebody asked for: go on, or stop; written by the command line
    RUN/submitted.json   the newest of Flower's runs for it, and how often that failed; written here
    RUN/conductor.lock   held by the server application at work (`server.app`)

Flower's run ends with its process, its SuperLink, or an error. Ours goes on from its checkpoint: the code is
submitted again, after a pause that doubles, until five in a row have not ended one round.
A server application that Flower has given up is killed before the next one starts, so that never two
write into one folder.
"""

import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from protocol import files
from protocol.claim import holder
from protocol.errors import CheckpointError, TrackingError
from server.control import Control
from server.record import CONDUCTOR, RunRecord, read_record

log = logging.getLogger("consilium.runs")

WANTED, SUBMITTED = "wanted.json", "submitted.json"
MOST_FAILURES = 5
LONGEST_PAUSE_S = 60.0
STOP_S = 20.0
"""How long a server application may take to stop."""


@dataclass(frozen=True)
class Wanted:
    """What somebody wants of a run, and with what it is started (`server.app.conduct`)."""

    going: bool
    sites: int
    tracking: str = ""


@dataclass(frozen=True)
class Submission:
    """Flower's newest run for ours: since when, how many rounds there were then, and what became of it.

    `interrupted`: when it was asked to stop.
    """

    flower: int
    at: float
    rounds: int
    failures: int = 0
    why: str = ""
    ended: bool = False
    interrupted: float = 0.0


def want(folder: Path, wanted: Wanted) -> None:
    """Ask for a run to go on, or to stop."""
    files.write_text(folder / WANTED, json.dumps(asdict(wanted)))


def read_wanted(folder: Path) -> Wanted:
    """Return what somebody wants; `TrackingError` for a run that nobody started here."""
    if not (folder / WANTED).exists():
        raise TrackingError(f"{folder} was not started by `consilium run start`: see `consilium run list`")
    return Wanted(**json.loads((folder / WANTED).read_text(encoding="utf-8")))


def read_submission(folder: Path) -> Submission | None:
    """Return Flower's newest run; None before the first."""
    path = folder / SUBMITTED
    return Submission(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def wanted_runs(runs: Path) -> Iterator[Path]:
    """Yield the folders of runs that somebody started here."""
    yield from sorted(path.parent for path in runs.glob(f"*/{WANTED}"))


def tend(folder: Path, home: Path, control: Control) -> None:
    """Take a run one step nearer to what is wanted of it. `WireError` where the SuperLink is away."""
    wanted, last = read_wanted(folder), read_submission(folder)
    if last is None or last.ended:
        if wanted.going and not (last and is_over(folder, last)):
            _submit(folder, home, wanted, last, control)
        return
    if not wanted.going and not last.interrupted:
        last = _interrupted(folder, last)
    if (why := _end(folder, last, control)) is not None:
        _note(folder, replace(last, ended=True, why=why))


def is_over(folder: Path, last: Submission) -> bool:
    """Say whether a run needs no further submission: finished, or failed for good."""
    return status_of(folder) == "finished" or _failures(folder, last) >= MOST_FAILURES


def status_of(folder: Path) -> str:
    """Return what the run's own record says; "" before there is one."""
    record = record_of(folder)
    return record.status if record else ""


def record_of(folder: Path) -> RunRecord | None:
    """Return the run's own record; None before there is one."""
    try:
        return read_record(folder)
    except CheckpointError:
        return None


def _submit(folder: Path, home: Path, wanted: Wanted, last: Submission | None, control: Control) -> None:
    failures = _failures(folder, last) if last else 0
    if last and _since(last.at) < min(2.0**failures, LONGEST_PAUSE_S):
        return
    config = {
        "folder": str(folder),
        "sites": wanted.sites,
        "tracking": wanted.tracking,
        "coordinator": str(home),
    }
    flower = control.start(config)
    log.info("run %s: submitted, %d failures before", folder.name, failures)
    _note(folder, Submission(flower, time.time(), _rounds(folder), failures))


def _interrupted(folder: Path, last: Submission) -> Submission:
    pid = holder(folder / CONDUCTOR)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
    last = replace(last, interrupted=time.time())
    _note(folder, last)
    return last


def _end(folder: Path, last: Submission, control: Control) -> str | None:
    """Return why the submission has ended; None while it has not, or its process is still there."""
    why, pid = control.ended(last.flower), holder(folder / CONDUCTOR)
    deaf = last.interrupted and _since(last.interrupted) > STOP_S
    if pid is not None and (why is not None or deaf):
        log.warning("run %s: process %d is killed (%s)", folder.name, pid, why or "it does not stop")
        os.kill(pid, signal.SIGKILL)
        return None
    if why is None and (last.interrupted or _began(folder, last)) and pid is None:
        control.stop(last.flower)
        return "its process has ended"
    return why


def _since(then: float) -> float:
    """Return seconds since `then`, or until: a clock that was set back must not keep a run waiting for it."""
    return abs(time.time() - then)


def _began(folder: Path, last: Submission) -> bool:
    path = folder / CONDUCTOR
    return path.exists() and path.stat().st_mtime >= last.at


def _failures(folder: Path, last: Submission) -> int:
    """Return how many submissions in a row have not ended one round."""
    return 0 if _rounds(folder) > last.rounds else last.failures + 1


def _rounds(folder: Path) -> int:
    path = folder / "rounds.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _note(folder: Path, submission: Submission) -> None:
    files.write_text(folder / SUBMITTED, json.dumps(asdict(submission)))
