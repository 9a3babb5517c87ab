"""Tables: labels, health records, reports. A CSV whose column `patient` holds the hospital's own numbers.

    <table>.csv               a row a patient, or several
    <patient>/<table>.txt     a report in a file of its own: a row whose only column is `text`; the patient is
    <table>/<patient>.txt     read as of NIfTI files. Of several of one patient the last by path counts

The numbers become stand-ins, and what else is taken is numbers, for a cell of text may be a name:

    number         stays
    levels         a cell that is one of a few words: a column of 0 and 1 for each
    terms          free text, such as a report: 1 where it holds one of a term's words, else 0

So of a report no more is in the cohort than which of the listed terms it holds. That they are said is all
that is told: "no oedema" holds oedema, unless "no oedema" is a term of its own. An empty cell stays empty.

Several rows of one patient become one: a term is there if any of them holds it, all else must agree.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from imaging.ingest.admit import whose
from imaging.ingest.desk import Desk
from imaging.ingest.manifest import Rows
from imaging.ingest.settings import IngestSettings, Terms
from imaging.ingest.walk import Entry
from imaging.sheets import PATIENT, Row, number, read_sheet
from protocol.errors import DataError

_COLUMN = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)
TEXT = "text"
"""The column of a report that is a file of its own."""


def sheet_of(entry: Entry, tables: Collection[str]) -> str | None:
    """Return which table a file is, or holds a row of; None if its name makes it something else."""
    *folders, file = (part.lower() for part in entry.parts)
    stem = Path(file).stem
    if file.endswith(".csv"):
        return stem
    places = (stem, *folders[-1:]) if file.endswith(".txt") else ()
    return next((name for name in places if name in tables), None)


def read_rows(desk: Desk, entry: Entry, path: Path) -> Rows:
    """Return the rows of a table or a report that can be read at `path`.

    Raises:
        DataError: as `read_table`, or it is no text, or no terms are listed for it.
    """
    return read_table(desk, path) if entry.parts[-1].lower().endswith(".csv") else _report(desk, entry, path)


def _report(desk: Desk, entry: Entry, path: Path) -> Rows:
    *folders, file = entry.parts
    settings, stem = desk.method.settings, Path(file).stem
    if TEXT not in settings.terms:
        raise DataError(f"free text of which ingest.yaml wants nothing: list `terms` of '{TEXT}'")
    try:
        words = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("it is no text in UTF-8: write it anew") from None
    patient = whose(folders)[0] if stem.lower() in settings.tables else stem
    return {desk.patient(patient): _numbers({TEXT: words}, settings)}


def read_table(desk: Desk, path: Path) -> Rows:
    """Return a table's rows.

    Raises:
        DataError: it is no table with a column `patient`, a cell is no number and no word that is listed, or
            two rows contradict each other; the message has no cell.
    """
    rows = read_sheet(path, (PATIENT,))
    columns: set[str | None] = {column for row in rows for column in row}  # None: cells beyond the last
    if not all(column and _COLUMN.fullmatch(column) for column in columns):
        raise DataError("a column has no name, or one that is no word: name columns by letters and digits")
    settings, found = desk.method.settings, Rows()
    for row in rows:
        if row[PATIENT].strip():
            patient, cells = desk.patient(row[PATIENT]), _numbers(row, settings)
            found[patient] = _joined(found[patient], cells, settings) if patient in found else cells
    return found


def _numbers(row: Row, settings: IngestSettings) -> Row:
    cells = ((column, (cell or "").strip()) for column, cell in row.items() if column != PATIENT)
    return {name: value for column, cell in cells for name, value in _told(column, cell, settings)}


def _told(column: str, cell: str, settings: IngestSettings) -> Iterable[tuple[str, str]]:
    """Return what becomes of a cell: columns and their numbers."""
    if column in settings.terms:
        return _switches(column, cell, settings.terms[column], _holds)
    if column in settings.levels:
        found = [*_switches(column, cell, settings.levels[column], _equals)]
        if cell and all(value == "0" for _, value in found):
            raise DataError(f"column '{column}': a cell is none of the words of `levels`: list it there")
        return found
    if cell:
        number(cell, f"column '{column}'")
    return [(column, cell)]


def _switches(
    column: str, cell: str, terms: Terms, match: Callable[[str, str], bool]
) -> Iterator[tuple[str, str]]:
    text = " ".join(cell.casefold().split())
    for name, words in terms.items():
        there = any(match(text, word.casefold()) for word in words)
        yield f"{column}_{name}", str(int(there)) if cell else ""


def _holds(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def _equals(text: str, word: str) -> bool:
    return text == word


def _joined(one: Row, other: Row, settings: IngestSettings) -> Row:
    """Return one row of two of a patient."""
    said = {f"{column}_{name}" for column, terms in settings.terms.items() for name in terms}
    columns = one.keys() | other.keys()
    return {
        name: _one_of({one[name], other[name]} - {""}, name, may_differ=name in said)
        for name in sorted(columns)
    }


def _one_of(values: set[str], column: str, *, may_differ: bool) -> str:
    if len(values) > 1 and not may_differ:
        raise DataError(f"column '{column}': two rows of a patient contradict each other: keep one of them")
    return max(values, default="")
