"""From a heap of DICOM files to volumes.

    files -> frames (imaging.frames)      a file that cannot be read is named with its reason
          -> stacks                       frames of one series, one grid and one kind: each place once
          -> volumes                      sorted along the normal, evenly spaced, rescaled

A series is not a volume. A localiser has three orientations; a multi-echo series holds every
slice once for every echo, a diffusion series for every gradient, a dynamic one for every time. So
what sets frames apart (`Frame.kind`, their size, their grid) separates stacks always, and what merely
counts them (`Frame.repeat`: temporal position, acquisition, trigger time) only where a place
would else be taken twice: many scanners count acquisitions within one volume.

A volume is made only of slices that are all there: the distance from each to the next must
be the same. Slices that are each shifted a little against the one before (a tilted gantry) make an
affine that is not square, which is the truth about where they lie.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaging.decoding import Pixels
from imaging.dicom import failures, read_header
from imaging.frames import Frame, frames
from imaging.pixels import read_pixels
from imaging.projections import Spacing, grey
from imaging.reasons import Reason
from imaging.volume import LPS_TO_RAS, Affine, Vector, Volume
from protocol.errors import DicomError

SAME_PLACE_MM = 0.01
SAME_GRID = 1e-3
UNEVEN_MM, UNEVEN_SHARE = 0.05, 0.02
"""How far a step may be from the others', as positions are written with few digits."""
SKIPPED = 1.5
"""Slices that lie so many times further apart than the header says are not neighbours."""

Refuse = Callable[[Path, DicomError], None]
"""Told of each file that was not read."""


@dataclass(frozen=True)
class Stack:
    """The frames of one volume, sorted along their normal; any one's header speaks for all of them."""

    frames: tuple[Frame, ...]

    @property
    def series(self) -> str:
        """Return the series instance UID."""
        return self.frames[0].series


def collect(paths: Iterable[Path], refuse: Refuse, *, pictures_mm: Spacing | None = None) -> list[Stack]:
    """Read the headers of `paths` and return what may be volumes, in the order of the first file of each.

    `refuse` is told of every file that was not read, and the rest goes on. `pictures_mm` is of
    `imaging.frames.frames`.
    """
    series: defaultdict[str, list[Frame]] = defaultdict(list)
    for path in paths:
        try:
            with failures(Reason.UNREADABLE):
                found = frames(read_header(path), path, pictures_mm)
        except DicomError as error:
            refuse(path, error)
            continue
        series[found[0].series].extend(found)
    return [stack for each in series.values() for stack in stacks(each)]


def stacks(series: Sequence[Frame]) -> list[Stack]:
    """Divide the frames of one series into volumes; of two copies of one image the first is taken."""
    once = list({frame.instance: frame for frame in reversed(series)}.values())[::-1]
    grids = _clustered(once)
    kinds = [each for grid in grids for each in _grouped(grid, lambda frame: frame.kind)]
    return [Stack(tuple(_sorted(stack))) for kind in kinds for stack in _told_apart(kind)]


def read_volume(stack: Stack) -> Volume:
    """Return a stack's volume; its x and y are an image's columns and rows.

    Raises:
        DicomError: REPEATED_SLICES, MISSING_SLICES, UNEVEN_SLICES, or what `read_pixels` raises.
    """
    affine, first = LPS_TO_RAS @ geometry(stack), stack.frames[0]
    with failures(Reason.BAD_PIXELS), np.errstate(over="ignore", invalid="ignore"):
        values = np.empty((first.columns, first.rows, len(stack.frames)), np.float32)
        for z, image in _images(stack):
            values[:, :, z] = image.T
    if not np.isfinite(values).all():
        raise DicomError(
            Reason.BAD_PIXELS, "it holds values that are not finite, or larger than any scanner's"
        )
    return Volume(values, affine)


def geometry(stack: Stack) -> Affine:
    """Return where a stack's voxels lie: `(4, 4)`, (column, row, slice, 1) -> mm in LPS.

    Raises:
        DicomError: REPEATED_SLICES, MISSING_SLICES or UNEVEN_SLICES.
    """
    first = stack.frames[0]
    affine = np.eye(4)
    affine[:3, 0] = first.across * first.spacing_mm[1]
    affine[:3, 1] = first.down * first.spacing_mm[0]
    affine[:3, 2] = _step(stack)
    affine[:3, 3] = first.position
    return affine


# -- Frames to stacks ------------------------------------------------------------------------


def _clustered(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Group frames by size, pixel spacing and orientation.

    Each is compared with the first that is left, for rounded keys would split where digits turn over.
    """
    grids = np.array([(f.rows, f.columns, *f.spacing_mm, *f.across, *f.down) for f in frames])  # (n, 10)
    groups: list[list[Frame]] = []
    left = np.arange(len(frames))
    while len(left):
        same = np.abs(grids[left] - grids[left[0]]).max(1) < SAME_GRID
        groups.append([frames[place] for place in left[same]])
        left = left[~same]
    return groups


def _grouped(frames: Sequence[Frame], key: Callable[[Frame], Hashable]) -> list[list[Frame]]:
    groups: defaultdict[Hashable, list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[key(frame)].append(frame)
    return list(groups.values())


def _told_apart(frames: list[Frame], sign: int = 0) -> list[list[Frame]]:
    """Divide frames by the signs in `repeat`, the surest first, until every place is taken once.

    A sign divides if most of its groups have every place: one that counts slices has not, and the
    last of many times may be cut short. What no sign divides stays together, and is refused as
    repeated when its volume is made.
    """
    places = _places(frames)
    if places == len(frames) or sign == len(frames[0].repeat):
        return [frames]
    groups = _grouped(frames, lambda frame: frame.repeat[sign])
    if sum(_places(group) == places for group in groups) <= len(groups) / 2:
        groups = [frames]
    return [stack for group in groups for stack in _told_apart(group, sign + 1)]


def _places(frames: Sequence[Frame]) -> int:
    """Count the places along their normal in which frames lie."""
    return 1 + int((np.diff(np.sort(_heights(frames))) > SAME_PLACE_MM).sum())


def _heights(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """Return how far along their normal frames lie, `(n,)` in mm."""
    return np.array([frame.position for frame in frames]) @ frames[0].normal


def _sorted(frames: Sequence[Frame]) -> list[Frame]:
    return [frames[place] for place in np.argsort(_heights(frames), kind="stable")]


# -- Stacks to volumes -----------------------------------------------------------------------


def _step(stack: Stack) -> Vector:
    """Return the way from a slice to the next, `(3,)` in mm."""
    first, last = stack.frames[0], stack.frames[-1]
    if len(stack.frames) == 1:
        return first.normal * (first.step_mm or first.thickness_mm or 1.0)
    if _places(stack.frames) < len(stack.frames):
        raise DicomError(
            Reason.REPEATED_SLICES, "two different images lie in one place; nothing tells them apart"
        )
    steps = np.diff([frame.position for frame in stack.frames], axis=0)
    mean: Vector = (last.position - first.position) / len(steps)
    off, length = np.linalg.norm(steps - mean, axis=1).max(), float(np.linalg.norm(mean))
    if off > max(UNEVEN_MM, UNEVEN_SHARE * length):
        raise _uneven(steps @ first.normal, first.step_mm)
    if _skips(stack, length):
        raise DicomError(
            Reason.MISSING_SLICES, "its slices lie further apart than its header says; export all"
        )
    return mean


def _uneven(steps: NDArray[np.float64], step_mm: float | None) -> DicomError:
    """Say which of two faults it is: gaps of whole slices, or slices that lie anywhere."""
    ratios = steps / (step_mm or steps.min())
    gaps = int(np.rint(ratios - 1).sum())
    if gaps > 0 and np.abs(ratios - np.rint(ratios)).max() < 0.1:  # noqa: PLR2004 - a tenth of a slice
        return DicomError(Reason.MISSING_SLICES, f"it lacks {gaps} of its slices; export the series anew")
    return DicomError(
        Reason.UNEVEN_SLICES, "its slices are not evenly spaced; resample it before it is exported"
    )


def _skips(stack: Stack, step_mm: float) -> bool:
    """Tell whether evenly spaced slices are each second, third, ... of what was scanned.

    Some headers have the gap between slices where their distance belongs. Then the slices' numbers
    follow each other, and nothing is missing.
    """
    expected = stack.frames[0].step_mm or stack.frames[0].thickness_mm
    numbers = np.array([frame.number for frame in stack.frames])
    return bool(expected and step_mm > SKIPPED * expected and (np.abs(np.diff(numbers)) > 1).all())


def _images(stack: Stack) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (place, values `(rows, columns)`), reading each file once."""
    by_file: defaultdict[Path, list[int]] = defaultdict(list)
    for z, frame in enumerate(stack.frames):
        by_file[frame.path].append(z)
    for path, places in by_file.items():
        pixels = read_pixels(path)
        for z in places:
            yield z, _rescaled(pixels, stack.frames[z])


def _rescaled(pixels: Pixels, frame: Frame) -> NDArray[np.float32]:
    """Return a frame's values in the units of its rescale (PS3.3 C.11.1.1.2)."""
    row, column = frame.window
    image = pixels[frame.index, row : row + frame.rows, column : column + frame.columns]
    if frame.flat and image.ndim > 2:  # noqa: PLR2004 - rows, columns
        image = grey(image.astype(np.float32))
    if image.shape != (frame.rows, frame.columns):
        raise DicomError(Reason.BAD_PIXELS, "its image has another size than its header says")
    return image.astype(np.float32) * np.float32(frame.slope) + np.float32(frame.intercept)
