"""How the tiles of a Siemens mosaic lie, and nothing else of the private header that says it.

A mosaic holds the slices of a volume as tiles of one large image. How many there are, and in which direction
they follow one another, stands only in a private header of some ninety entries ("CSA", format SV10), which
names the patient too. Here a header is written anew with these two entries: four numbers.

The format, as far as it is needed, little-endian (documented by nibabel, which also reads it):

    "SV10" 04 03 02 01, number of entries, 77
    entry   name (64 bytes), multiplicity, representation (4 bytes), type, number of items, 77
    item    its length, again, 77, and again; a text, filled up to four bytes
"""

import struct
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from imaging.values import told

with warnings.catch_warnings(action="ignore"):  # it calls itself experimental whenever it is imported
    from nibabel.nicom import csareader

MOST_TILES = 1024
_MARK = 77


def tiles(dataset: Dataset) -> Iterator[DataElement]:
    """Yield the private elements that say how a mosaic's tiles lie; none of what is no such mosaic."""
    header = _header(dataset) if "MOSAIC" in told(dataset, "ImageType") else None
    if header is not None:
        yield DataElement(Tag(0x0029, 0x0010), "LO", "SIEMENS CSA HEADER")
        yield DataElement(Tag(0x0029, 0x1010), "OB", header)


def _header(dataset: Dataset) -> bytes | None:
    try:
        count, normal = _read(dataset)
    except Exception:  # noqa: BLE001 - a private format, read by trial
        return None
    if not 0 < count <= MOST_TILES or not all(abs(x) <= 1 for x in normal):
        return None
    entries = [
        _entry("NumberOfImagesInMosaic", "US", [f"{count}"]),
        _entry("SliceNormalVector", "FD", [f"{x:.8f}" for x in normal]),
    ]
    return b"SV10\4\3\2\1" + struct.pack("<2I", len(entries), _MARK) + b"".join(entries)


def _read(dataset: Dataset) -> tuple[int, list[float]]:
    reader: Any = csareader
    header = reader.get_csa_header(dataset)
    return int(reader.get_n_mosaic(header)), [float(x) for x in reader.get_slice_normal(header)]


def _entry(name: str, representation: str, values: Sequence[str]) -> bytes:
    head = (name.encode(), len(values), representation.encode(), 0, len(values), _MARK)
    return struct.pack("<64si4s3i", *head) + b"".join(map(_item, values))


def _item(value: str) -> bytes:
    text = value.encode() + b"\0"
    return struct.pack("<4i", len(text), len(text), _MARK, len(text)) + text + bytes(-len(text) % 4)
