"""C-FIND, C-GET and C-MOVE, against pynetdicom as an archive that can misbehave."""

import logging
import socket
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE, evt

from imaging.pacs import WANTED, dimse
from imaging.pacs.dimse import ECHO, FIND, GET, MOVE, Dimse
from imaging.pacs.inbox import Inbox
from imaging.pacs.settings import DimseSettings, Pacs
from imaging.pacs.spool import Spool
from imaging.pseudonyms import Pseudonyms
from protocol.errors import DicomError, PacsError, SettingsError
from sim.phantom_dicom import write_series
from tests.client.listener import closed_port
from tests.imaging.ingest.exports import NAME, patient, volume

MR = "1.2.840.10008.5.1.4.1.1.4"


class Archive:
    """Holds images; `pushes` also sends one that nobody asked for, `status` is how it ends."""

    def __init__(self, images: list[Dataset], door: int) -> None:
        self.images, self.door = images, door
        self.pushes, self.status, self.port = False, 0x0000, 0

    def find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        level = event.identifier.QueryRetrieveLevel
        if self.status:
            yield self.status, None
            return
        for each in self._matching(event.identifier):
            found = Dataset()
            for keyword in WANTED[level]:
                setattr(found, keyword, each.get(keyword, ""))
            yield 0xFF00, found

    def get(self, event: Any) -> Iterator[Any]:
        yield from self._sent(event)

    def move(self, event: Any) -> Iterator[Any]:
        yield "127.0.0.1", self.door
        yield from self._sent(event)

    def _sent(self, event: Any) -> Iterator[Any]:
        found = self._matching(event.identifier)
        yield len(found) + self.pushes
        for each in found:
            yield 0xFF00, each
        if self.pushes:
            yield 0xFF00, self.images[-1]
        if self.status:
            yield self.status, None

    def _matching(self, keys: Dataset) -> list[Dataset]:
        wanted = keys.get("SOPInstanceUID") or [each.SOPInstanceUID for each in self.images]
        wanted = [wanted] if isinstance(wanted, str) else wanted
        number = keys.get("PatientID")
        return [e for e in self.images if e.SOPInstanceUID in wanted and number in {None, "", e.PatientID}]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    folder = tmp_path_factory.mktemp("pacs")
    write_series(folder, volume(1), "t1", "siemens", patient(1))
    return [dcmread(path) for path in sorted(folder.iterdir())]


@pytest.fixture
def archive(images: list[Dataset]) -> Iterator[Archive]:
    here = Archive(images, closed_port())
    entity = AE("OLD")
    entity.require_called_aet, entity.require_calling_aet = True, ["CONSILIUM"]
    for kind in (ECHO, FIND, GET, MOVE):
        entity.add_supported_context(kind)
    entity.add_supported_context(MR, scp_role=True, scu_role=True)
    entity.add_requested_context(MR)
    handlers = [(evt.EVT_C_FIND, here.find), (evt.EVT_C_GET, here.get), (evt.EVT_C_MOVE, here.move)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    here.port = server.socket.getsockname()[1]
    yield here
    entity.shutdown()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", 10**6, Pseudonyms(bytes(32)))


def by_get(archive: Archive, **changes: Any) -> Dimse:
    return Dimse(
        Pacs(
            "old",
            DimseSettings(**{"host": "127.0.0.1", "port": archive.port, "aet": "OLD", **changes}),
            Path(),
        )
    )


def by_move(archive: Archive, **changes: Any) -> Dimse:
    return by_get(archive, **{"listen": f"127.0.0.1:{archive.door}", **changes})


def fetched(way: Dimse, spool: Spool, images: list[Dataset]) -> dict[str, int]:
    with way.door():
        return dict(way.fetch("1", "2", [each.SOPInstanceUID for each in images], spool))


def there(spool: Spool, images: list[Dataset]) -> int:
    """How many of them are in the spool; nothing else is."""
    found = [path for path in spool.folder.rglob("*") if path.is_file()]
    assert {*found} <= {spool.path(each.SOPInstanceUID) for each in images}
    return len(found)


def test_what_is_found_is_what_was_asked(archive: Archive, images: list[Dataset]) -> None:
    rows = [*by_get(archive).find("IMAGE", {"StudyInstanceUID": "1", "SeriesInstanceUID": "2"})]

    assert [row["SOPInstanceUID"] for row in rows] == [each.SOPInstanceUID for each in images]
    (row, *_) = by_get(archive).find("STUDY", {"PatientID": patient(1), "StudyDate": "20200101-"})
    assert (row["PatientID"], row["StudyDate"]) == (patient(1), "20200101")
    assert [*by_get(archive).find("STUDY", {"PatientID": "Ö"})] == []


@pytest.mark.parametrize("way", [by_get, by_move])
def test_images_come_as_they_were_and_nothing_else_does(
    archive: Archive, spool: Spool, images: list[Dataset], way: Any
) -> None:
    """The archive also pushes an image that nobody has asked for."""
    archive.pushes = True

    assert fetched(way(archive), spool, images[:2]) == {}
    assert there(spool, images[:2]) == 2
    for each in images[:2]:
        path = spool.path(each.SOPInstanceUID)
        assert dcmread(path).PixelData == each.PixelData
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("way", [by_get, by_move])
def test_what_does_not_come_is_counted(
    archive: Archive, spool: Spool, images: list[Dataset], way: Any
) -> None:
    archive.images = images[:1]

    assert fetched(way(archive), spool, images[:2]) == {
        "the PACS did not send it, and ended with status 0x0000": 1
    }
    assert there(spool, images[:1]) == 1


@pytest.mark.parametrize("way", [by_get, by_move])
def test_an_image_without_room_is_not_taken(
    archive: Archive, tmp_path: Path, images: list[Dataset], way: Any
) -> None:
    """Neither is more of it written than there is room for."""
    spool = Spool(tmp_path / "spool", len(images[0].PixelData), Pseudonyms(bytes(32)))

    (why,) = fetched(way(archive), spool, images[:1])
    assert "did not send" in why
    assert there(spool, []) == 0


def test_a_mutant_that_takes_whatever_comes_is_caught(
    archive: Archive, spool: Spool, images: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Everything(set[str]):
        def __contains__(self, _: object) -> bool:
            return True

    whole = Inbox.awaiting

    @contextmanager
    def awaiting(self: Inbox, wanted: Any, into: Spool) -> Generator[None]:
        with whole(self, wanted, into):
            self._awaited = Everything()
            yield

    monkeypatch.setattr(Inbox, "awaiting", awaiting)
    with pytest.raises(AssertionError):
        test_images_come_as_they_were_and_nothing_else_does(archive, spool, images, by_move)


# -- The door --------------------------------------------------------------------------------


def knock(port: int, calling: str = "OLD", called: str = "CONSILIUM") -> bool:
    """Whether an archive of this title is let in."""
    try:
        socket.create_connection(("127.0.0.1", port), 10).close()
    except OSError:
        return False
    entity = AE(calling)
    entity.add_requested_context(MR)
    line = entity.associate("127.0.0.1", port, ae_title=called, evt_handlers=Inbox().handlers)
    is_let_in = line.is_established
    if is_let_in:
        line.release()
    return is_let_in


def test_the_door_opens_to_the_archive_alone(archive: Archive) -> None:
    """By its title, by ours, by its address; and it is shut when studies are not fetched."""
    with by_move(archive).door():
        assert knock(archive.door)
        assert not knock(archive.door, calling="STRANGER")
        assert not knock(archive.door, called="SOMEBODY")
    assert not knock(archive.door)


def test_another_address_is_not_listened_to(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dimse, "_addresses", lambda _: {"192.0.2.1"})
    with by_move(archive).door():
        assert not knock(archive.door)


def test_a_message_that_claims_to_be_large_ends_the_connection(archive: Archive) -> None:
    """Before it is received: pynetdicom would hold as much as comes."""
    with by_move(archive).door():
        assert not swallows(archive.door, b"\x04\x00" + (2**31).to_bytes(4, "big"), pieces=1024)


def swallows(port: int, begin: bytes, pieces: int) -> bool:
    """Whether so many pieces of 64 KiB can be sent after the beginning of a message."""
    with socket.create_connection(("127.0.0.1", port), 30) as line:
        try:
            line.sendall(begin)
            for _ in range(pieces):
                line.sendall(bytes(2**16))
        except OSError:  # reset, or a broken pipe
            return False
    return True


def test_a_mutant_without_the_bound_is_caught(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Inbox, "_opened", lambda *_: None)
    with pytest.raises(AssertionError):
        test_a_message_that_claims_to_be_large_ends_the_connection(archive)


def test_a_port_that_is_taken_is_said(archive: Archive) -> None:
    with by_move(archive).door(), pytest.raises(SettingsError, match="listen"), by_move(archive).door():
        pass


# -- What is wrong ---------------------------------------------------------------------------


def test_who_is_refused_is_told_what_to_look_at(archive: Archive) -> None:
    with pytest.raises(PacsError, match="refuses STRANGER"):
        by_get(archive, calling="STRANGER").ping()
    with pytest.raises(PacsError, match="refuses CONSILIUM"):
        by_get(archive, aet="OTHER").ping()
    with pytest.raises(PacsError, match="does not answer at 127"):
        by_get(archive, port=closed_port()).ping()
    assert "C-FIND as OLD; C-GET, not encrypted" in by_get(archive).ping()


def test_a_question_that_fails_has_its_status(archive: Archive) -> None:
    archive.status = 0xA700
    with pytest.raises(DicomError, match="C-FIND with status 0xA700"):
        [*by_get(archive).find("STUDY", {"StudyDate": "20200101-"})]


def test_no_number_of_a_patient_is_in_a_log(
    archive: Archive, spool: Spool, images: list[Dataset], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        [*by_get(archive).find("STUDY", {"PatientID": patient(1)})]
        fetched(by_move(archive), spool, images)
    assert NAME not in caplog.text
