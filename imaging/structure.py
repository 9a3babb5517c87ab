"""How a DICOM data set is built, measured before anything is parsed.

A data set is a list of elements (tag, type, length, value), and a sequence's value is a list
of items, each a data set again (PS3.5 section 7). A parser that trusts those lengths can be
made to nest 3,000 deep, or to build a million objects of eight bytes each. So a header is
walked here first, without making a single object of it: what is deeper or has more parts than
any scanner writes, or whose lengths point outside of what holds them, is refused for that
reason, and pydicom then reads only what has passed.

The walk follows pydicom's own habits where files depart from the standard: items in implicit
VR inside an explicit data set, UN that hides a sequence, delimiters that end a data set early.
"""

from struct import Struct

from pydicom.datadict import DicomDictionary  # pyright: ignore[reportPrivateImportUsage] - documented there
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from imaging.reasons import Reason
from protocol.errors import DicomError

MOST_DEEP = 64
MOST_ELEMENTS, MOST_ITEMS = 200_000, 50_000
"""An element counts once more for each of its values.

Enhanced files have some 115 elements and 20 items a frame; so many are about 150 MiB as objects.
"""

ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
"""Float, double and integer pixel data: where a header ends."""

_LONG = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)
_TEXTS = frozenset(b"AE AS CS DA DS DT IS LO PN SH TM UC UI".split())
_NUMBERS = {b"US": 2, b"SS": 2, b"AT": 4, b"UL": 4, b"SL": 4, b"FL": 4, b"FD": 8, b"SV": 8, b"UV": 8}
_SEQUENCES = frozenset(tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ")


def measure(data: bytes, start: int, *, implicit: bool, little: bool, group: int | None = None) -> int:
    """Walk the data set at `data[start:]` and return where it ends.

    That is before the pixel data, or at the end of `data`, or, where `group` is given, before the first
    element of another group. An element at the top that points beyond `data` ends it too: the file
    was cut off there, and what stands before is whole.

    Raises:
        DicomError: TOO_DEEP, TOO_LARGE (elements, items) or UNREADABLE (what is nested does not
            fit into what holds it).
    """
    return _Walk(data, little=little, group=group).dataset(start, len(data), implicit=implicit, depth=0)


def is_implicit(data: bytes, at: int) -> bool:
    """Tell whether the data set at `data[at:]` has no VR written after its tags."""
    vr = data[at + 4 : at + 6]
    return len(vr) == 2 and not (vr.isalpha() and vr.isupper())  # noqa: PLR2004 - cut off: as before


def begins_pixels(data: bytes, at: int, *, little: bool) -> bool:
    """Tell whether the element at `data[at:]` is pixel data."""
    group, element = (int.from_bytes(data[i : i + 2], "little" if little else "big") for i in (at, at + 2))
    return group << 16 | element in PIXELS


class _Walk:
    """One pass over a data set; counts what it meets.

    A value of defined length is parsed from its own bytes alone, so what is wrong at its end harms
    nobody. One of undefined length must find its delimiter: pydicom would read on where this walk stops.
    """

    def __init__(self, data: bytes, *, little: bool, group: int | None) -> None:
        order = "<" if little else ">"
        self.data, self.group = data, group
        self.short, self.long = Struct(f"{order}HHL").unpack_from, Struct(f"{order}L").unpack_from
        self.half = Struct(f"{order}H").unpack_from
        self.sequence_end = Struct(f"{order}HH").pack(SEQUENCE_END >> 16, SEQUENCE_END & 0xFFFF)
        self.elements = self.items = 0

    def dataset(self, at: int, end: int, *, implicit: bool, depth: int) -> int:
        """Walk elements until `end`, an item's delimiter, or the end of the header at the top."""
        while at + 8 <= end:
            tag, vr, length, value = self.head(at, implicit=implicit)
            if tag == ITEM_END:
                return value
            if depth == 0 and (self.ends(tag) or (length != UNDEFINED and value + length > end)):
                return at
            if length != UNDEFINED and value + length > end:
                raise _broken()
            self.count(elements=1)
            at = self.value(tag, vr, value, length, end, implicit=implicit, depth=depth)
        if at != end and depth:
            raise _broken()
        return end

    def head(self, at: int, *, implicit: bool) -> tuple[int, bytes | None, int, int]:
        """Return tag, VR (None: not written), length, and where the value starts."""
        group, element, length = self.short(self.data, at)
        tag, vr = group << 16 | element, self.data[at + 4 : at + 6]
        if implicit or not b"AA" <= vr <= b"ZZ":
            return tag, None, length, at + 8
        if vr not in _LONG:
            return tag, vr, self.half(self.data, at + 6)[0], at + 8
        if at + 12 > len(self.data):
            raise _broken()
        return tag, vr, self.long(self.data, at + 8)[0], at + 12

    def ends(self, tag: int) -> bool:
        """Tell whether the header is over."""
        return tag in PIXELS or (self.group is not None and tag >> 16 != self.group)

    def value(
        self, tag: int, vr: bytes | None, at: int, length: int, end: int, *, implicit: bool, depth: int
    ) -> int:
        """Walk one value and return where it ends."""
        if vr == b"SQ" or (length == UNDEFINED and self.hides_sequence(tag, vr, at)):
            return self.sequence(at, length, end, implicit=implicit, depth=depth + 1)
        if length == UNDEFINED:
            return self.delimiter(at, end)
        self.count(elements=self.values(tag, vr, at, length))
        if vr in {None, b"UN"} and (tag in _SEQUENCES or self.starts_with_item(at)):
            self.perhaps_sequence(at, length, depth=depth + 1)
        return at + length

    def values(self, tag: int, vr: bytes | None, at: int, length: int) -> int:
        """Count what one element becomes when it is asked for: texts are divided at backslashes."""
        known = vr or DicomDictionary.get(tag, ("LO",))[0].encode()
        if known in _NUMBERS:
            return length // _NUMBERS[known]
        return self.data.count(b"\\", at, at + length) if known in _TEXTS else 0

    def sequence(self, at: int, length: int, end: int, *, implicit: bool, depth: int) -> int:
        """Walk a sequence's items and return where it ends."""
        if depth > MOST_DEEP:
            raise DicomError(Reason.TOO_DEEP, f"its sequences nest deeper than {MOST_DEEP}")
        defined = length != UNDEFINED
        end = at + length if defined else end
        while at + 8 <= end:
            tag, _, size, value = self.head(at, implicit=True)
            if tag == SEQUENCE_END:
                return end if defined else value
            if tag != ITEM or (size != UNDEFINED and value + size > end and not defined):
                raise _broken()
            self.count(items=1)
            until = end if size == UNDEFINED else min(value + size, end)
            inside = implicit or is_implicit(self.data, value)
            at = self.dataset(value, until, implicit=inside, depth=depth)
        if not defined:
            raise _broken()
        return end

    def perhaps_sequence(self, at: int, length: int, *, depth: int) -> None:
        """Walk a value that may be a sequence in implicit VR; if it is not, it is bytes and does no harm."""
        try:
            self.sequence(at, length, at + length, implicit=True, depth=depth)
        except DicomError as error:
            if error.reason != Reason.UNREADABLE:
                raise

    def hides_sequence(self, tag: int, vr: bytes | None, at: int) -> bool:
        """Tell whether a value of undefined length is items, though no VR says so (PS3.5 section 6.2.2)."""
        unknown = tag in _SEQUENCES or (tag not in DicomDictionary and self.starts_with_item(at))
        return vr == b"UN" or (vr is None and unknown)

    def starts_with_item(self, at: int) -> bool:
        """Tell whether a value looks like a sequence's."""
        return at + 8 <= len(self.data) and self.head(at, implicit=True)[0] == ITEM

    def delimiter(self, at: int, end: int) -> int:
        """Return the end of a value of undefined length that is no sequence."""
        if (found := self.data.find(self.sequence_end, at, end)) < 0:
            raise _broken()
        return found + 8

    def count(self, elements: int = 0, items: int = 0) -> None:
        """Count parts and stop where no scanner writes so many."""
        self.elements, self.items = self.elements + elements, self.items + items
        if self.elements > MOST_ELEMENTS or self.items > MOST_ITEMS:
            raise DicomError(Reason.TOO_LARGE, f"more than {MOST_ELEMENTS} elements or {MOST_ITEMS} items")


def _broken() -> DicomError:
    return DicomError(Reason.UNREADABLE, "a part does not fit into what holds it; export it anew")
