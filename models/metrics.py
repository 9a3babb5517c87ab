"""From outputs to tallies: everything that is measured, without a loop over cases.

    segmentation     dice, and hd95_mm if asked and the spacing is known
    classification   accuracy, balanced_accuracy, mcc, auroc, ece
    survival         c_index
    pretext          loss

`protocol.metrics.METRICS` defines them. Cases are counted one by one, only `dice` by patient.
An output that is NaN (a model that diverged) counts as 0: it says nothing either way.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from protocol.metrics import AUROC_BINS, ECE_BINS, Tally
from protocol.recipe import Head

PAIRS_AT_ONCE = 2**22
"""Survival pairs held at a time, so that memory does not grow with the square of the cases."""


def measure(
    head: Head,
    logits: Tensor,
    targets: Tensor,
    patient: Tensor,
    spacing_mm: Sequence[float] | None,
    *,
    distances: bool = False,
) -> dict[str, Tally]:
    """Return metric -> tally of one head over labelled cases.

    Args:
        head: the head, which says what `logits` and `targets` are.
        logits: `(B, C, X, Y[, Z])`, `(B, C)`, or `(B, 1)` for binary and survival.
        targets: as in `Batch.targets`.
        patient: `(B,)` integers; equal ones are one patient. All cases of a patient must be
            in one call, or their dice is not of the whole volume.
        spacing_mm: millimetres between voxels along each image axis, None if unknown.
        distances: whether to measure surface distances too, which is slow.
    """
    if head.kind == "pretext":
        return {"loss": mean_loss(logits.float())}
    logits = torch.nan_to_num(logits.float())
    if head.kind == "survival":
        return {"c_index": concordance(logits[:, 0], targets[:, 0], targets[:, 1] > 0)}
    if head.kind == "classification":
        return _classified(logits, targets)
    predicted, true = logits > 0, targets > 0.5  # noqa: PLR2004 - a mask as floats
    found = {"dice": overlap(predicted, true, patient)}
    if distances and spacing_mm is not None:
        found["hd95_mm"] = surface_distance(predicted, true, spacing_mm)
    return found


# -- Segmentation --------------------------------------------------------------------------------


def overlap(predicted: Tensor, true: Tensor, patient: Tensor) -> Tally:
    """Tally the Dice of each patient from masks `(B, C, X, Y[, Z])`."""
    patients, row = torch.unique(patient, return_inverse=True)
    voxels = torch.stack([_voxels(predicted & true), _voxels(predicted) + _voxels(true)], 1)  # (B, 2, C)
    summed = voxels.new_zeros(len(patients), *voxels.shape[1:]).index_add_(0, row, voxels)
    shared, both = summed.double().unbind(1)  # (P, C)
    dice = torch.where(both > 0, 2 * shared / both, 1.0).mean(1)
    return Tally("dice", (float(dice.sum()), float(len(patients))))


def surface_distance(predicted: Tensor, true: Tensor, spacing_mm: Sequence[float]) -> Tally:
    """Tally the 95th-percentile Hausdorff distance of each case and channel."""
    predicted, true = predicted.flatten(0, 1), true.flatten(0, 1)  # (B C, X, Y[, Z])
    some_predicted, some_true = predicted.flatten(1).any(1), true.flatten(1).any(1)
    both = some_predicted & some_true
    missed = float((some_predicted ^ some_true).sum())
    millimetres = sum(hausdorff95(p, t, spacing_mm) for p, t in zip(predicted[both], true[both], strict=True))
    return Tally("hd95_mm", (millimetres, float(both.sum()), missed))


def hausdorff95(predicted: Tensor, true: Tensor, spacing_mm: Sequence[float]) -> float:
    """Return the 95th-percentile Hausdorff distance of two non-empty masks `(X, Y[, Z])`, in mm.

    The same as `monai.metrics.compute_hausdorff_distance`, from its own parts, in a quarter of its time:
    it crops each pair first, and warns of a deprecation inside MONAI each time.
    """
    from monai.metrics.utils import (  # noqa: PLC0415 - seconds that no other use of this module needs
        get_mask_edges,
        get_surface_distance,
    )

    ours, theirs = get_mask_edges(predicted.numpy(), true.numpy(), crop=False)
    there = get_surface_distance(ours, theirs, spacing=list(spacing_mm))
    back = get_surface_distance(theirs, ours, spacing=list(spacing_mm))
    return max(float(np.percentile(there, 95)), float(np.percentile(back, 95)))


def _voxels(mask: Tensor) -> Tensor:
    return mask.flatten(2).sum(2)  # (B, C)


# -- Classification ------------------------------------------------------------------------------


def _classified(logits: Tensor, labels: Tensor) -> dict[str, Tally]:
    binary = logits.shape[1] == 1
    probability = _both_classes(logits.sigmoid()) if binary else logits.softmax(1)  # (B, C), C >= 2
    confidence, predicted = probability.max(1)
    right = predicted == labels
    confusion = _confusion(labels, predicted, probability.shape[1])
    odds = logits.double() if binary else _against_the_rest(logits.double())
    positive = labels[:, None] == 1 if binary else one_hot(labels, logits.shape[1]).bool()
    return {
        "accuracy": Tally("accuracy", (float(right.sum()), float(len(labels)))),
        "balanced_accuracy": Tally("balanced_accuracy", confusion),
        "mcc": Tally("mcc", confusion),
        "auroc": ranking(odds, positive),
        "ece": calibration(confidence, right),
    }


def ranking(odds: Tensor, positive: Tensor) -> Tally:
    """Tally the histogram of log-odds `(B, K)` of positive and negative cases, class by class.

    Bins are even in `x / (1 + |x|)`: as fine as those of a probability around one half, and still
    apart where an overconfident model's probabilities all round to 1.
    """
    odds = odds.clamp(-1e6, 1e6)
    place = ((odds / (1 + odds.abs()) + 1) * (AUROC_BINS / 2)).long().clamp(0, AUROC_BINS - 1)
    place = place + AUROC_BINS * torch.arange(odds.shape[1], device=odds.device)
    positives = torch.bincount(place[positive], minlength=AUROC_BINS * odds.shape[1])
    negatives = torch.bincount(place[~positive], minlength=AUROC_BINS * odds.shape[1])
    (occupied,) = (positives + negatives).nonzero(as_tuple=True)
    table = torch.stack([occupied, positives[occupied], negatives[occupied]], 1)
    return Tally("auroc", _floats(table))


def calibration(confidence: Tensor, right: Tensor) -> Tally:
    """Tally confidences `(B,)` and whether each prediction was right, by bins of confidence."""
    place = (confidence * ECE_BINS).long().clamp(0, ECE_BINS - 1)
    columns = torch.stack([confidence.double(), right.double(), torch.ones_like(right).double()])  # (3, B)
    return Tally("ece", _floats(columns.new_zeros(3, ECE_BINS).index_add_(1, place, columns)))


def voxel_calibration(logits: Tensor, masks: Tensor) -> Tally:
    """Tally how sure a segmentation `(B, C, X, Y[, Z])` is of each voxel, and whether it is right.

    Most voxels are easy background, so that the error is small: compare models by it, not tasks.
    """
    probability = torch.nan_to_num(logits.float()).sigmoid().flatten()
    predicted = probability > 0.5  # noqa: PLR2004 - a mask
    return calibration(torch.maximum(probability, 1 - probability), predicted == (masks.flatten() > 0.5))  # noqa: PLR2004


def _both_classes(probability: Tensor) -> Tensor:
    return torch.cat([1 - probability, probability], 1)


def _against_the_rest(logits: Tensor) -> Tensor:
    # log p - log(1 - p), without a p that rounds to 1.
    itself = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    return logits - logits[:, None].masked_fill(itself, -torch.inf).logsumexp(2)  # (B, C)


def _confusion(labels: Tensor, predicted: Tensor, classes: int) -> tuple[float, ...]:
    return _floats(torch.bincount(labels * classes + predicted, minlength=classes**2))


# -- Survival ------------------------------------------------------------------------------------


def concordance(risk: Tensor, time: Tensor, died: Tensor) -> Tally:
    """Tally the pairs that Harrell's index compares, from `(B,)` each.

    A pair is comparable if one is known to have died first: at an earlier time, or at the time
    at which the other was censored. Concordant if that one has the higher risk. So does
    `lifelines.utils.concordance_index(time, -risk, died)`.
    """
    right = pairs = 0.0
    (first,) = died.nonzero(as_tuple=True)
    for row in first.split(max(1, PAIRS_AT_ONCE // max(len(time), 1))):
        concordant, comparable = compared(row, risk, time, died)
        right, pairs = right + float(concordant.sum()), pairs + float(comparable.sum())
    return Tally("c_index", (right, pairs))


def compared(row: Tensor, risk: Tensor, time: Tensor, died: Tensor) -> tuple[Tensor, Tensor]:
    """Return concordance (1, or 1/2 for equal risks) and comparability of `row` `(R,)` with all, `(R, N)`.

    A pair is comparable where the one in `row` is known to have died first.
    """
    earlier = (time[row, None] < time) | ((time[row, None] == time) & ~died)
    comparable = (earlier & died[row, None]).double()
    above, level = risk[row, None] > risk, risk[row, None] == risk
    return comparable * (above.double() + level.double() / 2), comparable


# -- Pretext -------------------------------------------------------------------------------------


def mean_loss(losses: Tensor) -> Tally:
    """Tally what cases cost, `(B, 1)`; one that is not finite is left out: 0 would be the best value."""
    finite = losses[losses.isfinite()]
    return Tally("loss", (float(finite.double().sum()), float(len(finite))))


def _floats(numbers: Tensor) -> tuple[float, ...]:
    return tuple(numbers.double().flatten().tolist())
