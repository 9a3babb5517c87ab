"""How far a network is from what a teacher says of other views, and how evenly cases lie.

    agreement   sum over rows r of  w_r * cross-entropy(softmax(teacher_r / sharpening), softmax(student_r))
    spread      - log of the distance of a case's vector to the nearest of another case

A row is one prediction over prototypes: of a whole view by its class token (DINO: Caron et al., ICCV 2021),
of a hidden patch (iBOT: Zhou et al., ICLR 2022). A student says its rows with their weights in the last
column; the teacher's rows are the pretext's target.
"""

import torch
from torch import Tensor
from torch.nn import functional


def agreement(said: Tensor, told: Tensor, sharpening: float) -> Tensor:
    """Return what each case costs, `(B,)`.

    Args:
        said: the student's logits `(B, R, K)`, and a column of weights: `(B, R, K + 1)`.
        told: the teacher's logits `(B, R, K)`.
        sharpening: the teacher's temperature over the student's.
    """
    logits, weights = said.tensor_split([-1], 2)
    chances = (told / sharpening).softmax(2)
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
