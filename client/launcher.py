"""Only the hospital's own code runs.

Flower would unpack the coordinator's bundle, put it first on the import path and run what is in it, in a new
process for every message. Here it is compared and never unpacked:

    1. compare the bundle's hash with the installed version's (`client.approved`)
    2. hand the message to the warm worker (`client.worker`): the installed `client.app` answers it,
       or refuses where the bundle was another; either is in the audit log before it leaves

What kills the worker kills nothing else: it is answered for, and another takes its place.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from flwr.app import Message

from client.approved import objection
from client.worker import Worker, died

log = logging.getLogger("consilium.launcher")


class Launcher:
    """Answers one message after the other with one warm worker.

    A worker ends with the thread that started it: all of this belongs to one thread that lasts.
    """

    def __init__(self, approved: Path, start: Callable[[], Worker]) -> None:
        self._approved = approved
        self._start = start
        self._worker = start()
        self.lying = frozenset[str]()
        """Pieces of the last message, where it was only to be scored: they may still lie where they were."""

    def room(self, sizes: Sequence[int]) -> list[memoryview]:
        """Return memory for the next message's vectors, of so many bytes each, which the worker sees too."""
        return self._worker.room(sizes)

    def answer(self, message: Message, bundle: bytes) -> Message:
        """Return the reply to a message of a run that came with `bundle`."""
        try:
            self._worker.send(message, objection(bundle, self._approved))
            return self._worker.receive()
        except (OSError, EOFError):
            log.exception("the worker died over a %s", message.metadata.message_type)
            self._worker.close()
            self._worker = self._start()
            return died(message)

    def close(self) -> None:
        """End the worker."""
        self._worker.close()
