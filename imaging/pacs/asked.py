"""Which studies are wanted of an archive.

Archives may leave out a condition that they do not know, and then list everything. So what they list is
held against the conditions again, as far as they tell.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from imaging.pacs import Row
from imaging.sheets import PATIENT
from protocol.errors import DataError

MODALITIES = ("MR", "CT", "PT", "SEG", "RTSTRUCT")
"""DICOM's words for what a cohort is made of; series of others are not fetched."""
MOST_LIST = 16 * 2**20
_HEADINGS = {PATIENT, "accession"}
_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")


@dataclass(frozen=True)
class Asked:
    """The conditions, all of which hold for a study that is wanted."""

    modalities: tuple[str, ...] = MODALITIES
    since: date | None = None
    until: date | None = None
    patients: tuple[str, ...] = ()
    accessions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what would be all of an archive."""
        if not (self.since or self.until or self.patients or self.accessions):
            raise DataError(
                "which of the PACS's studies? Give --since and --until, --patients or --accessions: "
                "without them it would be all that the hospital has"
            )

    def queries(self) -> Iterator[dict[str, str]]:
        """Yield the questions for an archive, whose answers together hold all that is wanted."""
        days = {"StudyDate": f"{_day(self.since)}-{_day(self.until)}"} if self.since or self.until else {}
        for patient, accession in itertools.product(self.patients or [""], self.accessions or [""]):
            keys = {"PatientID": patient, "AccessionNumber": accession}
            yield days | {keyword: value for keyword, value in keys.items() if value}

    def wants(self, row: Row) -> bool:
        """Tell whether a study that an archive lists is one of these, as far as the archive tells."""
        found, there = row["StudyDate"], {*row["ModalitiesInStudy"].split("\\")} - {""}
        return (
            is_uid(row["StudyInstanceUID"])
            and (not found or _day(self.since) <= found <= (_day(self.until) or "99999999"))
            and (not self.patients or row["PatientID"] in {"", *self.patients})
            and (not self.accessions or row["AccessionNumber"] in {"", *self.accessions})
            and (not there or bool(there & {*self.modalities}))
        )


def is_uid(text: str) -> bool:
    """Tell whether an archive's word is a UID; anything else could lead a path elsewhere."""
    return _UID.fullmatch(text) is not None


def read_list(path: Path) -> tuple[str, ...]:
    """Return the numbers in a file, one a line; a first line that is a heading is passed over.

    Raises:
        DataError: it cannot be read, or a line would ask for more than one number; the message has no line.
    """
    try:
        if path.stat().st_size > MOST_LIST:
            raise DataError(f"the list has more than {MOST_LIST // 2**20} MiB")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list cannot be read ({type(error).__name__}): give a file of text") from None
    found = [line.strip() for line in lines if line.strip()]
    if found and found[0].lower() in _HEADINGS:
        found = found[1:]
    wrong = [place for place, line in enumerate(found, 1) if not _is_one(line)]
    if wrong or not found:
        where = f"entry {wrong[0]} is" if wrong else "it has"
        raise DataError(f"{where} no number of one patient or study: one a line, without * ? \\ or commas")
    return tuple(dict.fromkeys(found))


def _is_one(line: str) -> bool:
    """Tell whether an archive takes a line as it is: no wildcard, no list (PS3.4 C.2.2.2)."""
    return line.isprintable() and not re.search(r"[*?\\,;\t]", line) and len(line) <= 64  # noqa: PLR2004


def _day(day: date | None) -> str:
    return day.strftime("%Y%m%d") if day else ""


def distinct(values: Sequence[str]) -> tuple[str, ...]:
    """Return modalities as DICOM writes them, each once."""
    return tuple(sorted({value.strip().upper() for value in values}))
