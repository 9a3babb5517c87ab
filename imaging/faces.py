"""Where the face of a head is, by geometry alone: no network, no atlas.

    head        what is brighter than air (a tenth of the way from the 2nd to the 98th percentile, as in
                BET, Hum Brain Mapp 2002), filled, its largest piece
    braincase   the largest balls inside the head (at least `LARGE` of the largest), not further than
                `HEAD_MM` below its top: the skull is round there, and nowhere else so wide
    face        everything before and below a plane that leaves these balls behind it by `MARGIN_MM`, at
                half a right angle between front and bottom

Nose, cheeks, mouth and chin lie beyond that plane; the brain, which ends a skull and a scalp before the
ball's sides, does not reach it. Brow and eyes may be left. A site that wants more names a plug-in.
"""

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from scipy.ndimage import (  # pyright: ignore[reportMissingTypeStubs]
    binary_fill_holes,
    distance_transform_edt,
)

from imaging.volume import Vector, Volume

AIR, LARGE = 0.1, 0.97
HEAD_MM, MARGIN_MM = 160.0, 2.0
UP = np.array((0.0, 0.0, 1.0))
FORWARD_AND_DOWN = np.array((0.0, 1.0, -1.0)) / np.sqrt(2)
METHOD = f"plane at 45 degrees, {MARGIN_MM:g} mm off the braincase's ball"

Mask = NDArray[np.bool_]
"""`(X, Y, Z)`."""


def face(volume: Volume) -> Mask:
    """Return the voxels of a head's face, and of the air before it; `volume` has the project's axes."""
    depth, height, along = _depth(volume), _along(volume, UP), _along(volume, FORWARD_AND_DOWN)
    depth[height < height[depth > 0].max(initial=-np.inf) - HEAD_MM] = 0
    large = depth >= LARGE * depth.max()
    return along > (along + depth)[large].max() + MARGIN_MM


def _along(volume: Volume, direction: Vector) -> NDArray[np.float64]:
    """Return how far each voxel lies along a direction, `(X, Y, Z)` in mm."""
    x, y, z = np.ogrid[tuple(slice(n) for n in volume.values.shape)]
    steps, origin = direction @ volume.affine[:3, :3], direction @ volume.affine[:3, 3]
    return x * steps[0] + y * steps[1] + z * steps[2] + origin


def _depth(volume: Volume) -> NDArray[np.float64]:
    """Return how far within the head a voxel lies, in mm; 0 outside."""
    depth = distance_transform_edt(_head(volume), sampling=volume.spacing_mm)
    return np.asarray(depth, np.float64)


def _head(volume: Volume) -> Mask:
    dark, bright = np.percentile(volume.values, (2, 98))
    head: Mask = volume.values > dark + AIR * (bright - dark)
    for axis in (2, 0, 1):  # bone and air cells are dark, and open only where the scan ends
        head = np.stack([_filled(each) for each in np.moveaxis(head, axis, 0)], axis)
    pieces = SimpleITK.ConnectedComponent(SimpleITK.GetImageFromArray(head.astype(np.uint8)))
    return SimpleITK.GetArrayFromImage(SimpleITK.RelabelComponent(pieces)) == 1  # the largest


def _filled(plane: Mask) -> Mask:
    return np.asarray(binary_fill_holes(plane), np.bool_)
