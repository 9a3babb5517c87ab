"""`data.csv` of the lower-grade glioma set: a table to learn from, and labels to learn.

The table holds what is known besides the images: age, sex, side and place of the tumour,
and four molecular classes. A missing category is a block of zeros; a patient without an age
(a row that was never filled in) has no table.

What is learned is never among what is seen: tumour grade (II or III, after the pathologist's
look) and death are labels only, and the histological type, from the same look, is left
out. Sex is coded 1 and 2 and so are all others, as the set's authors did.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, tensor

from imaging.sheets import Row, number, read_sheet
from protocol.errors import DataError

AGE = "age_at_initial_pathologic"
LEVELS = {
    "gender": (1, 2),
    "laterality": (1, 3),
    "tumor_location": (2, 4, 5, 6),
    "RNASeqCluster": (1, 2, 3, 4),
    "MethylationCluster": (1, 2, 3, 4, 5),
    "CNCluster": (1, 2, 3),
    "COCCluster": (1, 2, 3),
}
LABELS = {
    "grade": ("neoplasm_histologic_grade", {1: 0, 2: 1}),  # WHO grade II, III
    "death": ("death01", {0: 0, 1: 1}),
}
"""Head of the recipe -> (column, value -> class). Grade has both classes at every hospital."""

FEATURES = 1 + sum(map(len, LEVELS.values()))
MIDDLE_AGE, AGE_SPREAD = 45.0, 15.0  # years; fixed, so that no site's statistics are needed


def read_clinical(root: Path) -> dict[str, Row]:
    """Return patient (`TCGA_CS_4941`) -> row; empty where there is no `data.csv`."""
    path = root / "data.csv"
    if not path.exists():
        return {}
    columns = (AGE, *LEVELS, *(column for column, _ in LABELS.values()))
    return {row["Patient"]: row for row in read_sheet(path, ("Patient", *columns))}


def features(row: Row | None) -> Tensor | None:
    """Return the table of one patient, `(FEATURES,)`, or None without an age."""
    age = _cell(row, AGE)
    if age is None:
        return None
    blocks = [[float(_cell(row, column) == level) for level in levels] for column, levels in LEVELS.items()]
    return tensor([(age - MIDDLE_AGE) / AGE_SPREAD, *(value for block in blocks for value in block)])


def label(row: Row | None, head: str) -> int | None:
    """Return the class of one patient, None where it is not known."""
    column, classes = LABELS[head]
    value = _cell(row, column)
    if value is not None and value not in classes:
        msg = f"'data.csv', {column}: a label is out of range, expected one of {list(classes)}: correct it"
        raise DataError(msg)
    return None if value is None else classes[int(value)]


def _cell(row: Mapping[str, str] | None, column: str) -> float | None:
    text = (row or {}).get(column, "").strip()
    return number(text, f"'data.csv', {column}") if text else None
