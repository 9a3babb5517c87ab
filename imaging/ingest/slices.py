"""Folders of image slices: grey PNG, JPEG or TIFF files, whose only header is where they lie.

    <patient>/<modality>/<anything><number>.png      a label map is such a folder, too

They say neither how large a pixel is nor whether text is burned in. So they are taken only where the site
says `slices_mm` in ingest.yaml, and vouches with it that nothing is written into them. The first row is the
patient's front, the first column the patient's right, and the numbers go up from the feet.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imaging.dicom import failures
from imaging.reasons import Reason
from imaging.volume import Volume
from protocol.errors import DicomError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
GREY = ("1", "L", "I;16")
MOST_PIXELS, MOST_VOXELS = 2**24, 2**28
WHITE = 255
"""How a label map that is drawn as a picture says 1."""

Spacing = tuple[float, float, float]


def number_of(file: str) -> int:
    """Return the number that a slice's name ends in.

    Raises:
        DicomError: NO_GEOMETRY, if it has none.
    """
    found = re.search(r"(\d{1,9})\.\w+$", file)
    if found is None:
        raise DicomError(Reason.NO_GEOMETRY, "its name ends in no number: slices are put in order by it")
    return int(found[1])


def pixels_of(path: Path) -> bytes:
    """Return a slice's pixels and nothing else of its file, as `.npy`.

    Raises:
        DicomError: UNREADABLE, TOO_LARGE or COLOUR.
    """
    with failures(Reason.UNREADABLE), Image.open(path, formats=("PNG", "JPEG", "TIFF")) as image:
        if image.width * image.height > MOST_PIXELS or getattr(image, "n_frames", 1) > 1:
            raise DicomError(Reason.TOO_LARGE, "it is not one slice, or larger than any that is taken")
        if image.mode not in GREY:
            raise DicomError(Reason.COLOUR, "a colour picture: export slices in grey")
        data = BytesIO()
        np.save(data, np.asarray(image), allow_pickle=False)
    return data.getvalue()


def stacks(folder: Path) -> Iterator[tuple[str, str, list[Path]]]:
    """Yield name, study and slices, in order, of what was admitted into `folder`."""
    found: defaultdict[tuple[str, str], list[tuple[int, Path]]] = defaultdict(list)
    for path in sorted(folder.glob("*.npy")):
        _, name, study, number, _ = path.name.split(".")
        found[name, study].append((int(number), path))
    for (name, study), slices in sorted(found.items()):
        yield name, study, [path for _, path in sorted(slices)]


def stacked(paths: Sequence[Path], spacing_mm: Spacing, *, labels: bool) -> Volume:
    """Return slices as a volume.

    Raises:
        DicomError: MISSING_SLICES, REPEATED_SLICES, UNEVEN_SLICES or TOO_LARGE.
    """
    numbers = [int(path.name.split(".")[3]) for path in paths]
    if len({*numbers}) < len(numbers):
        raise DicomError(Reason.REPEATED_SLICES, "two slices have one number: keep one of them")
    if numbers[-1] - numbers[0] >= len(numbers):
        raise DicomError(Reason.MISSING_SLICES, "the slices' numbers have gaps: export them anew")
    load = partial(np.load, mmap_mode="r", allow_pickle=False)
    shapes = {load(path).shape for path in paths}
    if len(shapes) > 1:
        raise DicomError(Reason.UNEVEN_SLICES, "the slices are of several sizes: export them anew")
    rows, columns = shapes.pop()
    if rows * columns * len(paths) > MOST_VOXELS:
        raise DicomError(Reason.TOO_LARGE, f"a volume of more than {MOST_VOXELS // 2**20} million voxels")
    values = np.stack([load(path).T.astype(np.float32) for path in paths], axis=2)
    x, y, z = spacing_mm
    return Volume(_as_labels(values) if labels else values, np.diag((-x, -y, z, 1.0)))


def _as_labels(values: NDArray[np.float32]) -> NDArray[np.float32]:
    drawn = {*np.unique(values).tolist()} <= {0.0, WHITE}
    return (values > 0).astype(np.float32) if drawn else values
