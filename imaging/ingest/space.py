"""Scans of one patient on one grid.

    canonical    axes turned to the project's: x to the right, y to the front, z up; no value changes
    Grid         shape and affine; a reference's own, or with voxels of another size over the same field
    resampled    linearly, label maps to the nearest voxel; outside of the scan is its darkest value
    registered   a rigid motion that makes two scans tell most about each other (Mattes' mutual
                 information, IEEE TMI 2003), from how the scanner placed them
    box          what is brighter than the mean, which leaves out air, and a margin

SimpleITK does the work, in mm and in DICOM's coordinates, on one thread and by fixed samples: the same
scans give the same bytes.
"""

from dataclasses import dataclass

import numpy as np
import SimpleITK
from nibabel.funcs import as_closest_canonical
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray

from imaging.volume import LPS_TO_RAS, Affine, Volume

SAME_MM = 1e-3
"""Grids that differ by less are one."""
BINS, SAMPLED, STEPS = 50, 0.25, 200
LEVELS = (2, 1)
"""Resolutions of a registration, coarse to fine."""

SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Grid:
    """Where voxels lie: `shape` (X, Y, Z) of them at `affine`."""

    shape: tuple[int, int, int]
    affine: Affine

    def is_of(self, volume: Volume) -> bool:
        """Tell whether a volume lies on this grid."""
        return volume.values.shape == self.shape and bool(np.abs(volume.affine - self.affine).max() < SAME_MM)


def canonical(volume: Volume) -> Volume:
    """Return the same voxels, in the order of the project's axes."""
    image = as_closest_canonical(Nifti1Image(volume.values, volume.affine))
    return Volume(np.ascontiguousarray(image.dataobj, np.float32), np.asarray(image.affine))


def grid_of(volume: Volume, spacing_mm: tuple[float, float, float] | None) -> Grid:
    """Return a volume's grid, or one of other voxels over the same field."""
    shape = tuple(volume.values.shape)
    if spacing_mm is None:
        return Grid((shape[0], shape[1], shape[2]), volume.affine)
    ratio = np.divide(spacing_mm, volume.spacing_mm)
    x, y, z = (max(1, round(n / each)) for n, each in zip(shape, ratio, strict=True))
    affine = volume.affine @ np.diag((*ratio, 1.0))
    affine[:3, 3] = volume.affine[:3, 3] + volume.affine[:3, :3] @ ((ratio - 1) / 2)  # outer faces stay
    return Grid((x, y, z), affine)


def resampled(
    volume: Volume,
    grid: Grid,
    motion: SimpleITK.Transform | None = None,
    *,
    labels: bool = False,
    fill: float | None = None,
) -> Volume:
    """Return a volume on another grid, after a rigid motion if there is one; outside of it is `fill`.

    `fill` None: 0 for labels, else the darkest value.
    """
    if motion is None and grid.is_of(volume):
        return volume
    image = _image(volume)
    if fill is None:
        fill = 0.0 if labels else float(volume.values.min())
    origin, spacing, direction = _placed(grid.affine)
    how = SimpleITK.sitkNearestNeighbor if labels else SimpleITK.sitkLinear
    moved = motion or SimpleITK.Transform()
    found = SimpleITK.Resample(image, grid.shape, moved, how, origin, spacing, direction, fill)
    values = np.ascontiguousarray(SimpleITK.GetArrayViewFromImage(found).transpose(2, 1, 0))
    return Volume(values, grid.affine)


def registered(moving: Volume, fixed: Volume) -> SimpleITK.Transform:
    """Return the motion from a point of `fixed` to the one of `moving` that shows the same.

    Raises:
        RuntimeError: the two have too little in common.
    """
    still = _image(fixed)
    method = SimpleITK.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(SAMPLED, 1)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, STEPS)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(LEVELS)
    method.SetSmoothingSigmasPerLevel([level - 1.0 for level in LEVELS])
    centre = still.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in still.GetSize()])
    start = SimpleITK.Euler3DTransform()
    start.SetCenter(centre)
    method.SetInitialTransform(start, inPlace=False)
    return method.Execute(still, _image(moving))


def box(values: NDArray[np.float32], margin: tuple[int, ...]) -> Box:
    """Return where a scan is brighter than its mean, and `margin` voxels around it; all of a flat one."""
    bright = values > values.mean() if np.ptp(values) else np.ones(values.shape, bool)
    planes = [np.flatnonzero(bright.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    x, y, z = (
        slice(max(0, int(found[0]) - wide), min(int(found[-1]) + wide + 1, length))
        for found, wide, length in zip(planes, margin, values.shape, strict=True)
    )
    return x, y, z


def around(one: Box, other: Box) -> Box:
    """Return the box of both."""
    x, y, z = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return x, y, z


def cropped(volume: Volume, box: Box) -> Volume:
    """Return what of a volume is in a box."""
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [each.start for each in box]
    return Volume(np.ascontiguousarray(volume.values[box]), affine)


def _image(volume: Volume) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(volume.values.transpose(2, 1, 0))  # SimpleITK's arrays are Z Y X
    origin, spacing, direction = _placed(volume.affine)
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    return image


def _placed(affine: Affine) -> tuple[list[float], list[float], list[float]]:
    """Return an affine as ITK has it: origin, spacing, direction, in DICOM's coordinates."""
    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    return lps[:3, 3].tolist(), spacing.tolist(), (lps[:3, :3] / spacing).ravel().tolist()
