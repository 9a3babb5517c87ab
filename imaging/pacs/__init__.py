"""From a hospital's PACS to a folder that can be ingested, one study at a time.

    settings   pacs.yaml: which archives there are, and how they are spoken to
    asked      which studies are wanted
    web        DICOMweb: QIDO-RS finds, WADO-RS fetches (PS3.18)
    dimse      C-FIND finds; C-GET fetches, or C-MOVE has them sent to a listener of ours (PS3.4)
    spool      where a study lies until it is read, never more than is allowed
    fetch      these, one after the other; what was fetched once is not fetched again

Both ways are one `Archive`: it finds rows at one of the three levels of DICOM's model, and it fetches
images of a series. An archive is asked and never believed: what it lists is held against what was asked,
what it sends is bounded, is taken only if it was asked for, and is read where any other file is read
(`imaging.ingest.admit`). Whatever names a patient (numbers, accession numbers, UIDs, addresses with them)
is in no message, no log and no file's name.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol

from imaging.pacs.spool import Spool

Level = Literal["STUDY", "SERIES", "IMAGE"]
Row = Mapping[str, str]
"""Keyword -> value as text, empty where it has none; several values are joined by backslashes."""

WANTED: Mapping[Level, tuple[str, ...]] = {
    "STUDY": (
        *("StudyInstanceUID", "StudyDate", "PatientID", "AccessionNumber", "ModalitiesInStudy"),
        "NumberOfStudyRelatedInstances",
    ),
    "SERIES": ("SeriesInstanceUID", "Modality"),
    "IMAGE": ("SOPInstanceUID",),
}
"""What an archive is asked to say of what it finds."""


class Archive(Protocol):
    """A PACS that is connected to. Besides what is said below, each of its methods may raise `PacsError`."""

    def ping(self) -> str:
        """Return in words how it answered."""
        ...

    def find(self, level: Level, keys: Row) -> Iterator[Row]:
        """Yield what matches `keys`, of which the UIDs of the levels above are two.

        Raises:
            DicomError: NOT_SENT, where it fails over this question alone.
        """
        ...

    def fetch(self, study: str, series: str, images: Sequence[str], spool: Spool) -> Counter[str]:
        """Fetch images of a series; return why some of them are not there, and how many."""
        ...
