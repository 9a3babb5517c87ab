"""What pixel data may hold besides pixels, and how it is taken out without touching one.

Text has three places in there, none of which a viewer shows:

    behind the last pixel      a file may be longer than its image: cut off
    in the unused bits         overlays of old: drawings in bits that no pixel uses (PS3.5 8.1.2): masked
    in the compressed stream   comments: overwritten (`imaging/segments.py`); frames are packed anew,
                               without what stood between them

Not looked into are run-length coded frames (RLE), which have no place for comments, and lookup tables.
"""

import re

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import RLELossless

from imaging.segments import silenced

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
"""An image has one of them."""

_JPEG_FAMILY = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.([5-8]\d|9[0-3]|20[1-3])")
"""JPEG, JPEG-LS, JPEG 2000 and its high-throughput form; video and what is newer come after (PS3.5 10)."""

_OVERLAYS = range(0x6000, 0x6020, 2)
_BIT_POSITION, _OVERLAY_DATA = 0x0102, 0x3000


def scrub(clean: Dataset, original: Dataset) -> tuple[str, ...]:
    """Take out of pixel data, in place, what is not pixels; return reasons for quarantine if that fails."""
    for keyword in (each for each in PIXELS if each in clean):
        try:
            clean[keyword].value = _scrubbed(clean[keyword].value, clean, original)
        except Exception as error:  # noqa: BLE001 - pydicom's errors of a broken stream are of many kinds
            del clean[keyword]
            return (f"pixels cannot be checked for hidden text ({type(error).__name__})",)
    return ()


def _scrubbed(data: bytes, clean: Dataset, original: Dataset) -> bytes:
    if clean.file_meta.TransferSyntaxUID.is_encapsulated:
        return _compressed(data, clean)
    length = get_expected_length(clean, unit="bytes")
    pixels = data[: length + length % 2]
    return _masked(pixels, clean) if _hides_overlays(original) else pixels


def _hides_overlays(original: Dataset) -> bool:
    return any(
        (group, _BIT_POSITION) in original and (group, _OVERLAY_DATA) not in original for group in _OVERLAYS
    )


def _masked(pixels: bytes, clean: Dataset) -> bytes:
    """Clear the bits that are not the pixel's; of a signed pixel, repeat its sign there."""
    order = "<" if clean.file_meta.TransferSyntaxUID.is_little_endian else ">"
    words = np.frombuffer(pixels, f"{order}u{clean.BitsAllocated // 8}")
    lowest = clean.HighBit + 1 - clean.BitsStored
    sign = words.dtype.type(1 << clean.HighBit) if clean.PixelRepresentation else words.dtype.type(0)
    kept = words & words.dtype.type(((1 << clean.BitsStored) - 1) << lowest)
    return ((kept ^ sign) - sign).astype(words.dtype).tobytes()


def _compressed(data: bytes, clean: Dataset) -> bytes:
    syntax = clean.file_meta.TransferSyntaxUID
    frames = generate_frames(data, number_of_frames=int(clean.get("NumberOfFrames") or 1))
    if syntax == RLELossless:
        return encapsulate(list(frames), has_bot=False)
    if _JPEG_FAMILY.fullmatch(syntax):
        return encapsulate([silenced(frame) for frame in frames], has_bot=False)
    raise ValueError("a compression that is not known here")
