"""CSV tables, read strictly: the columns that are asked for, numbers where numbers are due."""

import csv
from collections.abc import Sequence
from pathlib import Path

from protocol.errors import DataError

Row = dict[str, str]
PATIENT = "patient"
"""The column that says whose row it is."""


def read_sheet(path: Path, columns: Sequence[str]) -> list[Row]:
    """Return the rows of a CSV with a header, each with at least `columns`.

    Raises `DataError` naming the table and the missing columns; never a cell.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True, restval="")
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            rows = [] if missing else list(reader)
    except (OSError, UnicodeDecodeError, csv.Error):
        msg = f"table '{path.name}' cannot be read as UTF-8 CSV: write it anew"
        raise DataError(msg) from None
    if missing:
        msg = f"table '{path.name}' has no column {_named(missing)}: name its columns as documented"
        raise DataError(msg)
    return rows


def number(text: str, where: str) -> float:
    """Return a cell as a number, `DataError` naming `where` (table and column) if it is none."""
    try:
        return float(text)
    except ValueError:
        msg = f"{where}: a cell is not a number: correct it, or leave it empty"
        raise DataError(msg) from None


def _named(columns: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in columns[:3])
    return shown + (f" and {len(columns) - 3} more" if len(columns) > 3 else "")  # noqa: PLR2004
