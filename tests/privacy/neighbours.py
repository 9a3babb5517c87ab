"""How far one patient can move what is released: the property that every epsilon rests on.

`sensitivity` releases the same batch with and without one patient, with the noise off, and
measures the distance of the two sums. It knows nothing of how they came about, so it also
judges what claims to be private and is not.
"""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from privacy.dpsgd import Losses, PrivateGradient
from protocol.batch import Batch

CLIP_NORM = 0.05
"""So small that the rows of every model here reach it: what is not bounded shows."""
SLACK = 1 + 1e-5

Release = Callable[[nn.Module, Batch | None, Losses], Tensor]
"""A model, a batch, and its losses -> the released sum of bounded gradients, one flat vector."""


class Silence:
    """A generator that is asked for no noise, and draws none: a tenth of a step went into draws times 0."""

    def normal_(self, tensor: Tensor, std: float) -> Tensor:
        """Fill with zeros; whoever asks for more has not turned the noise off."""
        assert std == 0
        return tensor.zero_()


@contextmanager
def releasing(model: nn.Module, mode: str = "auto", *, per_group: bool = False) -> Generator[Release]:
    """Open one `PrivateGradient` of a model and yield the noiseless sum of each of its steps.

    It stays open as a site's does: what it has proven of the model in a step is not proven again.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    blocks = blocks_of(model) if per_group else ()
    gradient = PrivateGradient(model, parameters, CLIP_NORM, 0.0, 1.0, Silence(), mode, blocks=blocks)

    def release(_: nn.Module, batch: Batch | None, losses: Losses) -> Tensor:
        gradient(batch, losses)
        return torch.cat([p.grad.flatten() for p in parameters]).double()

    try:
        yield release
    finally:
        gradient.close()


def released(
    model: nn.Module, batch: Batch | None, losses: Losses, mode: str = "auto", *, per_group: bool = False
) -> Tensor:
    """Release the noiseless sum of a first step."""
    with releasing(model, mode, per_group=per_group) as release:
        return release(model, batch, losses)


def sensitivity(
    model: nn.Module,
    batch: Batch,
    losses: Losses,
    patients: Iterable[int] | None = None,
    release: Release = released,
) -> float:
    """Return the largest move of the released sum, as a multiple of the clip norm.

    `patients` says whose row each is (by default every row is another patient's); each of
    them is left out once.
    """
    owner = torch.tensor(list(patients) if patients is not None else range(len(batch)))
    whole = release(model, batch, losses)
    moves = []
    for patient in owner.unique():
        others = batch.map(lambda x, stay=owner != patient: x[stay])
        without = release(model, others if len(others) else None, losses)
        moves.append(float((whole - without).norm()) / CLIP_NORM)
    return max(moves)


def blocks_of(model: nn.Module) -> list[list[nn.Parameter]]:
    """A model's parameters by owner; without owners, by child module."""
    owner = getattr(model, "group_of", lambda name: name.partition(".")[0])
    blocks: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        blocks.setdefault(owner(name), []).append(parameter)
    return list(blocks.values())


def plain_loop(model: nn.Module, batch: Batch, losses: Losses) -> Tensor:
    """Release the same sum the obvious way: one row at a time, autograd's own gradient."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    for row in range(len(batch)):
        one = batch.map(lambda x, row=row: x[row : row + 1])
        value = losses(model(one), one).sum()
        found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        gradient = torch.cat([g.flatten() for g in found]).double()
        if gradient.isfinite().all():
            total += gradient * min(1.0, CLIP_NORM / float(gradient.norm()))
    return total
