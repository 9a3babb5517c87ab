"""A patient's scans on one grid: the one way there, for a cohort and for a prediction.

    reference   the first of `reference` that is there, else the first by name; it gives the grid, or with
                `spacing_mm` the field
    others      by a rigid motion where `register` says so, else by the scanner's own coordinates, which hold
                within a frame of reference (PS3.3 C.7.4.1): a scan of another one is put aside. A label map
                goes where the scan went that it was drawn on
    flat        pictures without a place in the patient (imaging.projections) go onto each other, and onto no
                volume
    all         resampled, emptied outside of what is kept of a head (imaging.ingest.head), and cut to one box
                around what is bright in the reference

No label map has a say in it, for there is none when a model is asked: what reaches beyond the box is cut
off, and that is told.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from SimpleITK import Transform

from imaging.faces import Mask
from imaging.ingest import space
from imaging.ingest.head import kept
from imaging.ingest.scans import Aside, Scan, taken
from imaging.ingest.settings import IngestSettings, Method
from imaging.ingest.space import Box, Grid
from imaging.volume import Volume

ELSEWHERE = "elsewhere"
OTHER_FRAME = "it lies in another frame of reference than the reference: register it"
FLAT = "a picture of one plane and a volume lie on no common grid: say by `reference` which counts"
CUT = "cut"

Named = Mapping[str, Sequence[Scan]]
"""Name -> candidates, the best first."""


@dataclass(frozen=True)
class Common:
    """What a patient's scans are brought to.

    `whole`  the reference on `grid`, before anything is taken from it
    `kept`   the voxels of the grid that stay, None for all of them, and `steps`, what is told of that
    `box`    what is cut out
    """

    scan: Scan
    scanned: Volume
    whole: Volume
    grid: Grid
    kept: Mask | None
    steps: Sequence[Any]
    box: Box
    settings: IngestSettings
    aside: Aside

    def is_mask(self, scan: Scan) -> bool:
        """Tell a label map from an image."""
        return scan.name in self.settings.masks

    def moves(self, scan: Scan) -> bool:
        """Tell whether a motion is looked for that brings a scan to the reference."""
        return self.settings.register and not scan.flat and not self.scan.flat

    def elsewhere(self, scan: Scan) -> str:
        """Say why a scan's coordinates do not tell where it lies in the reference; empty: they do."""
        if scan.flat or self.scan.flat:
            return "" if scan.flat and self.scan.flat else FLAT
        return OTHER_FRAME if scan.frame and self.scan.frame and scan.frame != self.scan.frame else ""


@dataclass(frozen=True)
class Brought:
    """One scan: as it was scanned, as it is now, and what was done in between.

    `motion` takes a point of the reference to the one of this scan that shows the same; None: itself.
    """

    scan: Scan
    scanned: Volume
    volume: Volume
    steps: Sequence[Any]
    motion: Transform | None = None


def common(named: Named, method: Method, aside: Aside) -> Common | None:
    """Return where a patient's scans are brought to; None where there is no image to go by.

    Raises:
        DicomError: PLUG_IN, where one fails.
    """
    settings = method.settings
    images = [name for name in named if name not in settings.masks]
    order = [name for name in settings.reference if name in images]
    first = next(taken(named, dict.fromkeys([*order, *images]), aside), None)
    if first is None:
        return None
    scan, scanned = first
    grid = space.grid_of(scanned, _spacing_mm(scan, scanned, settings))
    whole = space.resampled(scanned, grid)
    keep, steps = kept(whole, (each for name in images for each in named[name]), method)
    box = _box(_emptied(whole, keep), settings)
    return Common(scan, scanned, whole, grid, keep, steps, box, settings, aside)


def _spacing_mm(scan: Scan, scanned: Volume, settings: IngestSettings) -> tuple[float, float, float] | None:
    """Return the size of the grid's voxels; a picture stays one slice."""
    if settings.spacing_mm is None or not scan.flat:
        return settings.spacing_mm
    return *settings.spacing_mm[:2], scanned.spacing_mm[2]


def brought(named: Named, there: Common) -> Iterator[Brought]:
    """Yield one scan of each name on the common grid: the reference, the images, what was drawn on them."""
    motions = dict[str, Transform | None]()
    for scan, scanned in _in_order(named, there):
        motion, steps = _motion(scan, scanned, there, motions)
        if motion is None and (why := there.elsewhere(scan)):
            there.aside(scan.name, ELSEWHERE, why, scan.path)
            continue
        if scan.series:
            motions[scan.series.stack.series] = motion
        yield _placed(scan, scanned, there, motion, steps)


def _in_order(named: Named, there: Common) -> Iterator[tuple[Scan, Volume]]:
    yield there.scan, there.scanned
    masks = [name for name in named if name in there.settings.masks]
    images = [name for name in named if name not in masks and name != there.scan.name]
    yield from taken(named, [*images, *masks], there.aside)


def _motion(
    scan: Scan, scanned: Volume, there: Common, motions: Mapping[str, Transform | None]
) -> tuple[Transform | None, list[Any]]:
    """Return how a scan is moved before it is resampled, and what is told of that."""
    if scan is there.scan:
        return None, ["reference"]
    if there.is_mask(scan):
        return motions.get(scan.series.stack.series) if scan.series else None, []
    return _registered(scanned, there) if there.moves(scan) else (None, [])


def _registered(moving: Volume, there: Common) -> tuple[Transform | None, list[Any]]:
    try:
        motion = space.registered(moving, there.whole)
    except RuntimeError:
        return None, ["not registered: it has too little in common with the reference"]
    return motion, [{"registered": [round(each, 4) for each in motion.GetParameters()]}]


def _placed(
    scan: Scan, scanned: Volume, there: Common, motion: Transform | None, steps: list[Any]
) -> Brought:
    labels = there.is_mask(scan)
    if motion is not None or not there.grid.is_of(scanned):
        steps.append("resampled to the nearest voxel" if labels else "resampled linearly")
    moved = space.resampled(scanned, there.grid, motion, labels=labels)
    if not labels:
        moved, steps = _emptied(moved, there.kept), [*steps, *there.steps]
    volume = space.cropped(moved, there.box)
    if labels and np.count_nonzero(volume.values) < np.count_nonzero(moved.values):
        why = "a label map reaches beyond what is cut out: more `margin_mm` keeps it"
        there.aside(scan.name, CUT, why, scan.path)
    return Brought(scan, scanned, volume, steps, motion)


def _emptied(volume: Volume, keep: Mask | None) -> Volume:
    """Return a volume that is its darkest value where it is not kept."""
    if keep is None:
        return volume
    return Volume(np.where(keep, volume.values, volume.values.min()), volume.affine)


def _box(whole: Volume, settings: IngestSettings) -> Box:
    """Return what is cut from the grid: all of it, or the reference's foreground and a margin."""
    if not settings.crop:
        x, y, z = whole.values.shape
        return slice(0, x), slice(0, y), slice(0, z)
    margin = np.ceil(np.divide(settings.margin_mm, whole.spacing_mm)).astype(int)
    return space.box(whole.values, tuple(margin.tolist()))
