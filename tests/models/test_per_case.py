"""Every model lets Opacus take the gradient of each case on its own."""

import pytest
import torch
from opacus import GradSampleModule
from torch import Tensor

from models.base import MultiModal
from models.catalogue import build_model, build_objectives
from models.objectives import case_losses
from protocol.batch import Batch
from protocol.recipe import Recipe
from tests.models.cases import ALL, batch_for, presence, recipe_for, subsets

VOLUMETRIC = sorted({*ALL} - {"table_linear", "table_mlp"})


def one_by_one(model: MultiModal, batch: Batch, recipe: Recipe) -> dict[str, Tensor]:
    """Gradients `(B, ...)` by name, from a backward pass for each case alone."""
    objectives, found = build_objectives(recipe), {name: [] for name, _ in model.named_parameters()}
    for row in range(len(batch)):
        case = batch.map(lambda x, row=row: x[row : row + 1])
        model.zero_grad()
        case_losses(model(case), case, recipe.heads, objectives).sum().backward()
        for name, p in model.named_parameters():
            found[name].append(torch.zeros_like(p) if p.grad is None else p.grad.clone())
    return {name: torch.stack(grads) for name, grads in found.items()}


def by_opacus(model: MultiModal, batch: Batch, recipe: Recipe) -> dict[str, Tensor | None]:
    """The same from one pass; None for what no case has used."""
    wrapped = GradSampleModule(model, loss_reduction="sum")
    case_losses(wrapped(batch), batch, recipe.heads, build_objectives(recipe)).sum().backward()
    return {name: p.grad_sample for name, p in model.named_parameters()}


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")  # inputs need no gradient
@pytest.mark.parametrize(("name", "dims"), [(n, 2) for n in ALL] + [(n, 3) for n in VOLUMETRIC])
@pytest.mark.parametrize("whole", [True, False])
def test_the_gradients_of_a_batch_are_those_of_its_cases(name: str, dims: int, *, whole: bool) -> None:
    """Also where nobody has the last modality, or every pattern of absence meets."""
    recipe = recipe_for(name, dims)
    names = tuple(recipe.modalities)
    held = subsets(names) if whole else subsets(names[:-1])
    batch = batch_for(recipe, presence(recipe, held), (6, 5, 4)[:dims])
    expected = one_by_one(build_model(recipe), batch, recipe)
    for parameter, grads in by_opacus(build_model(recipe), batch, recipe).items():
        given = torch.zeros_like(expected[parameter]) if grads is None else grads
        torch.testing.assert_close(given, expected[parameter], atol=1e-5, rtol=1e-4)
