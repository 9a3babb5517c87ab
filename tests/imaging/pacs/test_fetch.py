"""Study after study, from an archive that is scripted: what is fetched, what is not fetched again."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest
from pydicom import dcmread

from imaging.ingest.desk import Desk
from imaging.ingest.journal import PutAside, opened_journal
from imaging.pacs import WANTED, Archive, Level, Row, fetch
from imaging.pacs.asked import Asked
from imaging.pacs.fetch import SPOOL, Source
from imaging.pacs.settings import Pacs, WebSettings
from imaging.pacs.spool import Spool
from imaging.reasons import Reason
from protocol.errors import DicomError, PacsError
from sim.phantom_dicom import write_series
from tests.imaging.ingest.exports import brought, desk, patient, product, volume, write_scan

PACS = Pacs("main", WebSettings("https://pacs.example"), Path())
ASKED = Asked(since=date(2020, 1, 1))


class Shelf:
    """An archive whose images lie in a folder; `lost` ones it cannot send, `broken` studies not list."""

    def __init__(self, folder: Path) -> None:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        self.images = [(path.read_bytes(), dcmread(path)) for path in files]
        self.lost, self.broken, self.sent = set[str](), set[str](), list[str]()
        self.dies_after: int | None = None

    def ping(self) -> str:
        return "here"

    def find(self, level: Level, keys: Row) -> Iterator[Row]:
        if level != "STUDY" and keys["StudyInstanceUID"] in self.broken:
            raise DicomError(Reason.NOT_SENT, "HTTP 500")
        found: dict[str, Row] = {}
        for _, each in self.images:
            if all(str(each.get(key, value)) == value for key, value in keys.items() if key.endswith("UID")):
                study = [other for _, other in self.images if other.StudyInstanceUID == each.StudyInstanceUID]
                found[each[WANTED[level][0]].value] = {
                    "StudyInstanceUID": each.StudyInstanceUID,
                    "StudyDate": each.StudyDate,
                    "PatientID": each.PatientID,
                    "AccessionNumber": each.AccessionNumber,
                    "ModalitiesInStudy": "MR\\SR",
                    "NumberOfStudyRelatedInstances": str(len(study)),
                    "SeriesInstanceUID": each.SeriesInstanceUID,
                    "Modality": each.Modality,
                    "SOPInstanceUID": each.SOPInstanceUID,
                }
        yield from found.values()

    def fetch(self, study: str, series: str, images: Sequence[str], spool: Spool) -> Counter[str]:
        missing = Counter[str]()
        for data, each in self.images:
            if each.SOPInstanceUID not in images:
                continue
            if self.dies_after == len(self.sent):
                raise KeyboardInterrupt
            if each.SOPInstanceUID in self.lost:
                missing["HTTP 500"] += 1
                continue
            with spool.place(each.SOPInstanceUID) as file:
                file.write(data)
            self.sent.append(each.SOPInstanceUID)
        return missing


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """Three patients: T1 and T2, T1 in several files, T1."""
    for number, modality in ((1, "t1"), (1, "t2"), (3, "t1")):
        write_scan(tmp_path / "pacs", number, modality)
    write_series(tmp_path / "pacs" / "x", volume(2), "t1", "siemens", patient(2))
    found = Shelf(tmp_path / "pacs")

    @contextmanager
    def connected(_: Pacs) -> Iterator[Archive]:
        yield found

    monkeypatch.setattr(fetch, "connected", connected)
    return found


def ingested(at: Desk, asked: Asked = ASKED, pacs: Pacs = PACS) -> int:
    """How many patients the cohort has now."""
    return len(brought([], at, supplies=[Source(pacs, asked)])["patients"])


def unsent(at: Desk) -> dict[tuple[str, str], PutAside]:
    with opened_journal(at.folder) as journal:
        return journal.unsent()


def scans(at: Desk) -> dict[str, bytes]:
    return {name: data for name, data in product(at.folder).items() if not name.startswith(".")}


def test_it_is_the_cohort_of_the_same_files_to_the_last_bit(shelf: Shelf, tmp_path: Path) -> None:
    """And nothing of the way is left but the copies."""
    at = desk(tmp_path / "home")
    assert ingested(at) == 3

    other = desk(tmp_path / "other")
    (tmp_path / "other" / "key").write_bytes(at.sources[0].read_bytes())
    other = desk(tmp_path / "other")
    brought([tmp_path / "pacs"], other)

    assert scans(at) == scans(other)
    assert not (at.folder / SPOOL).exists()


def test_what_was_fetched_is_not_fetched_again_and_what_is_new_is(shelf: Shelf, tmp_path: Path) -> None:
    at = desk(tmp_path / "home")
    everything, shelf.images = shelf.images, [each for each in shelf.images if "t2" not in str(each)][1:]
    ingested(at)
    before = len(shelf.sent)
    ingested(at)
    assert len(shelf.sent) == before

    shelf.images = everything
    ingested(at)
    assert len(shelf.sent) == len({*shelf.sent}) == len(everything)


@pytest.mark.parametrize("sent", [0, 2, 5])
def test_stopped_anywhere_it_goes_on_where_it_stood(shelf: Shelf, tmp_path: Path, sent: int) -> None:
    """No image is sent twice."""
    at = desk(tmp_path / "home")
    shelf.dies_after = sent
    with pytest.raises(KeyboardInterrupt):
        ingested(at)

    shelf.dies_after = None
    assert ingested(at) == 3
    assert len(shelf.sent) == len({*shelf.sent}) == len(shelf.images)


def test_one_bad_study_stops_nothing_and_is_tried_again(shelf: Shelf, tmp_path: Path) -> None:
    """Neither one that cannot be listed, nor an image that cannot be sent; the report says how many."""
    at = desk(tmp_path / "home")
    studies = {str(each.PatientID): each for _, each in shelf.images}
    shelf.broken = {studies[patient(1)].StudyInstanceUID}
    shelf.lost = {studies[patient(2)].SOPInstanceUID}

    assert ingested(at) == 2
    assert unsent(at) == {("not_sent", "HTTP 500"): PutAside(2, 2)}
    assert "not_sent" in (at.folder / "quality.html").read_text(encoding="utf-8")

    shelf.broken, shelf.lost = set(), set()
    assert ingested(at) == 3
    assert unsent(at) == {}


def test_what_was_not_asked_for_is_not_fetched(shelf: Shelf, tmp_path: Path) -> None:
    """Though the archive lists everything, whatever it is asked."""
    at = desk(tmp_path / "home")

    assert ingested(at, Asked(patients=(patient(2),))) == 1
    assert ingested(at, Asked(since=date(2020, 1, 2))) == 1
    assert ingested(at, Asked(("CT", "SR"), since=date(2020, 1, 1))) == 1
    assert len(shelf.sent) == 4


def test_a_study_that_is_larger_than_the_spool_comes_in_parts(shelf: Shelf, tmp_path: Path) -> None:
    """One run, one spool: what has no room is said, and comes with the next."""
    at = desk(tmp_path / "home")
    sizes = Counter[str]()
    for data, each in shelf.images:
        sizes[each.StudyInstanceUID] += len(data)
    largest = max(sizes.values())
    small = Pacs("main", WebSettings("https://pacs.example", spool_gib=(largest - 1) / 2**30), Path())

    ingested(at, pacs=small)
    assert unsent(at) == {("not_sent", "the study is larger than `spool_gib` in pacs.yaml"): PutAside(1, 1)}
    assert len(shelf.sent) == len(shelf.images) - 1

    ingested(at, pacs=small)
    assert unsent(at) == {}
    assert len(shelf.sent) == len(shelf.images)


def test_a_digest_tells_the_study_to_whoever_may_ask_for_it(shelf: Shelf, tmp_path: Path) -> None:
    at = desk(tmp_path / "home")
    ingested(at)
    with opened_journal(at.folder) as journal:
        digest = next(row.digest for row in journal.files(at.patient(patient(3))))

    told = Source(PACS, ASKED).find(at, digest)

    (study,) = {each.StudyInstanceUID for _, each in shelf.images if each.PatientID == patient(3)}
    assert told
    assert f"study {study}, " in told
    assert Source(PACS, ASKED).find(at, "0" * 16) is None


def test_an_archive_that_lists_nothing_ends_the_run(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(*_: object) -> Iterator[Row]:
        raise DicomError(Reason.NOT_SENT, "HTTP 500")

    monkeypatch.setattr(shelf, "find", find)
    with pytest.raises(PacsError, match="does not list its studies: HTTP 500"):
        ingested(desk(tmp_path / "home"))
