"""Text inside compressed pixels: comments, and in JPEG a camera's metadata.

A codestream is a row of marker segments, each two bytes of marker, two of length, and a payload (ISO/IEC
10918-1 Annex B, 14495-1 Annex C, 15444-1 Annex A). The payload of a comment or of an application's segment is
overwritten by zeros in place, and so is what follows the end: lengths and image data stay as they were,
decoders skip such segments. Kept are the segments that tell a decoder the colour space: JFIF (APP0), SPIFF
(APP8), Adobe (APP14).
"""

import re
from collections.abc import Callable, Iterator

Segment = tuple[int, int, int]
"""Marker, and from where to where its payload goes."""

_JPEG_START, _JPEG_2000_START = b"\xff\xd8", b"\xff\x4f\xff\x51"
_SOS, _EOI, _SOT, _SOD, _EOC = 0xDA, 0xD9, 0x90, 0x93, 0xD9
_COMMENT, _COMMENT_2000 = 0xFE, 0x64
_APPLICATION, _COLOUR = range(0xE0, 0xF0), (0xE0, 0xE8, 0xEE)
_BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a payload
_FILL = 0xFF
_NEXT_MARKER = re.compile(
    rb"\xff[\xc0-\xcf\xd8-\xfe]"
)  # in coded data, 0xff is followed by a stuffed byte or a restart


def silenced(frame: bytes) -> bytes:
    """Return a frame's codestream with nothing in it but the image.

    Raises:
        ValueError: it is none of the three, or its segments do not follow one another.
    """
    start = frame.find(_JPEG_2000_START)
    if frame.startswith(_JPEG_START):
        return _silenced(frame, _jpeg, lambda m: m == _COMMENT or (m in _APPLICATION and m not in _COLOUR))
    if start >= 0:  # in front of it may stand the boxes of a JP2 file, which DICOM does not want
        return _silenced(frame[start:], _jpeg_2000, lambda m: m == _COMMENT_2000)
    raise ValueError("neither JPEG nor JPEG 2000")


def _silenced(
    stream: bytes, segments: Callable[[bytes], Iterator[Segment]], speaks: Callable[[int], bool]
) -> bytes:
    silent = bytearray(stream)
    for marker, start, end in segments(stream):
        if speaks(marker) or marker == _EOI:
            silent[start:end] = bytes(end - start)
    return bytes(silent)


def _jpeg(stream: bytes) -> Iterator[Segment]:
    place = len(_JPEG_START)
    while (marker := _marker(stream, place)) != _EOI:
        if marker in _BARE or marker == _FILL:
            place += 2 if marker in _BARE else 1
            continue
        end = _end(stream, place)
        yield marker, place + 4, end
        place = _next_marker(stream, end) if marker == _SOS else end
    yield _EOI, place + 2, len(stream)


def _jpeg_2000(stream: bytes) -> Iterator[Segment]:
    """Go through the main header and through each tile-part's, which says where the next one starts."""
    place, tile, length = 2, 0, 0
    while (marker := _marker(stream, place)) != _EOC:
        if marker == _SOD:
            place = tile + length if length else len(stream.rstrip(b"\0")) - 2
            continue
        end = _end(stream, place)
        yield marker, place + 4, end
        if marker == _SOT:
            tile, length = place, int.from_bytes(stream[place + 6 : place + 10], "big")
        place = end
    yield _EOI, place + 2, len(stream)


def _marker(stream: bytes, place: int) -> int:
    if len(stream) < place + 2 or stream[place] != _FILL:
        raise ValueError("the segments of a compressed frame do not follow one another")
    return stream[place + 1]


def _end(stream: bytes, place: int) -> int:
    end = place + 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
    if not place + 4 <= end <= len(stream):
        raise ValueError("a segment of a compressed frame is longer than the frame")
    return end


def _next_marker(stream: bytes, place: int) -> int:
    found = _NEXT_MARKER.search(stream, place)
    if found is None:
        raise ValueError("a compressed frame has no end")
    return found.start()
