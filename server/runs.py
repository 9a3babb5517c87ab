"""Keeping runs going: somebody wants a run, and Flower loses it now and then.

What is wanted, and what became of it, stands in the run's folder (`server.folders`), where the server
application at work (`server.app`) holds conductor.lock.

Flower's run ends with its process, its SuperLink, or an error. Ours goes on from its checkpoint: the code is
submitted again, after a pause that doubles, until five in a row have not ended one round.
A server application that Flower has given up is killed before the next one starts, so that never two
write into one folder.
"""

import logging
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from protocol.claim import holder
from server.control import Control
from server.folders import (
    Submission,
    Wanted,
    failures,
    is_over,
    note,
    read_submission,
    read_wanted,
    rounds,
    status_of,
)
from server.record import CONDUCTOR

log = logging.getLogger("consilium.runs")

LONGEST_PAUSE_S = 60.0
STOP_S = 20.0
"""How long a server application may take to stop."""


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
        note(folder, replace(last, ended=True, why=why))


def _submit(folder: Path, home: Path, wanted: Wanted, last: Submission | None, control: Control) -> None:
    before = failures(folder, last) if last else 0
    if last and _since(last.at) < min(2.0**before, LONGEST_PAUSE_S):
        return
    config = {
        "folder": str(folder),
        "sites": wanted.sites,
        "tracking": wanted.tracking,
        "coordinator": str(home),
    }
    flower = control.start(config)
    log.info("run %s: submitted, %d failures before", folder.name, before)
    note(folder, Submission(flower, time.time(), rounds(folder), before))


def _interrupted(folder: Path, last: Submission) -> Submission:
    pid = holder(folder / CONDUCTOR)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
    last = replace(last, interrupted=time.time())
    note(folder, last)
    return last


def _end(folder: Path, last: Submission, control: Control) -> str | None:
    """Return why the submission has ended; None while it has not, or its process is still there."""
    pid = holder(folder / CONDUCTOR)
    why = control.ended(last.flower, recent=pid is not None)
    deaf = last.interrupted and _since(last.interrupted) > STOP_S
    if pid is not None and (why is not None or deaf):
        log.warning("run %s: process %d is killed (%s)", folder.name, pid, why or "it does not stop")
        os.kill(pid, signal.SIGKILL)
        return None
    if why is None and pid is None and (last.interrupted or _began(folder, last)):
        return _told(folder, last, control)
    return why


def _told(folder: Path, last: Submission, control: Control) -> str | None:
    """Tell Flower that the process is gone, and return why the submission has ended.

    After a good end Flower hears of it by itself, and a stop before that would take the process's last words
    from it: it is told if it has not for a while.
    """
    if status_of(folder) == "finished" and not last.left:
        note(folder, replace(last, left=time.time()))
        return None
    if last.left and _since(last.left) < STOP_S:
        return None
    control.stop(last.flower)
    return "its process has ended"


def _since(then: float) -> float:
    """Return seconds since `then`, or until: a clock that was set back must not keep a run waiting for it."""
    return abs(time.time() - then)


def _began(folder: Path, last: Submission) -> bool:
    path = folder / CONDUCTOR
    return path.exists() and path.stat().st_mtime >= last.at
