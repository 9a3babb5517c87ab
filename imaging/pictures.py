"""Pictures of what a model found on a patient's own scans: for the hospital, and nobody else.

One picture a segmentation head: the slice with most of it, in each modality that was used, outlined;
beside them how unsure the model was, voxel by voxel. As a DICOM viewer shows it: an image's rows from
its top.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from imaging.derived import Labels
from imaging.volume import Volume

COLOURS = ("#ff9122", "#39b8ff", "#7bd65a", "#e86ad0")
"""Of the first, second, ... class; after the last it starts again."""
INCHES, DOTS = 3.0, 100


def draw(path: Path, labels: Labels, volumes: Mapping[str, Volume], entropy: NDArray[np.float32]) -> None:
    """Write a PNG; `labels` and `entropy` `(X, Y, Z)`, the latter in bits, lie on the volumes' grid."""
    at = int((labels > 0).sum((0, 1)).argmax()) if labels.any() else labels.shape[2] // 2
    width, height = next(iter(volumes.values())).spacing_mm[:2]
    figure = Figure((INCHES * (len(volumes) + 1), INCHES + 0.3), DOTS, facecolor="black", layout="tight")
    panels = figure.subplots(1, len(volumes) + 1, squeeze=False)[0]
    for axes, (name, volume) in zip(panels, volumes.items(), strict=False):
        axes.imshow(volume.values[:, :, at].T, cmap="gray", aspect=height / width)
        _outline(axes, labels[:, :, at])
        axes.set_title(name, color="white")
    panels[-1].imshow(entropy[:, :, at].T, cmap="magma", vmin=0, vmax=1, aspect=height / width)
    panels[-1].set_title("entropy, 0 to 1 bit", color="white")
    for axes in panels:
        axes.set_axis_off()
    figure.savefig(path)


def _outline(axes: Axes, labels: NDArray[np.uint8]) -> None:
    for number in np.unique(labels[labels > 0]):
        mask = labels == number
        if not mask.all():  # else there is no outline to draw
            colour = COLOURS[(int(number) - 1) % len(COLOURS)]
            axes.contour(mask.T, levels=[0.5], colors=colour, linewidths=1.2)
