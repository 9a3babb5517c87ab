"""What comes by C-STORE, be it sent to our listener or on the connection that asked for it.

An image goes to the disk as it arrives, and is taken if it was asked for. A message that is larger than
was agreed, or an image larger than there is room for, ends its connection: pynetdicom itself would
hold in memory whatever length a message claims to have, and store whatever is sent.
"""

import socket
import tempfile
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from pynetdicom import _config, evt

from imaging.pacs.spool import Spool
from protocol.errors import DicomError

_config.STORE_RECV_CHUNKED_DATASET = True  # an image goes to a file of `tempfile`, not to memory

MOST_PDU, MARGIN = 2**18, 2**12
"""Of a message, as is agreed; and what its own headers may add."""
TAKEN, NOT_ASKED, NO_ROOM = 0x0000, 0x0124, 0xA700
"""What we answer (PS3.4 B.2.3, PS3.7 C)."""


class Inbox:
    """What is awaited, and where it goes."""

    def __init__(self) -> None:
        self._spool: Spool | None = None
        self._awaited = set[str]()
        self._arrived = Counter[int]()
        self._sockets: dict[int, socket.socket] = {}

    @property
    def handlers(self) -> list[Any]:
        """What a connection needs, of either direction."""
        return [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_CONN_CLOSE, self._closed),
        ]

    @contextmanager
    def awaiting(self, images: Sequence[str], spool: Spool) -> Generator[None]:
        """Take these images for as long; `tempfile` is how pynetdicom is told where they arrive."""
        before, tempfile.tempdir = tempfile.tempdir, str(spool.arriving)
        self._spool, self._awaited = spool, {*images}
        try:
            yield
        finally:
            self._spool, tempfile.tempdir = None, before

    def _store(self, event: Any) -> int:
        """Take an image that was asked for, and no other."""
        self._arrived[id(event.assoc)] = 0
        image, file = str(event.request.AffectedSOPInstanceUID), event.dataset_path
        event.request._dataset_file.close()  # noqa: SLF001 - on the connection that asked, nobody else does
        try:
            if self._spool is None or image not in self._awaited:
                return NOT_ASKED
            self._spool.take(file, image)
            self._awaited.discard(image)
        except DicomError:
            return NO_ROOM
        finally:
            file.unlink(missing_ok=True)
        return TAKEN

    def _opened(self, event: Any) -> None:
        """Put a bound before whatever reads from a new connection."""
        line, key = event.assoc.dul.socket, id(event.assoc)
        receive = line.recv
        self._arrived[key], self._sockets[key] = 0, line.socket

        def bounded(size: int) -> bytearray:
            self._arrived[key] += size
            room = self._spool.room if self._spool else 0
            if size > MOST_PDU + MARGIN or self._arrived[key] > room + MOST_PDU:
                line.close()
                raise OSError("larger than was agreed, or than there is room for")
            return receive(size)

        line.recv = bounded

    def _closed(self, event: Any) -> None:
        """Close the socket, which pynetdicom leaves open where the other end was faster."""
        opened = self._sockets.pop(id(event.assoc), None)
        if opened is not None:
            opened.close()
