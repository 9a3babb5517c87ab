"""Study after study: list, fetch, have it read, drop.

A study is done when all that was asked of it has come and was read; the journal of the cohort knows how
many images it had, and one that has grown since is looked at again. Images that the journal knows, or that
lie in the spool from a run that was killed, are not fetched again. What an archive fails to send is noted,
and tried again by the next run; the others go on.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imaging.ingest.desk import Desk
from imaging.ingest.journal import Journal
from imaging.ingest.run import Watch
from imaging.ingest.walk import Entry
from imaging.pacs import Archive, Row
from imaging.pacs.asked import Asked, is_uid
from imaging.pacs.dimse import Dimse
from imaging.pacs.settings import Pacs, WebSettings
from imaging.pacs.spool import Spool
from imaging.pacs.web import Web
from protocol.errors import DicomError, PacsError

SPOOL = ".spool"


@dataclass(frozen=True)
class Source:
    """An archive, and what is asked of it: what `imaging.ingest.run` takes beside folders."""

    pacs: Pacs
    asked: Asked

    def fetch(self, desk: Desk, journal: Journal, watch: Watch) -> Iterator[Path]:
        """Yield the folder of each study that is not done; it is dropped when the next one is asked for.

        Raises:
            PacsError: the archive does not answer, or refuses.
            SettingsError: pacs.yaml is wrong.
        """
        with connected(self.pacs) as archive:
            studies, unlisted = listed(archive, self.asked)
            journal.came(f"of {self.pacs.name}", "", "the PACS could not list a study", unlisted)
            for done, study in enumerate(studies):
                watch("studies", done, len(studies))
                yield from self._study(archive, desk, journal, study)
            watch("studies", len(studies), len(studies))
        shutil.rmtree(desk.folder / SPOOL, ignore_errors=True)

    def find(self, desk: Desk, digest: str) -> str | None:
        """Return which study a digest in a report stands for, or an image of it."""
        with connected(self.pacs) as archive:
            for study in listed(archive, self.asked)[0]:
                spool = Spool(_folder(desk, study), self.pacs.most_bytes, desk.pseudonyms)
                spool.drop()
                for series, image in _images(archive, study["StudyInstanceUID"], self.asked):
                    if _digest(desk, spool, image) == digest:
                        return f"{self.pacs.name}: study {_uid(study)}, series {series}, image {image}"
        return None

    def _study(self, archive: Archive, desk: Desk, journal: Journal, study: Row) -> Iterator[Path]:
        key = desk.pseudonyms.identifier(
            "study in a PACS", f"{_uid(study)} {' '.join(self.asked.modalities)}"
        )
        images = study["NumberOfStudyRelatedInstances"]
        if images and journal.fetched(key) == images:
            return
        spool = Spool(_folder(desk, study), self.pacs.most_bytes, desk.pseudonyms)

        def known(image: str) -> bool:
            return journal.file(_digest(desk, spool, image)) is not None

        missing = self._bring(archive, spool, _uid(study), known)
        yield spool.folder
        spool.drop()
        why = "; ".join(sorted(missing))
        journal.came(key, "" if missing else images, why, missing.total())

    def _bring(
        self, archive: Archive, spool: Spool, study: str, known: Callable[[str], bool]
    ) -> Counter[str]:
        """Fetch what is neither in the spool nor known; return why some of it is not there, and how much."""
        missing = Counter[str]()
        try:
            for series, images in _by_series(archive, study, self.asked).items():
                new = [image for image in images if not (spool.has(image) or known(image))]
                missing += archive.fetch(study, series, new, spool) if new else Counter()
        except DicomError as error:
            missing[_why(error)] += 1
        return missing


@contextmanager
def connected(pacs: Pacs) -> Generator[Archive]:
    """Give an archive to ask, and the door it sends to for as long."""
    if isinstance(pacs.settings, WebSettings):
        yield Web(pacs)
    else:
        archive = Dimse(pacs)
        with archive.door():
            yield archive


def listed(archive: Archive, asked: Asked) -> tuple[list[Row], int]:
    """Return the studies that are asked for, each once, and how many the archive could not list."""
    try:
        rows = [row for keys in asked.queries() for row in archive.find("STUDY", keys)]
    except DicomError as error:
        raise PacsError(f"the PACS does not list its studies: {_why(error)}") from None
    studies = [*{_uid(row): row for row in rows if asked.wants(row)}.values()]
    return studies, sum(not _uid(row) for row in rows)


def _images(archive: Archive, study: str, asked: Asked) -> Iterator[tuple[str, str]]:
    """Yield series and image of what is asked of a study."""
    for series in archive.find("SERIES", {"StudyInstanceUID": study}):
        uid = series["SeriesInstanceUID"]
        if is_uid(uid) and series["Modality"] in asked.modalities:
            for image in archive.find("IMAGE", {"StudyInstanceUID": study, "SeriesInstanceUID": uid}):
                if is_uid(image["SOPInstanceUID"]):
                    yield uid, image["SOPInstanceUID"]


def _by_series(archive: Archive, study: str, asked: Asked) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for series, image in _images(archive, study, asked):
        found.setdefault(series, []).append(image)
    return found


def _folder(desk: Desk, study: Row) -> Path:
    return desk.folder / SPOOL / desk.pseudonyms.identifier("study in a PACS", _uid(study))


def _digest(desk: Desk, spool: Spool, image: str) -> str:
    return desk.digest(Entry(str(spool.path(image)), "", 0, 0))


def _uid(study: Row) -> str:
    return study["StudyInstanceUID"]


def _why(error: DicomError) -> str:
    return str(error).partition(": ")[2]
