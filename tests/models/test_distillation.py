"""What it costs not to say what a teacher says."""

from collections.abc import Callable

import pytest
import torch
from scipy.special import expit, rel_entr, softmax
from torch import Tensor

from models import distillation
from models.catalogue import build_model, build_objectives
from models.distillation import divergence, joined, taught, teachable
from models.objectives import Objective, case_losses
from protocol.batch import Batch
from protocol.errors import PrivacyError
from protocol.recipe import Head, Part
from tests.models.cases import batch_for, presence, recipe_for
from tests.privacy.neighbours import SLACK, sensitivity

RECIPE = recipe_for("parallel_unet")
NAMES = tuple(RECIPE.modalities)
WEIGHT, TEMPERATURE = 0.7, 3.0


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("head", "shape"), [(Head("classification", 3), (4, 3)), (Head("segmentation", 2), (4, 2, 3, 5))]
)
def test_the_divergence_is_as_computed_elsewhere(head: Head, shape: tuple[int, ...]) -> None:
    """Of a softmax over classes, or of each voxel's two sigmoids, times T^2."""
    answer, logits = normal(*shape, seed=1), normal(*shape, seed=2)
    scaled = [each.numpy() / TEMPERATURE for each in (answer, logits)]
    if head.kind == "classification":
        expected = rel_entr(*(softmax(each, 1) for each in scaled)).sum(1)
    else:
        p, q = map(expit, scaled)
        expected = (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).reshape(len(p), -1).mean(1)
    found = divergence(answer, logits, head, TEMPERATURE)
    torch.testing.assert_close(found, torch.as_tensor(expected * TEMPERATURE**2, dtype=torch.float32))
    assert divergence(answer, answer, head, TEMPERATURE).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["grade", "idh", "tumour"])
def test_what_is_taught_comes_on_top_of_the_objective(name: str) -> None:
    head, objective = RECIPE.heads[name], build_objectives(RECIPE)[name]
    batch, model = batch_for(RECIPE, presence(RECIPE, [NAMES] * 4)), build_model(RECIPE)
    target = batch.targets[name] % 2 if name == "idh" else batch.targets[name]
    logits = model(batch)[name].detach()
    answer = logits.flip(0)
    more = taught(objective, head, WEIGHT, TEMPERATURE)
    expected = objective.function(logits, target) + WEIGHT * divergence(answer, logits, head, TEMPERATURE)
    torch.testing.assert_close(more.function(logits, joined(answer, target)), expected)
    assert more.coupling == objective.coupling


def test_what_has_no_probabilities_is_not_taught() -> None:
    heads = RECIPE.heads | {"scan": Head("pretext", 1, Part("own"))}
    assert set(teachable(heads)) == {"grade", "idh", "tumour"}


def influence() -> float:
    """How far one patient moves a step that is taught, as a multiple of the clip norm."""
    model, objectives = build_model(RECIPE).train(), build_objectives(RECIPE)
    whole = batch_for(RECIPE, presence(RECIPE, [NAMES, NAMES[1:], NAMES[:2]]))
    heads = teachable(RECIPE.heads)
    said = build_model(recipe_for("parallel_unet", seed=5))(whole)
    answers = {name: joined(said[name].detach(), whole.targets[name]) for name in heads}
    batch = Batch(whole.inputs, whole.present, {**whole.targets, **answers}, whole.labelled)
    lessons: dict[str, Objective] = {
        name: taught(objectives[name], RECIPE.heads[name], 30.0, TEMPERATURE) for name in heads
    }
    return sensitivity(
        model, batch, lambda out, cases: case_losses(out, cases, RECIPE.heads, objectives | lessons)
    )


def over_the_batch(honest: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def coupled(*given: object) -> Tensor:
        return honest(*given).sum().expand(len(given[1]))

    return coupled


def test_one_patients_influence_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """And where cases are taught together, nothing is released."""
    assert influence() <= SLACK
    monkeypatch.setattr(distillation, "divergence", over_the_batch(divergence))
    with pytest.raises(PrivacyError, match="depends on other cases"):
        influence()
