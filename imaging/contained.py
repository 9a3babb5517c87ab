"""Decoders in a process of their own, which may die of a file.

A JPEG with a wrong byte makes gdcm call `abort`: no exception, no traceback, the process is gone.
So one worker decodes for this process; it has little memory (`SPARE` above what a file
honestly needs), little time, and nothing to lose. If it dies, the file is at fault, and the
next file gets a new worker.

    parent -> worker   the file's path, JSON, one line
    worker -> parent   {"shape", "dtype"}, one line, then the values; or {"reason", "message"}

Nothing is unpickled: what a hijacked worker sends is numbers, or is refused.
"""

import atexit
import json
import math
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import numpy as np

from imaging.decoding import MIB, MOST_PIXELS, Pixels, stored
from imaging.reasons import Reason
from protocol.errors import DicomError

SPARE = 128 * MIB
MOST_S = 120.0
MOST_ANSWER = 4 * MOST_PIXELS
"""Bits become bytes, and palettes colours: decoded values may be longer than stored ones."""


class Worker:
    """The other process, as long as it lives."""

    def __init__(self) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "imaging.contained"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": paths},
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )

    def decode(self, path: Path) -> Pixels:
        """Return a file's pixels; `EOFError` if the worker died of it."""
        assert self.process.stdin  # noqa: S101 - for the type checker: both are pipes
        assert self.process.stdout  # noqa: S101
        watch = threading.Timer(MOST_S, self.process.kill)
        watch.start()
        try:
            self.process.stdin.write(json.dumps(str(path.absolute())).encode() + b"\n")
            self.process.stdin.flush()
            return _received(self.process.stdout)
        except (BrokenPipeError, ValueError, KeyError, TypeError) as error:
            raise EOFError from error  # it is gone, or sends what is no answer
        finally:
            watch.cancel()

    def close(self) -> None:
        """End the process: it stops where its orders do."""
        with self.process:
            self.process.kill()


_running: list[Worker] = []
_turn = threading.Lock()


def decode(path: Path) -> Pixels:
    """Decode a file in the worker.

    Raises:
        DicomError: what `imaging.decoding.stored` raised there; BAD_PIXELS if the worker died of the file.
    """
    with _turn:
        if not _running:
            _running.append(Worker())
        try:
            return _running[0].decode(path)
        except DicomError:
            raise
        except EOFError:
            close()
            raise DicomError(Reason.BAD_PIXELS, "its decoder broke down over it; export it anew") from None
        except BaseException:
            close()  # it may be half-way through an answer
            raise


def worker_pid() -> int | None:
    """Return the process id of the worker, if there is one."""
    return _running[0].process.pid if _running else None


@atexit.register
def close() -> None:
    """End the worker, if there is one; the next `decode` starts another."""
    while _running:
        _running.pop().close()


def _received(pipe: IO[bytes]) -> Pixels:
    """Return the pixels that a worker sends, or raise what it says."""
    reply: dict[str, Any] = json.loads(pipe.readline(2**16))
    if "reason" in reply:
        raise DicomError(Reason(reply["reason"]), str(reply["message"]))
    dtype, shape = np.dtype(str(reply["dtype"])), [int(each) for each in reply["shape"]]
    size = dtype.itemsize * math.prod(shape)
    if dtype.kind not in "uif" or size > MOST_ANSWER or min(shape) < 1:
        raise EOFError
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return np.frombuffer(data, dtype).reshape(shape)


# -- In the worker ---------------------------------------------------------------------------


def serve(orders: IO[bytes], answers: IO[bytes]) -> None:
    """Decode file after file until there are no more orders."""
    for line in orders:
        try:
            values = np.ascontiguousarray(stored(Path(json.loads(line)), _limit))
            reply = {"shape": values.shape, "dtype": values.dtype.str}
        except DicomError as error:
            values, reply = None, {"reason": error.reason, "message": str(error).partition(": ")[2]}
        answers.write(json.dumps(reply).encode() + b"\n")
        if values is not None:
            answers.write(values.data)  # pyright: ignore[reportArgumentType] - a contiguous memoryview
        answers.flush()


def _limit(needed: int) -> None:
    """Let this process have `needed` bytes more than now, and some to spare."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most, hard = pages * resource.getpagesize() + needed + SPARE, resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def main() -> None:
    """Serve the parent; whatever a library prints goes nowhere."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dying decoder must not leave a patient on the disk
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
