"""Experts of which every case uses one, and the router that says which.

    logits = router(features)  (B, E)      one number an expert
    chosen = argmax over the experts that a case may use
    result = the chosen expert's, case by case

The choice is hard, in training as in use, so that only the chosen expert learns from a case; the router
learns nothing from the result, and needs a loss of its own (here: which modality is this?).
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.masking import rows
from models.unet import CONVOLUTION, Plan

Run = Callable[[str], Tensor]
"""Expert's name -> its result for all cases, `(B, ...)`."""


class Router(nn.Sequential):
    """Features `(B, C)` -> logits of the experts, `(B, E)`."""

    def __init__(self, size: int, experts: int) -> None:
        """Take `size` features to `experts` numbers."""
        super().__init__(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, experts))


class ScaleExpert(nn.Module):
    """The maps of a pyramid, finest first -> one map `(B, size, ...)`, as fine as the finest.

    Every scale becomes `size` features (1x1 convolution, ReLU) on the finest grid; a perceptron gives each
    place of each scale a number, and the place is the sum over scales, weighted by their softmax.
    """

    def __init__(self, plan: Plan, size: int) -> None:
        """Read maps of the plan's channels."""
        super().__init__()
        layer = CONVOLUTION[plan.dims]
        self.narrow = nn.ModuleList(layer(channels, size, 1) for channels in plan.channels)
        self.score = nn.Sequential(layer(size, size // 2, 1), nn.ReLU(), layer(size // 2, 1, 1))

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return the map."""
        maps = [torch.relu(narrow(x)) for narrow, x in zip(self.narrow, levels, strict=True)]
        maps = [functional.interpolate(x, levels[0].shape[2:]) for x in maps]
        share = torch.stack([self.score(x) for x in maps]).softmax(0)  # (L, B, 1, ...)
        return (share * torch.stack(maps)).sum(0)


def chosen(logits: Tensor, allowed: Tensor) -> Tensor:
    """Return the place of the largest of `logits` `(B, E)` where bool `allowed` `(B, E)`: int64 `(B,)`."""
    return torch.where(allowed, logits, -torch.inf).argmax(1)


def top_one(run: Run, experts: Sequence[str], choice: Tensor, needs: Tensor) -> Tensor:
    """Return the chosen expert's result where bool `needs` `(B,)`, zeros elsewhere: `(B, ...)`.

    An expert that nobody has chosen is not run. Somebody must need one.
    """
    result: Tensor | None = None
    for place, name in enumerate(experts):
        mine = needs & (choice == place)
        if mine.any():
            found = run(name)
            before = torch.zeros_like(found) if result is None else result
            result = torch.where(rows(mine, found), found, before)
    if result is None:
        raise ValueError("no case needs an expert")
    return result


def route_loss(logits: Mapping[int, Tensor], has: Tensor) -> Tensor:
    """Return each case's mean cross-entropy over what it has, `(B, 1)`, 0 where it has nothing.

    `logits`: place of what was seen -> `(B, E)`, the router's answer to it; `has` bool `(B, E)`.
    """
    total = torch.zeros(len(has), device=has.device)
    for place, answer in logits.items():
        error = -answer.log_softmax(1)[:, place]
        total = total + torch.where(has[:, place], error, 0.0)
    return (total / has.sum(1).clamp(min=1))[:, None]
