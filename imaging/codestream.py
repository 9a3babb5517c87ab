"""How large an encoded frame becomes, told from its own first bytes and before it is decoded.

A decoder believes the frame, not the DICOM header around it: 64 x 64 pixels in the header
and 60,000 x 60,000 in the codestream make openjpeg ask for 7 GB. JPEG and JPEG-LS say their size in
the frame header (ITU-T T.81 B.2.2, T.87 C.2.2), JPEG 2000 in SIZ (T.800 A.5.1); run lengths
(PS3.5 G.3.1) say nothing and are counted.
"""

from struct import unpack_from

from pydicom.uid import UID, RLELossless

RLE_HARMLESS = 2**20
"""A run of two bytes becomes 128: a frame of up to so many encoded bytes is decoded uncounted."""
RLE_SLACK = 2**16

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_SIZ = b"\xff\x4f\xff\x51"
_MOST_BYTES = 8
"""Of a pixel: four samples of 16 bits."""


def grown(frame: bytes, syntax: UID, rows: int, columns: int) -> str | None:
    """Return what is wrong with the size that `frame` decodes to; None if nothing is."""
    if syntax == RLELossless:
        most = rows * columns * _MOST_BYTES + RLE_SLACK
        long = len(frame) > RLE_HARMLESS and run_length(frame[64:]) > most
        return "its run lengths are longer than the image" if long else None
    size = j2k_size(frame) if _SIZ in frame[:4096] else jpeg_size(frame)
    if size is None:
        return "a frame is neither JPEG nor JPEG 2000"
    return None if size == (rows, columns) else "a frame has another size than the header says"


def run_length(segments: bytes) -> int:
    """Count the bytes that PackBits segments decode to."""
    at = total = 0
    while at < len(segments):
        code = segments[at]
        run = code > 128  # noqa: PLR2004 - 129 ... 255: a byte repeated; 128: nothing
        total += 257 - code if run else (code + 1) % 129
        at += 2 if run else (code + 1) % 129 + 1
    return total


def j2k_size(frame: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) of a JPEG 2000 codestream, bare or in a JP2 file."""
    at = frame.find(_SIZ) + 8
    if at + 16 > len(frame):
        return None
    right, bottom, left, top = unpack_from(">4L", frame, at)
    return bottom - top, right - left


def jpeg_size(frame: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) of the first JPEG or JPEG-LS frame header; None without one."""
    at = 2
    while frame[:2] == b"\xff\xd8" and at + 9 <= len(frame) and frame[at] == 0xFF:  # noqa: PLR2004 - marker
        marker = frame[at + 1]
        if marker in _START_OF_FRAME:
            return unpack_from(">HH", frame, at + 5)
        at += 1 if marker == 0xFF else 2 + unpack_from(">H", frame, at + 2)[0]  # noqa: PLR2004 - fill byte
    return None
