"""Label maps from what people have drawn: DICOM SEG and RTSTRUCT.

    file            refers to a series, or else to a frame of reference; it becomes a label map on that series
    outline         is one class of a label map, if `segments` of ingest.yaml lists its name or its code.
                    What is not listed is put aside, and never guessed: `--outlines` shows what there is
    several files   that outline one class of a label map are several annotators: `union` takes what any of
                    them did, `majority` what more than half of them did
    several series  with outlines of one label map: that with most slices is taken

In the copies that are kept, an outline's name is a stand-in (`imaging.pseudonyms`), for people write names of
doctors and patients there. The site's list is hashed by the same key, so it may change without reading anew.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from imaging.annotations import Outline, drawn_on, outlines, read_annotations
from imaging.dicom import failures, read_header, text
from imaging.ingest.desk import Desk
from imaging.ingest.scans import Aside, Scan, is_too_large, told
from imaging.reasons import Reason
from imaging.recognised import Series
from imaging.series import Stack, geometry
from imaging.volume import LPS_TO_RAS, Volume
from protocol.errors import DicomError

SUFFIX = ".outlines.dcm"
"""Of the copy of a file that outlines something."""
UNLISTED = "unlisted_outline"
NOT_LISTED = "its name and code are not in `segments` of ingest.yaml: `--outlines` lists what there is"
NO_SERIES = "it was drawn on a series that is not here, or is larger than any that is taken"

Meaning = TypeVar("Meaning")
Classes = Mapping[str, int]
"""What an outline is called or coded -> the class of a label map."""


def drawn(desk: Desk, paths: Sequence[Path], series: Sequence[Series], aside: Aside) -> Iterator[Scan]:
    """Yield the label maps that files outline, each on the series that it was drawn on."""
    meant = desk.method.meant(desk.pseudonyms)
    files: defaultdict[tuple[str, int], list[Path]] = defaultdict(list)
    for path in paths:
        try:
            for name, place in _refers(path, series, meant, aside):
                files[name, place].append(path)
        except DicomError as error:
            aside("", *told(error), path)
    for (name, place), here in files.items():
        on, classes = series[place], {key: number for key, (of, number) in meant.items() if of == name}
        load = partial(_label_map, here, on.stack, classes, desk.method.settings.annotators)
        because = f"outlined in {len(here)} DICOM file{'s' * (len(here) > 1)}"
        rank = (1.0, len(on.stack.frames), on.stack.series)
        yield Scan(name, text(on.header, "StudyInstanceUID"), rank, because, load, on)


def meaning(outline: Outline, meant: Mapping[str, Meaning]) -> Meaning | None:
    """Return what an outline's name or one of its codes means; None if nobody has listed it."""
    return next((meant[key] for key in (outline.label, *outline.codes) if key in meant), None)


def _refers(
    path: Path, series: Sequence[Series], meant: Mapping[str, tuple[str, int]], aside: Aside
) -> Iterator[tuple[str, int]]:
    """Yield the label maps that a file outlines, each once, with the number of the series."""
    header = read_header(path)
    with failures(Reason.UNREADABLE):
        found, place = outlines(header), _place(header, series)
    meanings = [meaning(each, meant) for each in found]
    for _ in range(meanings.count(None)):
        aside("", UNLISTED, NOT_LISTED, path)
    names = dict.fromkeys(each[0] for each in meanings if each)
    if names and (place is None or is_too_large(series[place].stack)):
        raise DicomError(Reason.NO_SERIES, NO_SERIES)
    yield from ((name, place) for name in names if place is not None)


def _place(header: Dataset, series: Sequence[Series]) -> int | None:
    """Return which series a file was drawn on: that which it names, else one of its frame of reference."""
    named, frames = drawn_on(header)
    by_name = [n for n, each in enumerate(series) if each.stack.series in named]
    by_frame = [n for n, each in enumerate(series) if text(each.header, "FrameOfReferenceUID") in frames]
    return max(by_name or by_frame, key=lambda n: len(series[n].stack.frames), default=None)


def _label_map(paths: Sequence[Path], stack: Stack, classes: Classes, annotators: str) -> Volume:
    """Return a label map on a stack's voxels: 0, or the last class that is there."""
    votes: defaultdict[int, list[NDArray[np.bool_]]] = defaultdict(list)
    for path in paths:
        for number, mask in _masks(path, stack, classes).items():
            votes[number].append(mask)
    first = stack.frames[0]
    values = np.zeros((first.columns, first.rows, len(stack.frames)), np.float32)
    for number, masks in sorted(votes.items()):
        least = len(masks) // 2 + 1 if annotators == "majority" else 1
        values[np.sum(masks, axis=0) >= least] = number
    return Volume(values, LPS_TO_RAS @ geometry(stack))


def _masks(path: Path, stack: Stack, classes: Classes) -> dict[int, NDArray[np.bool_]]:
    """Return class -> what one file outlines as it, in one piece or several."""
    found = dict[int, NDArray[np.bool_]]()
    for each in read_annotations(path, stack, lambda outline: meaning(outline, classes) is not None):
        number = meaning(each, classes) or 0
        found[number] = found.get(number, np.False_) | each.mask
    return found
