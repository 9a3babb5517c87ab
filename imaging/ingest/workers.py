"""Work on many items in processes of their own, some of which may die.

    parent -> worker   the paths of a `Desk`, one line; then {"job": ..., "items": [...]}, a line a piece
    worker -> parent   [result, ...], or {"error": ...} where this machine is at fault, a line a piece

All of it is JSON. A worker that dies (of a file that a library cannot bear, or because memory is short)
takes no more than its piece with it: the items are done one by one, and the one that kills its worker again
is lost, alone. Workers end when the parent does, however it ended, for nobody writes to them any more.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import Queue
from typing import IO, Any

from imaging.ingest.admit import admit, crashed
from imaging.ingest.build import attempt, unbuilt
from imaging.ingest.desk import Desk
from protocol.errors import SettingsError


@dataclass(frozen=True)
class Job:
    """What is done with each item, and what is told of one that killed its worker; plain data all."""

    work: Callable[[Desk, Any], Any]
    lost: Callable[[Desk, Any], Any]


JOBS = {"admit": Job(admit, crashed), "build": Job(attempt, unbuilt)}


class Worker:
    """One process, as long as it lives."""

    def __init__(self, desk: Desk) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "imaging.ingest.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a library's complaint may quote a header
            env=os.environ | {"PYTHONPATH": paths},
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        self._send(desk.paths())

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(self, job: str, items: Sequence[Any]) -> list[Any]:
        """Return a result for each item; `EOFError` if the worker died of one of them."""
        assert self._process.stdout  # noqa: S101 - for the type checker: it is a pipe
        self._send({"job": job, "items": items})
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        reply = json.loads(line)
        if isinstance(reply, dict):
            raise SettingsError(str(reply["error"]))
        return reply

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()  # closes the pipes, a broken one too

    def _send(self, message: Any) -> None:
        assert self._process.stdin  # noqa: S101 - as above
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise EOFError from None


class Crew:
    """At most `workers` processes, there until `hired` ends; one is this process itself."""

    def __init__(self, desk: Desk, workers: int) -> None:
        self._desk, self._workers = desk, workers
        self._idle, self._hired = Queue[Worker](), 0

    def through(self, job: str, items: Sequence[Any], piece: int) -> Iterator[list[Any]]:
        """Yield the results of `JOBS[job]`, piece by piece in the items' order."""
        pieces = [items[at : at + piece] for at in range(0, len(items), piece)]
        if self._workers == 1:
            yield from ([JOBS[job].work(self._desk, item) for item in each] for each in pieces)
            return
        while self._hired < min(self._workers, len(pieces)):
            self._idle.put(Worker(self._desk))
            self._hired += 1
        with ThreadPoolExecutor(self._workers) as pool:
            try:
                yield from pool.map(partial(self._done, job), pieces)
            finally:
                pool.shutdown(cancel_futures=True)

    def close(self) -> None:
        """End all processes."""
        while not self._idle.empty():
            self._idle.get().close()

    def _done(self, job: str, items: Sequence[Any]) -> list[Any]:
        """Let an idle worker do a piece; if it dies, go on item by item."""
        worker = self._idle.get()
        try:
            return worker.ask(job, items)
        except EOFError:
            worker.close()
            worker = Worker(self._desk)
            if len(items) == 1:
                return [JOBS[job].lost(self._desk, items[0])]
        finally:
            self._idle.put(worker)
        return [result for item in items for result in self._done(job, [item])]


@contextmanager
def hired(desk: Desk, workers: int) -> Generator[Crew]:
    """Give a crew, whose processes end with it."""
    crew = Crew(desk, workers)
    try:
        yield crew
    finally:
        crew.close()


# -- In the worker ---------------------------------------------------------------------------


def serve(orders: IO[bytes], answers: IO[bytes]) -> None:
    """Do piece after piece until there are no more orders."""
    desk = Desk.at(**json.loads(orders.readline()))
    for line in orders:
        order = json.loads(line)
        try:
            reply: Any = [JOBS[order["job"]].work(desk, item) for item in order["items"]]
        except OSError as error:
            reply = {"error": f"the cohort's folder cannot be written ({error.strerror}): make room"}
        answers.write(json.dumps(reply).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
