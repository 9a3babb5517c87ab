"""Values of DICOM attributes: what they may be, whether they are, and what can stand in for them.

DICOM lets a file say of itself what an attribute is: that `SliceThickness` is a text, or that
`PixelPaddingValue` is seven hundred numbers (in a real file these were the rest of it, names included). Many
readers hand on what they find. So a value that is to stay is held against the standard's dictionary (PS3.6)
and against the form of its representation (PS3.5 6.2).
"""

import re
from collections.abc import MutableSequence
from typing import Any

from pydicom import config
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

NUMBERS = {"DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"}
LONGEST = {"CS": 16, "LO": 64, "SH": 16, "ST": 64}
"""Representation -> most characters that we write."""

_BINARY_NUMBERS = NUMBERS - {"DS", "IS"} | {"AT"}
_BYTES = {"OB", "OD", "OF", "OV", "OW"}
_FORMS = {
    "CS": re.compile(r"[A-Z0-9_ ]{0,16}"),
    "DS": re.compile(r"[-+.0-9eE ]{1,32}"),  # the standard's 16 are exceeded in practice
    "IS": re.compile(r" *[-+]?[0-9]{1,10} *"),
}
_DUMMIES: dict[str, Any] = {
    "AS": "000D", "DA": "19000101", "DT": "19000101000000", "TM": "000000", "UR": "removed:",
    "DS": "0", "IS": "0", "FD": 0.0, "FL": 0.0, "SL": 0, "SS": 0, "SV": 0, "UL": 0, "US": 0, "UV": 0,
    "OB": b"\0\0", "OD": bytes(8), "OF": bytes(4), "OL": bytes(4), "OV": bytes(8), "OW": b"\0\0",
    "UN": b"\0\0",
}  # fmt: skip
_TEXT_DUMMY = "REMOVED"


def read(dataset: Dataset, tag: BaseTag) -> DataElement | None:
    """Return an element with its value converted; None where there is none, or it cannot be converted."""
    try:
        return dataset.get(tag)
    except Exception:  # noqa: BLE001 - whatever pydicom stumbles over: what cannot be read cannot be checked
        return None


def listed(element: DataElement | None) -> list[Any]:
    """Return an element's values, however many there are."""
    if element is None or element.value is None:
        return []
    return list(element.value) if isinstance(element.value, MutableSequence) else [element.value]


def text(element: DataElement | None) -> str:
    """Return an element's values as DICOM writes them: with backslashes in between."""
    return "\\".join(map(str, listed(element))).strip()


def told(dataset: Dataset, keyword: str) -> str:
    """Return what a dataset says under `keyword`; an empty text where it says nothing that can be read."""
    return text(read(dataset, Tag(keyword)))


def representations(element: DataElement) -> list[str]:
    """Return what PS3.6 lets the attribute be; where it does not know it, what the file says."""
    return dictionary_VR(element.tag).split(" or ") if dictionary_has_tag(element.tag) else [element.VR]


def renewed(element: DataElement, value: Any) -> DataElement:
    """Return the attribute with another value, in the standard's representation."""
    return DataElement(element.tag, representations(element)[0], value)


def emptied(element: DataElement) -> DataElement:
    """Return the attribute without a value."""
    return renewed(element, Sequence() if representations(element)[0] == "SQ" else None)


def dummy(element: DataElement) -> DataElement:
    """Return the attribute with a value that says nothing and that its representation allows."""
    return renewed(element, _DUMMIES.get(representations(element)[0], _TEXT_DUMMY))


def is_sound(element: DataElement, multiplicity: str) -> bool:
    """Say whether a value, other than of a sequence or free text, is what its attribute promises.

    `multiplicity` is PS3.6's: `1`, `1-3`, `2-n`. A UID must be one of those that the standard itself defines.
    """
    values = listed(element)
    if not _fits(len(values), multiplicity):
        return False
    if element.VR in _BINARY_NUMBERS:
        return all(isinstance(value, int | float) for value in values)
    if element.VR in _BYTES:
        return isinstance(element.value, bytes)
    if element.VR == "UI":
        return all(UID(str(value), config.IGNORE).type for value in values)
    return all(_FORMS[element.VR].fullmatch(str(value)) for value in values)


def _fits(count: int, multiplicity: str) -> bool:
    least, _, most = multiplicity.partition("-")
    return int(least) <= count and (most.endswith("n") or count <= int(most or least))
