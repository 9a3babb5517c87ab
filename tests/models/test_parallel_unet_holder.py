"""The parallel U-Net of Hoelder divergence: what the pretext costs, and whom it teaches."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.catalogue import build_model
from models.zoo import parallel_unet_holder
from models.zoo.parallel_unet_holder import HolderUNet, Regressor
from protocol.errors import RecipeError
from tests.models.cases import SCAN, batch_for, presence, recipe_for, subsets

RECIPE = recipe_for("parallel_unet_holder")
NAMES = tuple(RECIPE.modalities)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(regressor: Regressor, some: Tensor, whole: Tensor) -> float:
    """One case `(1, C, X, Y)`: the released loss, number by number, at the first variance of 5."""
    told, terms = regressor.layers(some), []
    for guess, truth in zip(told.flatten().tolist(), whole.flatten().tolist(), strict=True):
        terms.append(0.5 * ((guess - truth) ** 2 / 5 + math.log(5)))
    return sum(terms) / len(terms)


def test_the_variance_begins_at_five() -> None:
    """Where the regressor is right, half its logarithm is all that is left."""
    regressor, some = Regressor(2, 4), normal(3, 4, 2, 2)
    whole = regressor.layers(some).detach()
    assert regressor(some, whole).tolist() == pytest.approx([math.log(5) / 2] * 3, rel=1e-5)


def test_a_case_costs_the_mean_over_the_subsets_of_its_own_images() -> None:
    """One image has one subset, two have three; a table has no part in it."""
    model = build_model(RECIPE)
    assert isinstance(model, HolderUNet)
    regressor = model.regressors["head:scan"]
    assert isinstance(regressor, Regressor)
    held = [("flair",), ("t1", "ehr"), ("flair", "t1"), ("ehr",)]
    batch = batch_for(RECIPE, presence(RECIPE, held))
    for row, value in enumerate(model(batch)["scan"][:, 0].tolist()):
        images = {n: batch.inputs[n][row : row + 1] for n in ("flair", "t1") if n in held[row]}
        padding = [torch.nn.functional.pad(x, (0, 3, 0, 2)) for x in images.values()]
        maps = [model.unet.encoder(x, f"modality:{n}")[-1] for n, x in zip(images, padding, strict=True)]
        chosen = subsets(tuple(range(len(maps))))
        whole = sum(maps) / max(len(maps), 1)
        costs = [by_hand(regressor, sum(maps[i] for i in s) / len(s), whole) for s in chosen]
        assert value == pytest.approx(sum(costs) / max(len(costs), 1), rel=1e-4)


def whole_pulled(model: HolderUNet) -> bool:
    """Whether features have a gradient although no subset's map reaches the regressor."""
    for regressor in model.regressors.values():
        assert isinstance(regressor, Regressor)
        torch.nn.init.zeros_(regressor.layers[0].weight)
    model(batch_for(RECIPE, presence(RECIPE, [NAMES])))["scan"].sum().backward()
    grads = [p.grad for p in model.unet.encoder.parameters() if p.grad is not None]
    return any(bool(grad.any()) for grad in grads)


def test_all_modalities_are_the_target_and_learn_nothing_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(RECIPE)
    assert isinstance(model, HolderUNet)
    assert not whole_pulled(model)
    monkeypatch.setattr(Tensor, "detach", lambda self: self)
    assert whole_pulled(model)


def test_regressor_and_variance_are_trained_and_belong_to_the_pretext() -> None:
    model = build_model(RECIPE)
    model(batch_for(RECIPE, presence(RECIPE, [NAMES])))["scan"].sum().backward()
    ours = {n: p for n, p in model.named_parameters() if model.group_of(n) == "head:scan"}
    assert {name.split(".")[2] for name in ours} == {"layers", "spread"}
    assert all(p.grad is not None and bool(p.grad.any()) for p in ours.values())


def test_the_segmentation_is_that_of_the_parallel_unet() -> None:
    """The pretext adds to the loss and changes no prediction."""
    plain = build_model(replace(recipe_for("parallel_unet"), seed=3))
    model = build_model(RECIPE)
    assert isinstance(model, HolderUNet)
    model.unet.load_state_dict(plain.state_dict())
    batch = batch_for(RECIPE, presence(RECIPE, subsets(NAMES)))
    for head, logits in plain(batch).items():
        assert torch.equal(logits, model(batch)[head])


def test_fifteen_subsets_of_four() -> None:
    assert len(parallel_unet_holder.subsets("abcd")) == len(set(parallel_unet_holder.subsets("abcd"))) == 15


def test_a_pretext_alone_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"heads: the pretext .* learns nothing alone; add a segmentation"):
        build_model(replace(RECIPE, heads=SCAN))
