"""Tables of labels: a CSV whose column `patient` holds the hospital's own numbers.

The numbers become stand-ins, the other cells must be numbers or empty: a cell of text may be a name.
"""

import re
from pathlib import Path

from imaging.ingest.desk import Desk
from imaging.ingest.manifest import Rows
from imaging.sheets import PATIENT, Row, number, read_sheet
from protocol.errors import DataError

_COLUMN = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)


def read_table(desk: Desk, path: Path) -> Rows:
    """Return a table's rows.

    Raises:
        DataError: it is no table with a column `patient`, or a cell is no number; the message has no cell.
    """
    rows = read_sheet(path, (PATIENT,))
    columns: set[str | None] = {column for row in rows for column in row}  # None: cells beyond the last
    if not all(column and _COLUMN.fullmatch(column) for column in columns):
        raise DataError("a column has no name, or one that is no word: name columns by letters and digits")
    return {desk.patient(row[PATIENT]): _numbers(row) for row in rows if row[PATIENT].strip()}


def _numbers(row: Row) -> Row:
    cells = {column: (cell or "").strip() for column, cell in row.items() if column != PATIENT}
    for column, cell in cells.items():
        if cell:
            number(cell, f"column '{column}'")
    return cells
