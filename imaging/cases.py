"""From a scan to what a network sees, and from what it says back to the scan.

    scan (X, Y, Z)      x to the patient's right, y to the front, z up
      -> resampled      (X', Y', Z') voxels of the recipe's size
      -> normalised     on its own scale
      -> cases          every axial slice (Z', 1, *size), or the volume (1, 1, *size), cut or padded about
                        its centre

Training and prediction go through here, so that a model meets the same images in both.
"""

from nibabel.affines import voxel_sizes
from torch import Tensor
from torch.nn.functional import interpolate

from imaging.transforms import fitted, normalised, resized, unfitted
from imaging.volume import Affine

SLICE, VOLUME = 2, 3
"""Numbers in a case's size."""

Spacing = tuple[float, ...]
Shape = tuple[int, ...]
Found = tuple[Tensor, Tensor]
"""Values of N cases, and which of them are there, bool `(N,)`."""


def spacing_of(affine: Affine) -> Spacing:
    """Return the size of a voxel; rounded, since a header's float32 must not make two spacings of one."""
    return tuple(round(float(mm), 3) for mm in voxel_sizes(affine))


def resampled_shape(shape: Shape, here_mm: Spacing, there_mm: Spacing) -> Shape:
    """Return how many voxels of `there_mm` stand for `shape` voxels of `here_mm`."""
    return tuple(max(1, round(n * mm / to)) for n, mm, to in zip(shape, here_mm, there_mm, strict=True))


def to_cases(scan: Tensor, shape: Shape, size: Shape) -> Found:
    """Return the cases of a scan `(X, Y, Z)` that is resampled to `shape`; a black one is not there.

    Black is 0, or the scan's darkest value, with which is filled what it does not reach.
    """
    volume = resized(scan[None, None], shape)  # (1, 1, X', Y', Z')
    values = normalised(volume)
    black = cut((volume == 0) | volume.isclose(volume.min()), size).flatten(1).all(1)
    return fitted(cut(values, size), size, float(values.min())), ~black


def cut(volumes: Tensor, size: Shape) -> Tensor:
    """Make `(1, C, X, Y, Z)` one volume or Z slices, `(N, C, X, Y[, Z])`."""
    return volumes[0].permute(3, 0, 1, 2) if len(size) == SLICE else volumes


def from_cases(cases: Tensor, shape: Shape, original: Shape) -> Tensor:
    """Return what was said of every case, `(N, C, *size)`, on the scan's own grid, `(C, *original)`.

    Between the voxels of `shape` values are interpolated linearly; what was cut away is 0.
    """
    volumes = unfitted(cases, shape[: cases.dim() - 2])  # (N, C, X', Y'[, Z'])
    if cases.dim() - 2 == SLICE:
        volumes = volumes.permute(1, 2, 3, 0)[None]
    return interpolate(volumes, original, mode="trilinear", align_corners=False)[0]


def looked_at(shape: Shape, size: Shape, original: Shape, seen: Tensor) -> Tensor:
    """Return which voxels of the scan stood in a case that was `seen`, `(N,)` bool: `original`, bool."""
    ones = seen.float().view(-1, 1, *[1] * len(size)).expand(-1, 1, *size)
    return from_cases(ones, shape, original)[0] > 0.5  # noqa: PLR2004 - the nearer of two
