"""The site's working process: imports, data and model stay warm between tasks.

    keeper of the worker --objection, message--> worker --reply--> keeper

Torch and its companions take seconds and half a gigabyte to import, which is done before a task comes;
secure aggregation keeps its secrets in memory for the length of a round (`client.secure`): so the process
that works is one that stays. It is a process of its own because what it does may end it, for lack of memory,
say; whoever keeps it then answers in its place and starts another.
"""

import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, cast

from flwr.app import Error, Message

from client.settings import Settings
from protocol import logs
from protocol.errors import WireError
from protocol.leash import die_with
from protocol.pipe import Channel

DIED, UNREADABLE = 1, 2
STOP_S = 5.0
_LOSSES = ("monai.losses.dice", "monai.losses.focal_loss", "monai.metrics.utils")
_ALONG = ("mlflow", "pandas", "sklearn", "matplotlib")
"""What MONAI imports where it is installed, for parts that no task uses: 1.5 CPU seconds and 150 MB."""


class Worker:
    """One such process, and the pipe to it."""

    def __init__(self, settings: Settings) -> None:
        spawn = multiprocessing.get_context("spawn")
        pipe, theirs = spawn.Pipe()
        self._channel = Channel(pipe)
        self.room = self._channel.room
        self.process = spawn.Process(target=serve, args=(theirs, settings, os.getpid()), daemon=True)
        self.process.start()
        theirs.close()

    def send(self, message: Message, objection: str = "") -> None:
        """Hand over a message; with an `objection` it is answered by that and nothing is done.

        Raises `OSError` for a process that has died.
        """
        self._channel.pipe.send_bytes(objection.encode())
        self._channel.send(message)

    def has_answered(self, seconds: float = 0.0) -> bool:
        """Say whether `receive` would return at once, after waiting at most `seconds`."""
        return self._channel.pipe.poll(seconds)

    def receive(self) -> Message:
        """Return the next reply; `EOFError` or `OSError` for a process that has died."""
        return self._channel.receive()

    def close(self) -> None:
        """End the process: first politely, then by SIGKILL."""
        self._channel.pipe.close()
        self.process.join(STOP_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def died(asked: Message) -> Message:
    """Return the reply in place of a process that can give none."""
    return Message(Error(DIED, "the site's process died: see its log"), reply_to=asked)


def warm() -> None:
    """Import what a task may need, before one comes: most of MONAI's time is other libraries'."""
    with _hidden(_ALONG):
        for name in _LOSSES:
            importlib.import_module(name)


@contextmanager
def _hidden(names: tuple[str, ...]) -> Generator[None]:
    """Have it so that those libraries that nobody has imported yet are not installed."""
    modules = cast("dict[str, Any]", sys.modules)  # None: an import of it fails
    hidden = [name for name in names if name not in modules]
    modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]


def serve(pipe: Connection, settings: Settings, parent: int) -> None:
    """Answer messages from `pipe` until it closes, or `parent` ends. Runs in the worker."""
    die_with(parent)
    logs.begin()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the keeper's to handle
    from client.app import answer, refuse  # noqa: PLC0415 - heavy imports belong to the worker

    warm()
    channel = Channel(pipe)
    while True:
        try:
            objection = pipe.recv_bytes().decode()
            message = channel.receive()
        except EOFError:
            return
        try:
            reply = refuse(message, settings, objection) if objection else answer(message, settings)
        except WireError as error:
            reply = Message(Error(UNREADABLE, str(error)), reply_to=message)
        del message  # the reply goes where its vectors were
        channel.send(reply)
