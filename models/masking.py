"""Absence, through one door.

A case may lack a modality, because its hospital never took it or because a training step
hides it on purpose. Either way `present` says so, and what stands in the tensor is
unspecified: old memory, a fill value, NaN. `visible` is the only way from a batch into a
model, and behind it absent content is zeros:

    x = torch.where(has, x, 0)        never x * has, since NaN * 0 is NaN

so that neither an output nor a gradient can depend on it. What is still missing then is
that a *zero* should not count as an observation; that is fusion's part (`models.fusion`).

`modality_dropout` makes absence: each present modality is hidden with a fixed chance, as in
ModDrop (Neverova et al., TPAMI 2016), but never the last one of a case.

A pretext hides parts of what a case has, to learn to know them from the rest. What is kept of the
`N` places (patches, blocks) of each modality is bool `(B, M, N)`, and follows from numbers in [0, 1)
that the case itself has drawn (`uniforms`), so that a step can be repeated:

    dirichlet_kept   a budget over all modalities, shared out at random: one may lose everything
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from protocol.batch import Batch


class Seen(NamedTuple):
    """One modality of a batch as a model may see it.

    `x`          `(B, ...)`, zeros in the rows of cases that lack it
    `has`        bool `(B,)`
    `anybody`    some case has it; if not, a model need not compute it
    `everybody`  all cases have it; then `x` is the batch's own tensor, not a copy
    """

    x: Tensor
    has: Tensor
    anybody: bool
    everybody: bool


def visible(batch: Batch, modalities: Sequence[str]) -> dict[str, Seen]:
    """Return what a model may see of `batch`; `modalities` name the columns of `present`."""
    anybody = batch.present.any(0).tolist()
    everybody = batch.present.all(0).tolist()
    columns = zip(modalities, batch.present.unbind(1), anybody, everybody, strict=True)
    seen: dict[str, Seen] = {}
    for name, has, some, each in columns:
        x = batch.inputs[name]
        seen[name] = Seen(x if each else zero_where_absent(x, has), has, some, each)
    return seen


def zero_where_absent(x: Tensor, has: Tensor) -> Tensor:
    """Return `(B, ...)` with zeros, and no gradient, in the rows where `has` `(B,)` is False."""
    return torch.where(rows(has, x), x, 0.0)


def rows(has: Tensor, like: Tensor) -> Tensor:
    """Reshape `(B,)` so that it broadcasts over `like` `(B, ...)`."""
    return has.view(-1, *[1] * (like.ndim - 1))


def modality_dropout(present: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Hide each present modality with chance `rate`, but never a case's last one.

    `present` is bool `(B, M)`, and so is the result, which never has more. Every modality
    draws a number and is hidden below `rate`; the highest draw of a case always stays. Of n
    present modalities each is therefore hidden with chance `rate - rate**n / n`.
    """
    draws = torch.rand(present.shape, generator=generator, device=generator.device).to(present.device)
    draws = draws.masked_fill(~present, -1.0)
    highest = draws == draws.amax(1, keepdim=True)
    return present & ((draws >= rate) | highest)


def uniforms(draw: Tensor, *shape: int) -> Tensor:
    """Return numbers in [0, 1), `(B, *shape)`; a case's follow from its `draw`, int64 `(B,)`, alone."""
    generators = [torch.Generator().manual_seed(number) for number in draw.tolist()]
    rows = [torch.rand(shape, generator=generator) for generator in generators]
    return torch.stack(rows).to(draw.device) if rows else torch.empty(0, *shape, device=draw.device)


def dirichlet_kept(present: Tensor, share: float, budget: Tensor, order: Tensor) -> Tensor:
    """Keep `share` of what a case has, divided over its modalities at random: bool `(B, M, N)`.

    Proportions p are Dirichlet(1, ..., 1) over the present modalities (MultiMAE: Bachmann et al.,
    ECCV 2022), so that one is often lost whole; of each, random places are kept, as many as p times
    the budget K rounded such that they add up to K = floor(share * places present) (Webster's rule:
    of all modalities' i-th places, those with the least (i + 1/2) / p).

    Args:
        present: bool `(B, M)`.
        share: of the places to keep, in (0, 1).
        budget: uniforms `(B, M)`, which become the proportions.
        order: uniforms `(B, M, N)`, which order the places of a modality.
    """
    places = order.shape[2]
    proportions = -torch.log1p(-budget)  # exponentials over their sum are Dirichlet(1, ..., 1)
    rank = order.argsort(2).argsort(2)
    turn = (rank + 0.5) / proportions[..., None].clamp(min=1e-9)  # (B, M, N)
    turn = torch.where(present[..., None], turn, torch.inf).flatten(1)
    keep = (share * places * present.sum(1)).long()
    return (turn.argsort(1).argsort(1) < keep[:, None]).view_as(order)
