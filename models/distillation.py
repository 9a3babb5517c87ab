"""An objective that also asks to say what a teacher says.

    taught(objective, ...)(logits, [teacher's logits; target]) = objective(logits, target) + w T^2 KL(p | q)

with p, q the probabilities of teacher and student at temperature T (`strategies.modality_distillation`).
What the teacher said travels with the target, along axis 1, so that whatever takes an objective, case by
case or over a batch, takes this one. It couples what the objective couples: the teacher is given, and
says of a case what follows from that case alone.

A head without probabilities (a survival's risk, a pretext) cannot be taught and keeps its objective.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from models.heads import log_chances, output_channels
from models.objectives import Objective
from protocol.recipe import Head

_TEACHABLE = ("segmentation", "classification")


def teachable(heads: Mapping[str, Head]) -> tuple[str, ...]:
    """Return the heads whose logits are probabilities."""
    return tuple(name for name, head in heads.items() if head.kind in _TEACHABLE)


def joined(answer: Tensor, target: Tensor) -> Tensor:
    """Put a teacher's logits `(B, C, ...)` and a head's target, `(B,)` or `(B, C, ...)`, side by side."""
    truth = target[:, None] if target.ndim == 1 else target
    return torch.cat([answer, truth.to(answer.dtype)], 1)


def taught(objective: Objective, head: Head, weight: float, temperature: float) -> Objective:
    """Return `objective` with the divergence from the teacher; its targets are `joined`."""

    def losses(logits: Tensor, both: Tensor) -> Tensor:
        answer, target = both.tensor_split([output_channels(head)], 1)
        truth = target[:, 0].long() if head.kind == "classification" else target
        return objective.function(logits, truth) + weight * divergence(answer, logits, head, temperature)

    return replace(objective, function=losses)


def divergence(answer: Tensor, logits: Tensor, head: Head, temperature: float) -> Tensor:
    """Return T^2 KL(teacher | student) of each case, a mean over voxels and channels: `(B,)`, in nats."""
    p, q = (log_chances(head, each / temperature) for each in (answer, logits))
    if p is None or q is None:
        return logits.new_zeros(len(logits))
    apart = (p.exp() * (p - q)).sum(-1)
    return temperature**2 * apart.reshape(len(logits), -1).mean(1)
