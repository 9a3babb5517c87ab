"""Top-one experts: the chosen one answers and learns, and a router learns to name what it sees."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.catalogue import build_model
from models.experts import Router, ScaleExpert, chosen, route_loss, top_one
from models.unet import Plan
from models.zoo import modality_moe as module
from models.zoo.modality_moe import ModalityMoE
from protocol.errors import RecipeError
from tests.models.cases import SCAN, VECTOR_HEADS, batch_for, presence, recipe_for
from tests.models.invariance import results

RECIPE = replace(recipe_for("modality_moe"), heads={"grade": VECTOR_HEADS["grade"]} | SCAN)
NAMES = tuple(RECIPE.modalities)


def built(seed: int = 1) -> ModalityMoE:
    model = build_model(replace(RECIPE, seed=seed))
    assert isinstance(model, ModalityMoE)
    return model


def test_an_expert_that_a_case_may_not_use_is_not_chosen() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0]] * 3)
    allowed = torch.tensor([[True, True, True], [False, True, True], [False, False, True]])
    assert chosen(logits, allowed).tolist() == [0, 1, 2]


def test_each_case_gets_its_expert_and_nobody_runs_the_others() -> None:
    ran: list[str] = []

    def run(name: str) -> Tensor:
        ran.append(name)
        return torch.full((4, 2), float(name))

    choice, needs = torch.tensor([2, 0, 2, 1]), torch.tensor([True, True, True, False])
    found = top_one(run, ["5", "6", "7"], choice, needs)
    assert found[:, 0].tolist() == [7, 5, 7, 0]
    assert sorted(ran) == ["5", "7"]


def routed_to(place: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda logits, allowed: torch.full((len(logits),), place)


def check_only_the_chosen_expert_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name in enumerate(("flair", "t1")):
        monkeypatch.setattr(module, "chosen", routed_to(place))
        found = results(built(), batch_for(RECIPE, presence(RECIPE, [NAMES] * 3)), RECIPE)
        learned = {key.split(".")[1] for key in found if key.startswith("gradient of experts.")}
        assert learned == {f"modality:{name}"}


def test_only_the_chosen_expert_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    check_only_the_chosen_expert_learns(monkeypatch)


def _soft(run: Callable[[str], Tensor], experts: Sequence[str], choice: Tensor, needs: Tensor) -> Tensor:
    return torch.stack([run(name) for name in experts]).mean(0)


def test_a_mixture_of_all_experts_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "top_one", _soft)
    with pytest.raises(AssertionError):
        check_only_the_chosen_expert_learns(monkeypatch)


def test_the_prediction_teaches_the_router_nothing() -> None:
    model = built()
    batch = batch_for(RECIPE, presence(RECIPE, [NAMES] * 3))
    model(batch)["grade"].sum().backward()
    assert all(parameter.grad is None for parameter in model.routers.parameters())
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())


def test_the_route_loss_by_hand() -> None:
    """The mean over what a case has; nothing for who has nothing."""
    first, second = torch.randn(3, 2), torch.randn(3, 2)
    has = torch.tensor([[True, True], [False, True], [False, False]])
    one = functional.cross_entropy(first[:1], torch.tensor([0]))
    other = functional.cross_entropy(second[:2], torch.tensor([1, 1]), reduction="none")
    found = route_loss({0: first, 1: second}, has)[:, 0]
    torch.testing.assert_close(found, torch.stack([(one + other[0]) / 2, other[1], torch.tensor(0.0)]))


def test_a_router_learns_to_tell_modalities_apart() -> None:
    """Striped ones from plain ones, in a few steps; then every image sees its own expert."""
    model = built()
    batch = batch_for(RECIPE, presence(RECIPE, [NAMES] * 8), (8, 8))
    ways = {"flair": torch.ones(8, 1, 8, 8), "t1": torch.zeros(8, 1, 8, 8)}
    ways["flair"][..., ::2] = -1
    noisy = {name: image + 0.1 * batch.inputs[name] for name, image in ways.items()}
    batch = replace(batch, inputs={**batch.inputs, **noisy})
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(30):
        optimiser.zero_grad()
        model(batch)["scan"].mean().backward()
        optimiser.step()
    levels = {name: model.backbone(image) for name, image in noisy.items()}
    has = torch.ones(8, 2, dtype=torch.bool)
    assert model.routed("flair", levels["flair"], has).tolist() == [0] * 8
    assert model.routed("t1", levels["t1"], has).tolist() == [1] * 8
    # A case without FLAIR sees no expert of it, whatever its T1 looks like.
    has[:, 0] = False
    assert model.routed("t1", levels["flair"], has).tolist() == [1] * 8


def test_without_a_pretext_every_image_sees_its_own_expert() -> None:
    recipe = replace(RECIPE, heads={"grade": VECTOR_HEADS["grade"]})
    model = build_model(recipe)
    assert isinstance(model, ModalityMoE)
    assert not model.routers
    levels = model.backbone(torch.randn(2, 1, 6, 4))
    for place, name in enumerate(("flair", "t1")):
        assert model.routed(name, levels, torch.ones(2, 2, dtype=torch.bool)).tolist() == [place] * 2


def test_a_scale_expert_by_hand() -> None:
    """Of two constant maps: the features of each, weighted by the softmax of their numbers."""
    expert = ScaleExpert(Plan(2, (3, 5), 1), 4)
    levels = [torch.full((1, 3, 4, 4), 0.7), torch.full((1, 5, 2, 2), -0.3)]
    each = [torch.relu(narrow(x))[:, :, 0, 0] for narrow, x in zip(expert.narrow, levels, strict=True)]
    score = [expert.score(x[:, :, None, None]).flatten() for x in each]
    share = torch.cat(score).softmax(0)
    expected = share[0] * each[0] + share[1] * each[1]
    torch.testing.assert_close(expert(levels), expected[:, :, None, None].expand(1, 4, 4, 4))


def test_a_router_has_a_number_for_each_expert() -> None:
    assert Router(6, 4)(torch.randn(2, 6)).shape == (2, 4)


def test_two_routers_are_refused() -> None:
    two = {"scan": SCAN["scan"], "other": SCAN["scan"]}
    with pytest.raises(RecipeError, match=r"heads: 'modality_moe' has one router"):
        build_model(replace(RECIPE, heads=two))
