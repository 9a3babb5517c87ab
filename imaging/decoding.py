"""From a file's bytes to the values that its scanner stored.

What the header claims is held against what is there before a decoder sees it: the decoded
size against the file's (`MOST_RATIO` times, and never less than `ALWAYS_ALLOWED`), native pixels
against their number of bytes, an encoded frame against the size in its own first bytes.

That bounds honest decoders. gdcm, openjpeg and CharLS are C++ and some damaged frames end the whole
process, so encoded files are decoded in another one: see `imaging.contained`.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array

from imaging.codestream import grown
from imaging.dicom import MIB, MOST_FILE, MOST_HEADER, failures, number, read_header, read_whole, text
from imaging.reasons import Reason
from imaging.structure import PIXELS
from protocol.errors import DicomError

Pixels = NDArray[Any]
"""Stored values, `(frames, rows, columns)` or `(frames, rows, columns, samples)`, without rescale."""

MOST_PIXELS = MOST_FILE
ALWAYS_ALLOWED = 64 * MIB
MOST_RATIO = 100
"""Decoded over encoded bytes: lossy CT has 30; an empty mask more, which `ALWAYS_ALLOWED` is for."""
MOST_SIDE, MOST_FRAMES, MOST_SAMPLES, MOST_BITS = 65_535, 10**6, 4, 64


def stored(path: Path, expect: Callable[[int], None] = lambda _: None) -> Pixels:
    """Decode a file in this process; `expect` is told beforehand how many bytes it will take.

    Raises:
        DicomError: as `imaging.pixels.read_pixels`.
    """
    return stored_as(read_header(path), path, expect)


def stored_as(header: Dataset, path: Path, expect: Callable[[int], None] = lambda _: None) -> Pixels:
    """Decode a file whose header has been read, see `stored`."""
    with failures(Reason.UNREADABLE):
        (shape, size), there = _claimed(header), path.stat().st_size
    if size > MOST_PIXELS or size > max(ALWAYS_ALLOWED, MOST_RATIO * there):
        raise DicomError(Reason.TOO_LARGE, f"a file of {there // MIB} MiB claims {size // MIB} MiB of pixels")
    most = MOST_HEADER + 2 * size  # nothing that is encoded in good faith grows
    expect(2 * size + 2 * min(most, there))
    dataset = read_whole(path, most)
    if is_encoded(dataset):
        with failures(Reason.UNKNOWN_SYNTAX):
            get_decoder(dataset.file_meta.TransferSyntaxUID)
    with failures(Reason.BAD_PIXELS):
        _check(dataset, shape, size)
        grey = len(shape) == 3  # noqa: PLR2004 - frames, rows, columns; colour is brought to RGB
        return pixel_array(dataset, raw=grey, allow_excess_frames=False).reshape(shape)


NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)


def is_encoded(header: Dataset) -> bool:
    """Tell whether a file's pixels need a decoder."""
    return header.file_meta.TransferSyntaxUID not in NATIVE


def _claimed(header: Dataset) -> tuple[tuple[int, ...], int]:
    """Return the shape that a header claims, and how many bytes that would be."""
    if not all(text(header, keyword) for keyword in ("Rows", "Columns", "BitsAllocated")):
        raise DicomError(Reason.NO_PIXELS, "it has no image")
    shape = (
        _positive(header, "NumberOfFrames", MOST_FRAMES, 1),
        _positive(header, "Rows", MOST_SIDE),
        _positive(header, "Columns", MOST_SIDE),
    )
    samples = _positive(header, "SamplesPerPixel", MOST_SAMPLES, 1)
    size = math.prod(shape) * samples * _positive(header, "BitsAllocated", MOST_BITS) // 8
    return (shape if samples == 1 else (*shape, samples)), size


def _positive(header: Dataset, keyword: str, most: int, default: int | None = None) -> int:
    found = number(header, keyword) if text(header, keyword) else default
    if found is None or found != int(found) or not 1 <= found <= most:
        raise DicomError(Reason.BAD_PIXELS, f"{keyword} is not a whole number from 1 to {most}")
    return int(found)


def _check(dataset: Dataset, shape: tuple[int, ...], size: int) -> None:
    """Refuse pixels that are not those that the header describes."""
    found = [dataset[tag].value for tag in PIXELS if tag in dataset]
    if not found:
        raise DicomError(Reason.NO_PIXELS, "it describes an image and ends before it")
    if is_encoded(dataset):
        for frame in generate_frames(found[0], number_of_frames=shape[0]):
            if wrong := grown(frame, dataset.file_meta.TransferSyntaxUID, shape[1], shape[2]):
                raise DicomError(Reason.BAD_PIXELS, wrong)
        return
    # Two of three samples are there (PS3.3 C.7.6.3.1.2).
    whole = size * 2 // 3 if "422" in text(dataset, "PhotometricInterpretation") else size
    if len(found[0] or b"") < whole:
        raise DicomError(Reason.TRUNCATED, "it has fewer pixels than its header says; export it anew")
