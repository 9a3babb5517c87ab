"""Only the hospital's own code runs.

Flower would unpack the coordinator's bundle, put it first on the import path and run what is in it, in a new
process for every message. Here it is compared and never unpacked:

    1. compare the bundle's hash with the installed version's (`client.approved`)
    2. hand the message to the warm worker (`client.worker`): the installed `client.app` answers it,
       or refuses where the bundle was another, or the message too large to be taken; either is in the audit
       log before it leaves

What kills the worker kills nothing else: it is answered for, and another takes its place.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from flwr.app import Message

from client.approved import objection
from client.limits import require_room
from client.worker import Worker, died

log = logging.getLogger("consilium.launcher")


class Launcher:
    """Answers one message after the other with one warm worker.

    A worker ends with the thread that started it: all of this belongs to one thread that lasts.
    """

    def __init__(self, approved: Path, policy: Path | None, start: Callable[[], Worker]) -> None:
        self._approved = approved
        self._policy = policy
        self._start = start
        self._worker = start()
        self.lying = frozenset[str]()
        """Pieces of the last message, where it was only to be scored: they may still lie where they were."""

    def room(self, sizes: Sequence[int]) -> list[memoryview]:
        """Return memory for the next message's vectors, of so many bytes each, which the worker sees too.

        Raises `PolicyError` where the hospital allows none so large.
        """
        require_room(sizes, self._policy)
        return self._worker.room(sizes)

    def answer(self, message: Message, bundle: bytes, why: str = "") -> Message:
        """Return the reply to a message of a run that came with `bundle`; a refusal if there is a `why`."""
        try:
            self._worker.send(message, why or objection(bundle, self._approved))
            return self._worker.receive()
        except (OSError, EOFError):
            log.exception("the worker died over a %s", message.metadata.message_type)
            self._worker.close()
            self._worker = self._start()
            return died(message)

    def close(self) -> None:
        """End the worker."""
        self._worker.close()
