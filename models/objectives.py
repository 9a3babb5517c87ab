"""Losses, each saying which cases it couples.

    coupling "case"    a case's loss depends on that case alone
             "batch"   on the other cases of its batch (Cox's partial likelihood)
             "site"    on all cases of the site

Only the first kind can be clipped patient by patient, so only it trains privately
(`case_losses`); `total_loss` takes any. Either way an objective is a function

    function(logits, target) -> (B,)      one loss a case

and a head's loss is the mean over the cases that have its label, times the head's weight.
Nothing is normalised over the batch inside (class weights, a Dice pooled over cases): that
would couple the cases and break the privacy guarantee silently.

While it trains, a model may predict a head several times, from less than all it has seen (`exits`):
outputs `grade+1`, `grade+2` beside `grade`, each with the head's own loss.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional

from models import agreement, gaussians
from models.divergence import holder, pseudo_holder
from models.masking import rows
from models.structure import at_edges, unlike
from protocol.batch import Batch
from protocol.errors import PrivacyError
from protocol.recipe import Catalogue, Head, NotNegative, Positive
from protocol.typed import Rule

Odd = Annotated[int, Rule("odd and >= 3", lambda value: value % 2 == 1 and value > 1)]
AboveOne = Annotated[float, Rule("> 1", lambda value: value > 1)]
Smoothing = Annotated[float, Rule("in [0, 1)", lambda value: 0 <= value < 1)]
Coupling = Literal["case", "batch", "site"]
Function = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """A loss for each case, what it couples, and which heads it can train.

    `function` takes logits and the head's target (`protocol.batch`) and returns `(B,)`.
    """

    function: Function
    coupling: Coupling
    fits: Callable[[Head], bool] = lambda head: True  # noqa: ARG005 - any head


def case_losses(
    outputs: Mapping[str, Tensor],
    batch: Batch,
    heads: Mapping[str, Head],
    objectives: Mapping[str, Objective],
) -> Tensor:
    """Return each case's weighted sum over heads, `(B,)`; a head without a label counts 0.

    Raises PrivacyError for an objective that couples cases.
    """
    total = torch.zeros(len(batch), device=batch.present.device)
    for name, head in heads.items():
        refuse_coupling(name, head, objectives[name])
        has, target = batch.labelled[name], batch.targets[name]
        known = torch.where(rows(has, target), target, 0)
        for logits in exits(outputs, name):
            losses = torch.where(has, objectives[name].function(logits, known), 0.0)
            total = total + head.weight * losses
    return total


def total_loss(
    outputs: Mapping[str, Tensor],
    batch: Batch,
    heads: Mapping[str, Head],
    objectives: Mapping[str, Objective],
) -> Tensor:
    """Return the weighted sum over heads of the mean over the cases with that label, `()`."""
    total = torch.zeros((), device=batch.present.device)
    for name, head in heads.items():
        has = batch.labelled[name]
        known = batch.targets[name] if has.all() else batch.targets[name][has]
        for output in exits(outputs, name):
            logits = output if has.all() else output[has]
            # An empty sum is 0 and still has a gradient, a mean over nothing would be NaN.
            loss = objectives[name].function(logits, known).mean() if len(logits) else logits.sum()
            total = total + head.weight * loss
    return total


def exits(outputs: Mapping[str, Tensor], head: str) -> Iterator[Tensor]:
    """Yield all outputs of a head: its own, then those of a model's earlier exits."""
    yield outputs[head]
    yield from (logits for name, logits in outputs.items() if name.startswith(f"{head}+"))


def dice(*, smooth: Positive = 1.0) -> Objective:
    """Soft Dice of each channel, then their mean: 1 - (2 <p, y> + s) / (|p| + |y| + s).

    Milletari et al., 3DV 2016. `smooth` 1 (Holder-MI's) and not MONAI's 1e-5, whose gradient
    vanishes on a case that lacks the structure: most slices of a volume.
    """
    return Objective(_dice(smooth), "case", _is_segmentation)


def dice_ce(*, smooth: Positive = 1.0) -> Objective:
    """Dice plus binary cross-entropy, both of independent sigmoids (Isensee et al., 2021)."""
    overlap = _dice(smooth)

    def losses(logits: Tensor, target: Tensor) -> Tensor:
        return overlap(logits, target) + _bce(logits, target)

    return Objective(losses, "case", _is_segmentation)


def dice_holder(*, alpha: AboveOne = 1.1, gamma: Positive = 1.0, smooth: Positive = 1.0) -> Objective:
    """Dice plus the Hoelder divergence of prediction and truth, each as shares of a softmax over voxels."""
    return _dice_and(partial(holder, alpha=alpha, gamma=gamma), smooth)


def dice_pseudo_holder(*, alpha: AboveOne = 1.1, smooth: Positive = 1.0) -> Objective:
    """The same with the pseudo-divergence, as released: a prediction that is the truth still costs something.

    There the softmax runs along the first spatial axis, which makes the loss depend on how a scan lies.
    """
    return _dice_and(partial(pseudo_holder, alpha=alpha), smooth)


def structure(*, window: Odd = 31, alike: NotNegative = 0.1) -> Objective:
    """Cross-entropy and overlap that weigh edges more, plus `alike` times how unlike the outlines look.

    M2SNet's (Zhao et al., 2023, `models.structure`); `window`: voxels along each axis that make an edge.
    """

    def losses(logits: Tensor, target: Tensor) -> Tensor:
        truth = target.to(logits.dtype)
        return at_edges(logits, truth, window) + alike * unlike(logits.sigmoid(), truth)

    return Objective(losses, "case", _is_segmentation)


def bce() -> Objective:
    """Binary cross-entropy: a yes-or-no classification, or the mean over a segmentation's voxels.

    What FLamby's Fed-Heart-Disease computes from sigmoids, here from logits.
    """
    return Objective(_bce, "case", _is_binary)


def ce(*, smoothing: Smoothing = 0.0) -> Objective:
    """Cross-entropy of a classification with two classes or more.

    `smoothing`: share of the truth that is spread over all classes (Szegedy et al., CVPR 2016).
    """
    function = partial(functional.cross_entropy, reduction="none", label_smoothing=smoothing)
    return Objective(function, "case", lambda head: head.kind == "classification" and head.classes > 1)


def focal(*, gamma: NotNegative = 2.0) -> Objective:
    """Cross-entropy times (1 - p of the truth)^gamma (Lin et al., ICCV 2017); 0 is `bce` or `ce`."""
    return Objective(_focal(gamma), "case", lambda head: head.kind in {"segmentation", "classification"})


def cox() -> Objective:
    """Cox's partial likelihood with Breslow's ties; it couples the cases of a batch.

        l_i = event_i * (log sum over j with t_j >= t_i of exp(s_j)  -  s_i)

    The mean is over all cases, censored ones too, as in FLamby's Fed-TCGA-BRCA. Where no two
    times are equal it is that loss; where some are, FLamby's depends on the order of the rows.
    """
    return Objective(_cox, "batch", _is_survival)


def exponential(*, time_unit: Positive = 1.0) -> Objective:
    """Survival with a constant hazard exp(s) per `time_unit`: a likelihood of single cases.

        l_i = exp(s_i) t_i - event_i s_i

    The proportional hazards model whose baseline is known to be flat, and so the one that
    can be trained privately. `time_unit` brings times near 1 (365.25 for days in years).
    """

    def losses(logits: Tensor, target: Tensor) -> Tensor:
        time, event = target.unbind(1)
        risk = logits.squeeze(1)
        return risk.exp() * time / time_unit - event * risk

    return Objective(losses, "case", _is_survival)


def own() -> Objective:
    """A pretext's: what the model says that the case costs, which depends on that case alone."""
    return Objective(lambda logits, target: logits.flatten(1).mean(1), "case", _is_pretext)  # noqa: ARG005


def contrast(*, temperature: Positive = 0.1) -> Objective:
    """A pretext of `prob_bind`: a patient's modalities told from those of the batch's other patients."""
    return Objective(lambda said, target: gaussians.contrast(said, temperature), "batch", _is_pretext)  # noqa: ARG005


def dino(*, sharpening: Positive = 0.7) -> Objective:
    """A pretext of `mm_dino`: to say of a view what a teacher says of another (`models.agreement`).

    `sharpening`: the teacher's temperature over the student's.
    """
    return Objective(partial(agreement.agreement, sharpening=sharpening), "case", _is_pretext)


def koleo() -> Objective:
    """A pretext of `mm_dino`: cases spread evenly, each away from its nearest in the batch."""
    return Objective(lambda said, target: agreement.spread(said), "batch", _is_pretext)  # noqa: ARG005


OBJECTIVES: Catalogue = {
    "bce": bce,
    "ce": ce,
    "contrast": contrast,
    "cox": cox,
    "dice": dice,
    "dice_ce": dice_ce,
    "dice_holder": dice_holder,
    "dice_pseudo_holder": dice_pseudo_holder,
    "dino": dino,
    "exponential": exponential,
    "focal": focal,
    "koleo": koleo,
    "own": own,
    "structure": structure,
}


def _dice(smooth: float) -> Function:
    from monai.losses.dice import DiceLoss  # noqa: PLC0415 - takes seconds, and a server never needs it

    loss = DiceLoss(sigmoid=True, smooth_nr=smooth, smooth_dr=smooth, reduction="none")
    return lambda logits, target: loss(logits, target).flatten(1).mean(1)


def _bce(logits: Tensor, target: Tensor) -> Tensor:
    truth = target.to(logits.dtype).view_as(logits)  # a class (B,) becomes (B, 1)
    return functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").flatten(1).mean(1)


def _dice_and(divergence: Callable[[Tensor, Tensor], Tensor], smooth: float) -> Objective:
    overlap = _dice(smooth)

    def losses(logits: Tensor, target: Tensor) -> Tensor:
        chances, truth = (x.flatten(2).log_softmax(2) for x in (logits.sigmoid(), target.to(logits.dtype)))
        return overlap(logits, target) + divergence(chances, truth).mean(1)

    return Objective(losses, "case", _is_segmentation)


def _focal(gamma: float) -> Function:
    from monai.losses.focal_loss import FocalLoss  # noqa: PLC0415 - takes seconds, and a server never needs it

    binary = FocalLoss(gamma=gamma, reduction="none")
    exclusive = FocalLoss(gamma=gamma, reduction="none", use_softmax=True, to_onehot_y=True)

    def losses(logits: Tensor, target: Tensor) -> Tensor:
        if target.ndim == 1 and logits.shape[1] > 1:
            return exclusive(logits, target[:, None]).sum(1)  # zero but for the true class
        return binary(logits, target.to(logits.dtype).view_as(logits)).flatten(1).mean(1)

    return losses


def _cox(logits: Tensor, target: Tensor) -> Tensor:
    time, event = target.unbind(1)
    risk = logits.squeeze(1)
    at_risk = time[None, :] >= time[:, None]  # (B, B): row i, those still observed at its time
    among = torch.where(at_risk, risk[None, :], -torch.inf).logsumexp(1)
    return event * (among - risk)


def _is_segmentation(head: Head) -> bool:
    return head.kind == "segmentation"


def _is_survival(head: Head) -> bool:
    return head.kind == "survival"


def _is_pretext(head: Head) -> bool:
    return head.kind == "pretext"


def _is_binary(head: Head) -> bool:
    return head.kind == "segmentation" or (head.kind == "classification" and head.classes == 1)


_OTHERWISE = {"survival": "use 'exponential' for survival", "pretext": "leave this pretext out"}


def refuse_coupling(name: str, head: Head, objective: Objective) -> None:
    """Raise PrivacyError, with the alternative, for an objective that couples cases."""
    if objective.coupling != "case":
        raise PrivacyError(
            f"heads.{name}.objective: '{head.objective.name}' couples the cases of a {objective.coupling}, "
            f"so one patient's influence has no bound; {_OTHERWISE[head.kind]}, or privacy.epsilon=null"
        )
