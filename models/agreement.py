"""How far a network is from what a teacher says of other views, and how evenly cases lie.

    agreement   sum over rows r of  w_r * cross-entropy(softmax(teacher_r / sharpening), softmax(student_r))
    spread      - log of the distance of a case's vector to the nearest of another case

A row is one prediction over prototypes: of a whole view by its class token (DINO), of a hidden patch (iBOT).
A student says its rows with their weights in the last column; the teacher's rows are the head's target.
Where nobody teaches (an attack on a single step), a network is its own teacher.
"""

import torch
from torch import Tensor
from torch.nn import functional


def agreement(said: Tensor, told: Tensor, sharpening: float, *, centred: bool) -> Tensor:
    """Return what each case costs, `(B,)`.

    Args:
        said: the student's logits `(B, R, K)`, and a column of weights: `(B, R, K + 1)`.
        told: the teacher's logits `(B, R, K)`; `(B, 0)` where there is no teacher.
        sharpening: the teacher's temperature over the student's.
        centred: take off the teacher's mean over the batch, which couples its cases.
    """
    logits, weights = said.tensor_split([-1], 2)
    teacher = told if told.ndim == said.ndim else logits.detach()
    if centred:
        teacher = teacher - (weights * teacher).sum((0, 1)) / weights.sum().clamp(min=1e-9)
    chances = (teacher / sharpening).softmax(2)
    return -(weights * chances * logits.log_softmax(2)).sum((1, 2))


def spread(said: Tensor) -> Tensor:
    """Return what it costs each case to lie near another, `(B,)`: KoLeo (Sablayrolles et al., ICLR 2019).

    `said` `(B, V, D)`, a vector a view, each compared with those of the same view. One case costs nothing.
    """
    if len(said) == 1:
        return said.new_zeros(1)
    vectors = functional.normalize(said, dim=2).transpose(0, 1)  # (V, B, D)
    itself = torch.eye(len(said), dtype=torch.bool, device=said.device)
    nearest = (vectors @ vectors.transpose(1, 2)).masked_fill(itself, -1.0).argmax(2)  # (V, B)
    others = vectors.gather(1, nearest[..., None].expand_as(vectors))
    return -((vectors - others).norm(dim=2) + 1e-8).log().mean(0)
