"""What a modality says as a Gaussian: where, and how sure it is of each feature.

    product     what several say together: precisions add, means are weighted by them
    similarity  1 - Hellinger distance: how far two overlap, in [0, 1]
    surprise    the divergence from N(0, 1), what it costs to say anything
    contrast    how badly a case's modalities are told from those of the other cases

`packed` lays the Gaussians of all modalities side by side, for whoever compares cases. All variances are
diagonal; tensors are `(B, D)`.
"""

import math
from collections.abc import Iterable, Mapping
from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor

from models.masking import Seen, rows

_NEAREST = 1e-6  # a squared distance below which its root has no slope


class Gaussian(NamedTuple):
    """Means and logarithms of variances, each `(B, D)`."""

    mean: Tensor
    log_variance: Tensor


def product(parts: Mapping[str, Gaussian], seen: Mapping[str, Seen], size: int) -> Gaussian:
    """Return the product over the modalities that each case has; N(0, 1) for a case of none of them.

        1 / v = sum over m of 1 / v_m,    mean / v = sum over m of mean_m / v_m

    Of one modality it is that modality's own (Hinton: Training Products of Experts, 2002; as fusion of
    modalities: Wu, Goodman, NeurIPS 2018).
    """
    first = next(iter(seen.values())).x
    zeros = first.new_zeros(len(first), size)
    precision, pull = zeros, zeros
    for name, part in parts.items():
        has = rows(seen[name].has, zeros)
        sure = torch.where(has, (-part.log_variance).exp(), 0.0)
        precision, pull = precision + sure, pull + torch.where(has, sure * part.mean, 0.0)
    precision = torch.where(precision > 0, precision, 1.0)
    return Gaussian(pull / precision, -precision.log())


def log_overlap(p: Gaussian, q: Gaussian) -> Tensor:
    """Return the logarithm of each feature's Bhattacharyya coefficient, `(..., D)`, at most 0.

    log sqrt(2 s t / (s^2 + t^2)) - (difference of means)^2 / 4 (s^2 + t^2), of deviations s and t.
    """
    together = torch.logaddexp(p.log_variance, q.log_variance)
    spread = (math.log(2) + (p.log_variance + q.log_variance) / 2 - together) / 2
    return spread - (p.mean - q.mean).square() / (4 * together.exp())


def similarity(p: Gaussian, q: Gaussian) -> Tensor:
    """Return 1 - H, `(...)`, with H^2 = 1 - the geometric mean over features of their overlaps.

    The paper has their product, which vanishes with many features: 256 of them half a deviation apart
    have H^2 = 0.9997.
    """
    squared = -torch.expm1(log_overlap(p, q).mean(-1))
    return 1 - squared.clamp(min=_NEAREST).sqrt()


def surprise(p: Gaussian) -> Tensor:
    """Return KL(p | N(0, 1)), the mean over features, `(...)`."""
    return (p.log_variance.exp() + p.mean.square() - 1 - p.log_variance).mean(-1) / 2


def packed(parts: Mapping[str, Gaussian], seen: Mapping[str, Seen], size: int) -> Tensor:
    """Return `(B, M, 1 + 2 D)`: 1 or 0 for who has it, means, logarithms of variances; zeros where absent."""
    first = next(iter(seen.values())).x
    nothing = first.new_zeros(len(first), 1 + 2 * size)
    rows_of = [
        torch.cat([torch.ones_like(nothing[:, :1]), *parts[name]], 1) if name in parts else nothing
        for name in seen
    ]
    has = torch.stack([each.has for each in seen.values()], 1)
    return torch.where(has[..., None], torch.stack(rows_of, 1), 0.0)


def contrast(said: Tensor, temperature: float) -> Tensor:
    """Return each case's loss among the cases of what is `packed`, `(B,)`; 0 for who has no pair.

    For all ordered pairs of modalities m, n that case i has, of the cases j that have n,

        -log softmax over j of similarity(Z_m of i, Z_n of j) / temperature, at j = i
    """
    has, parts = said[..., 0] > 0, Gaussian(*said[..., 1:].chunk(2, 2))
    itself = torch.eye(len(said), dtype=torch.bool, device=said.device)
    terms: list[tuple[Tensor, Tensor]] = []
    for one, other in permutations(range(said.shape[1]), 2):
        alike = similarity(
            Gaussian(*(x[:, None, one] for x in parts)), Gaussian(*(x[None, :, other] for x in parts))
        )
        alike = torch.where(has[None, :, other] | itself, alike / temperature, -torch.inf)
        terms.append((has[:, one] & has[:, other], -alike.log_softmax(1).diagonal()))
    return average(terms, said[:, 0, 0])


def average(terms: Iterable[tuple[Tensor, Tensor]], like: Tensor) -> Tensor:
    """Return the mean of losses over those that each case has, 0 where it has none; all are `(B,)`."""
    total, count = torch.zeros_like(like), torch.zeros_like(like)
    for has, loss in terms:
        total, count = total + torch.where(has, loss, 0.0), count + has
    return total / count.clamp(min=1)
