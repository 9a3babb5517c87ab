"""Whether anything that a model gives depends on what stands in an absent modality's place."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from models.catalogue import build_objectives
from models.masking import rows
from models.objectives import case_losses, total_loss
from protocol.batch import Batch
from protocol.recipe import Recipe

FILLERS = (float("nan"), float("inf"), -1e30, 0.0, 7.0)


def results(model: nn.Module, batch: Batch, recipe: Recipe) -> dict[str, Tensor]:
    """Outputs, losses and every parameter's gradient, by name."""
    model.zero_grad()
    outputs, objectives = model(batch), build_objectives(recipe)
    cases, total = (loss(outputs, batch, recipe.heads, objectives) for loss in (case_losses, total_loss))
    total.backward()
    grads = {f"gradient of {n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    named = {f"output {name}": logits.detach() for name, logits in outputs.items()}
    return named | {"case losses": cases.detach(), "total loss": total.detach()} | grads


def refilled(batch: Batch, modalities: tuple[str, ...], filler: float) -> Batch:
    """The same cases with `filler` in every absent modality's place."""
    columns = dict(zip(modalities, batch.present.unbind(1), strict=True))
    inputs = {n: torch.where(rows(columns[n], x), x, filler) for n, x in batch.inputs.items()}
    return replace(batch, inputs=inputs)


def leaks(model: nn.Module, batch: Batch, recipe: Recipe) -> set[str]:
    """Names of the results that change with absent content, in any bit, or are not finite."""
    expected = results(model, batch, recipe)
    found = {name for name, value in expected.items() if not value.isfinite().all()}
    for filler in FILLERS:
        given = results(model, refilled(batch, tuple(recipe.modalities), filler), recipe)
        both = given.keys() & expected.keys()
        found |= given.keys() ^ expected.keys()  # what has a gradient in one case alone
        found |= {name for name in both if not torch.equal(expected[name], given[name])}
    return found
