"""Pictures of what the model found beside what is there: truth and prediction drawn on the scan.

A picture shows a patient. So none is made unless whoever prepared the data said that it may be
shown, by a file named `PUBLIC` in the data folder (the phantom writes one itself). A recipe, an
option or a resumed run cannot say so, and no picture goes to the tracking store.

The parameters are the final ones, those that the held-out table is about; the cases are held out
too, and chosen before anything is predicted: patients evenly spaced over the test split, of each
the slice with most truth.
"""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from client.evaluation import predict
from client.site import Site
from imaging.cohort import Cohort
from protocol.recipe import Recipe
from server.report import Overlay
from sim.opened import sites_of_run
from sim.phantom import PUBLIC
from sim.run import read_launch

PATIENTS = 2
TRUTH, FOUND = "#39b8ff", "#ff9122"
INCHES, DOTS = 1.9, 110


def overlays(folder: Path, recipe: Recipe) -> list[Overlay]:
    """Return (caption, PNG) of a few held-out cases a site; none unless the data may be shown."""
    launch = read_launch(folder)
    heads = [name for name, head in recipe.heads.items() if head.kind == "segmentation"]
    if not heads or not (launch.data / PUBLIC).exists():
        return []
    return [picture for site in sites_of_run(folder, recipe, launch) for picture in _of_site(site, heads[0])]


def _of_site(site: Site, head: str) -> Iterator[Overlay]:
    cohort = site.cohort
    rows = chosen(cohort, head)
    if not len(rows):
        return
    found = predict(site.model, cohort.cases, rows, cohort.cases.present[rows])[head] > 0  # logits
    for row, mask in zip(rows.tolist(), found, strict=True):
        truth = cohort.cases.targets[head][row].bool()
        dice = 2 * float((truth & mask).sum()) / max(float(truth.sum() + mask.sum()), 1.0)
        caption = (
            f"{site.settings.site}: truth blue, prediction orange and dashed; Dice of this case {dice:.2f}"
        )
        yield caption, draw(cohort, row, truth, mask)


def chosen(cohort: Cohort, head: str) -> Tensor:
    """Return rows of test cases to show, `(n,)`, n <= PATIENTS: one a patient, the one with most truth."""
    rows = cohort.rows("test")
    rows = rows[cohort.cases.labelled[head][rows]]
    patients = cohort.patient[rows].unique()
    places = torch.linspace(0, len(patients) - 1, min(PATIENTS, len(patients))).long()
    sizes = cohort.cases.targets[head][rows].flatten(1).sum(1)
    best = [torch.where(cohort.patient[rows] == p, sizes, -1).argmax() for p in patients[places]]
    return rows[torch.tensor(best, dtype=torch.long)]


def draw(cohort: Cohort, row: int, truth: Tensor, found: Tensor) -> bytes:
    """Return a PNG of a case's images side by side, outlined by the masks `(C, X, Y[, Z])` bool."""
    names, inputs = cohort.modalities, cohort.cases.inputs
    images = [name for name in names if inputs[name].dim() == truth.dim() + 1]
    figure = Figure((INCHES * len(images), INCHES + 0.25), DOTS, facecolor="black", layout="tight")
    for place, name in enumerate(images, start=1):
        axes = figure.add_subplot(1, len(images), place)
        axes.set_axis_off()
        axes.set_title(name, color="white", fontsize=9)
        if cohort.cases.present[row, names.index(name)]:
            _panel(axes, inputs[name][row, 0], truth, found)
        else:
            axes.text(0.5, 0.5, "absent", color="#9aa4b1", ha="center", va="center", fontsize=9)
    png = BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _panel(axes: Axes, image: Tensor, truth: Tensor, found: Tensor) -> None:
    if image.shape != truth.shape[1:3]:  # a volume: its slice with most truth
        at = int(truth.sum((0, 1, 2)).argmax())
        image, truth, found = image[..., at], truth[..., at], found[..., at]
    axes.imshow(image.numpy(), cmap="gray")
    for masks, colour, line in ((truth, TRUTH, "solid"), (found, FOUND, "dashed")):
        for mask in masks:
            if mask.any() and not mask.all():  # else there is no outline to draw
                axes.contour(mask.numpy(), levels=[0.5], colors=colour, linestyles=line, linewidths=1.2)
