"""The pixels of one DICOM file, which may mean harm."""

from pathlib import Path

from imaging import contained
from imaging.decoding import Pixels, is_encoded, stored_as
from imaging.dicom import read_header


def read_pixels(path: Path) -> Pixels:
    """Return the stored values, `(frames, rows, columns)` or `(..., samples)`, without rescale.

    Encoded files are decoded in another process, which may die of them; native ones here.

    Raises:
        DicomError: as `read_header`, or NO_PIXELS, TRUNCATED, BAD_PIXELS (what the header says does
            not fit what is there), UNKNOWN_SYNTAX (no decoder), TOO_LARGE.
    """
    header = read_header(path)
    return contained.decode(path) if is_encoded(header) else stored_as(header, path)
