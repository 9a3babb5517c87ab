"""C-FIND finds; C-GET fetches, or C-MOVE has images sent to a listener of ours (PS3.4 C, PS3.7).

C-GET brings images on the connection that asked. C-MOVE needs a door: an address and a port that the
hospital names, open for as long as studies are fetched, to the archive's own addresses and title alone.

What comes, whichever way, goes through `imaging.pacs.inbox`.
"""

import logging
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from socketserver import BaseServer
from typing import Any

from pydicom import uid
from pydicom.dataset import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, _config, build_role
from pynetdicom.association import Association
from pynetdicom.transport import ThreadedAssociationServer

from imaging.dicom import text
from imaging.pacs import WANTED, Level, Row
from imaging.pacs.inbox import MOST_PDU, Inbox
from imaging.pacs.settings import DimseSettings, Pacs
from imaging.pacs.spool import Spool
from imaging.reasons import Reason
from protocol.errors import DicomError, PacsError, SettingsError

logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # it logs what is asked and what comes
_config.LOG_HANDLER_LEVEL = "none"

ANSWER_S, QUIET_S = 10.0, 600.0
"""For a connection to be agreed; and for the next word of an archive that fetches from a tape."""
MOST_LINES = 4
SUCCESS, PENDING, UNKNOWN_DESTINATION = 0x0000, {0xFF00, 0xFF01}, 0xA801

STORED = (
    *(uid.MRImageStorage, uid.EnhancedMRImageStorage, uid.LegacyConvertedEnhancedMRImageStorage),
    *(uid.CTImageStorage, uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage),
    *(uid.PositronEmissionTomographyImageStorage, uid.EnhancedPETImageStorage),
    *(uid.SegmentationStorage, uid.RTStructureSetStorage),
)
"""What is received: `imaging.pacs.asked.MODALITIES`."""
NOBODYS = "2.25.0"
ECHO = uid.UID("1.2.840.10008.1.1")
FIND, MOVE, GET = (uid.UID(f"1.2.840.10008.5.1.4.1.2.2.{way}") for way in (1, 2, 3))
"""DICOM's services, the latter at the level of studies (PS3.6 A)."""


class Dimse:
    """An archive that speaks C-FIND and C-GET or C-MOVE."""

    def __init__(self, pacs: Pacs) -> None:
        assert isinstance(pacs.settings, DimseSettings)  # noqa: S101 - `connected` has looked
        self._pacs, self._to = pacs, pacs.settings
        self._inbox = Inbox()
        self._name = f"the PACS '{pacs.name}'"

    def ping(self) -> str:
        """Ask by C-ECHO whether it hears us; and by C-FIND, for nobody's study, whether we may ask."""
        with self._associated([ECHO]) as line:
            status = line.send_c_echo()
        if text(status, "Status") != "0":
            raise PacsError(f"{self._name} does not answer C-ECHO: is {self._to.aet} its title?")
        try:
            list(self.find("STUDY", {"StudyInstanceUID": NOBODYS}))
        except DicomError:
            raise PacsError(
                f"{self._name} answers no question of ours: is {self._to.calling} known to it?"
            ) from None
        way = f"C-MOVE to {self._to.listen}" if self._to.door else "C-GET"
        return f"answers C-FIND as {self._to.aet}; {way}, {'TLS' if self._to.tls else 'not encrypted'}"

    def find(self, level: Level, keys: Row) -> Iterator[Row]:
        """See `Archive`."""
        with self._associated([FIND]) as line:
            for status, found in line.send_c_find(_identifier(level, keys), FIND):
                code = _code(status)
                if code in PENDING and found is not None:
                    yield {keyword: text(found, keyword) for keyword in WANTED[level]}
                elif code not in {SUCCESS, *PENDING}:
                    raise DicomError(Reason.NOT_SENT, f"the PACS ends C-FIND {_ended(code)}")

    def fetch(self, study: str, series: str, images: Sequence[str], spool: Spool) -> Counter[str]:
        """See `Archive`."""
        keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": "\\".join(images)}
        with self._inbox.awaiting(images, spool):
            code = self._move(keys) if self._to.door else self._get(keys)
        if code == UNKNOWN_DESTINATION:
            raise PacsError(
                f"{self._name} does not know where {self._to.calling} is: enter {self._to.listen} there"
            )
        missing = sum(not spool.has(image) for image in images)
        return (
            Counter({f"the PACS did not send it, and ended {_ended(code)}": missing})
            if missing
            else Counter()
        )

    @contextmanager
    def door(self) -> Generator[None]:
        """Listen for as long, if images are to be sent to us."""
        if self._to.door is None:
            yield
            return
        entity = self._entity()
        entity.require_called_aet, entity.require_calling_aet = True, [self._to.aet]
        entity.maximum_associations = MOST_LINES
        for kind in STORED:
            entity.add_supported_context(kind, ALL_TRANSFER_SYNTAXES)
        try:
            server: Any = entity.make_server(
                self._to.door,
                ssl_context=self._pacs.context(ssl.Purpose.CLIENT_AUTH) if self._to.tls else None,
                evt_handlers=self._inbox.handlers,
                server_class=_Door,
            )
        except OSError as error:
            raise SettingsError(f"pacs.yaml, listen: {self._to.listen}: {error.strerror}") from None
        server.peers = {each for host in (self._to.host, *self._to.peers) for each in _addresses(host)}
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            entity.shutdown()
            server.shutdown()
            thread.join()

    # -- Connections -------------------------------------------------------------------------

    @contextmanager
    def _associated(self, kinds: Sequence[uid.UID], *, receives: bool = False) -> Generator[Association]:
        """Connect, so that what is stored may come back on the same connection if `receives`."""
        self._reach()
        entity = self._entity()
        for kind in kinds:
            entity.add_requested_context(kind)
        for kind in STORED if receives else ():
            entity.add_requested_context(kind, ALL_TRANSFER_SYNTAXES)
        line = entity.associate(
            self._to.host,
            self._to.port,
            ae_title=self._to.aet,
            ext_neg=[build_role(kind, scp_role=True) for kind in STORED] if receives else None,
            tls_args=(self._pacs.context(), self._to.host) if self._to.tls else None,
            evt_handlers=self._inbox.handlers,
        )
        if not line.is_established:
            raise PacsError(f"{self._name} {self._refused(line)}")
        if not any(each.abstract_syntax in kinds for each in line.accepted_contexts):
            line.abort()
            raise PacsError(f"{self._name} does not offer what was asked ({kinds[0].name})")
        try:
            yield line
        finally:
            line.release() if line.is_established else line.abort()

    def _reach(self) -> None:
        """See whether anybody is there: pynetdicom would not say why not, and leave the socket open."""
        try:
            socket.create_connection((self._to.host, self._to.port), ANSWER_S).close()
        except OSError as error:
            raise PacsError(
                f"{self._name} does not answer at {self._to.host}:{self._to.port} ({error.strerror}): "
                "address, port, network, firewall?"
            ) from None

    def _entity(self) -> AE:
        entity = AE(self._to.calling)
        entity.connection_timeout = entity.acse_timeout = ANSWER_S
        entity.network_timeout = entity.dimse_timeout = QUIET_S
        entity.maximum_pdu_size = MOST_PDU
        return entity

    def _refused(self, line: Association) -> str:
        if line.is_rejected:
            return f"refuses {self._to.calling}: is that known to it, and {self._to.aet} its own title?"
        return "ends the connection before it is agreed: is it a PACS, does it want TLS, or not?"

    def _get(self, keys: Row) -> int | None:
        with self._associated([GET], receives=True) as line:
            return _last(line.send_c_get(_identifier("IMAGE", keys), GET))

    def _move(self, keys: Row) -> int | None:
        with self._associated([MOVE]) as line:
            return _last(line.send_c_move(_identifier("IMAGE", keys), self._to.calling, MOVE))


class _Door(ThreadedAssociationServer):
    """Hears nobody but `peers`: a connection of another is closed before a byte of it is read."""

    peers: set[str]

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - as it is called
        """See `socketserver`."""
        return client_address[0] in self.peers

    def shutdown(self) -> None:
        """Stop; pynetdicom's own looks for a server that it has started itself."""
        BaseServer.shutdown(self)
        self.server_close()


def _addresses(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise SettingsError(f"pacs.yaml: {host}: {error.strerror}") from None


# -- Messages --------------------------------------------------------------------------------


def _identifier(level: Level, keys: Row) -> Dataset:
    """Return what a question consists of: what is known, and what is to be told."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    if not all(value.isascii() for value in keys.values()):
        identifier.SpecificCharacterSet = "ISO_IR 192"
    for keyword in (*WANTED[level], *keys):
        setattr(identifier, keyword, keys.get(keyword, ""))
    return identifier


def _last(answers: Iterator[tuple[Dataset, Dataset | None]]) -> int | None:
    """Return the status that ends an answer; None if the connection ended first."""
    code = None
    for status, _ in answers:
        code = _code(status)
    return code


def _code(status: Dataset) -> int | None:
    return int(status.Status) if "Status" in status else None


def _ended(code: int | None) -> str:
    return "without a word" if code is None else f"with status 0x{code:04X}"
