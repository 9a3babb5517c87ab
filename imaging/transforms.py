"""Arrays to what a network wants: one grid, one scale of intensities."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

MOST = 10.0
"""Intensities end here, in robust standard deviations: a hot pixel must not rule a batch."""


def resized(images: Tensor, size: int | tuple[int, ...]) -> Tensor:
    """Average `(N, C, *spatial)` over the areas of a new grid of `size` pixels."""
    return interpolate(images, size, mode="area")


def resized_mask(masks: Tensor, size: int | tuple[int, ...]) -> Tensor:
    """Return the {0, 1} mask of the pixels that are covered by more than half."""
    return (resized(masks, size) > 0.5).float()  # noqa: PLR2004 - half of the area


def fitted(images: Tensor, size: tuple[int, ...], fill: float = 0.0) -> Tensor:
    """Cut or pad (with `fill`) the spatial axes of `(N, C, *spatial)` about their centre to `size`."""
    return pad(images, _margins(images.shape[2:], size), value=fill)


def unfitted(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """Put what was `fitted` back where it was in images of `size`, with 0 where it was cut."""
    return pad(images, [-margin for margin in _margins(size, images.shape[2:])])


def _margins(have: tuple[int, ...], want: tuple[int, ...]) -> list[int]:
    """Return what to add before and after each axis, the last axis first; negative to cut."""
    margins: list[int] = []
    for here, there in zip(reversed(have), reversed(want), strict=True):
        before = (there - here) // 2
        margins += [before, there - here - before]
    return margins


def normalised(image: Tensor) -> Tensor:
    """Return `(x - median) / robust standard deviation`, both taken over the foreground.

    `image` is one patient's scan of one modality, of any shape: MR intensities have no
    unit, so each scan is its own scale. The foreground is what is brighter than the mean,
    which leaves out air; the robust standard deviation is the interquartile range / 1.349,
    its value for a normal distribution.
    """
    foreground = image[image > image.mean()]
    if not len(foreground):  # one flat value: nothing to see, nothing to divide by
        return torch.zeros_like(image)
    low, middle, high = quartiles(foreground)
    spread = (high - low) / 1.349
    # A scan of two flat tones has no quartile range; its own contrast is the scale then.
    scale = spread if spread > 0 else (middle - image.min())
    return ((image - middle) / scale).clamp(-MOST, MOST)


def quartiles(values: Tensor) -> tuple[float, float, float]:
    """Return the 25th, 50th and 75th percentile, each an element of `values`."""
    ordered = values.flatten().sort().values  # torch.quantile stops at 2^24 elements
    low, middle, high = (ordered[(len(ordered) - 1) * quarter // 4] for quarter in (1, 2, 3))
    return float(low), float(middle), float(high)
