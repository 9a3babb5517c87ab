"""Prompts for what is absent: from where, for whom, and what they are compared with."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.catalogue import build_model
from models.unet import Plan
from models.zoo import prompt_pool as module
from models.zoo.prompt_pool import Pool, PromptPool
from tests.models.cases import IMAGES, TUMOUR, batch_for, presence, recipe_for, subsets

NAMES = tuple(IMAGES)
RECIPE = replace(recipe_for("prompt_pool"), modalities=IMAGES)
PLAIN = replace(recipe_for("encoders_unet", channels=(4, 8)), modalities=IMAGES, heads=TUMOUR)


def built(**options: object) -> PromptPool:
    model = build_model(replace(recipe_for("prompt_pool", **options), modalities=IMAGES))
    assert isinstance(model, PromptPool)
    return model


def means(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 4, 4, 6, generator=generator), torch.randn(2, 8, 2, 3, generator=generator)]


def differs(filler: str, held: tuple[str, ...]) -> bool:
    """Whether it is another function than the mean of what is present."""
    batch = batch_for(PLAIN, presence(PLAIN, [held, NAMES]))
    plain, model = build_model(PLAIN), built(filler=filler)
    model.load_state_dict(plain.state_dict(), strict=False)
    return not torch.allclose(model(batch)["tumour"], plain(batch)["tumour"], atol=1e-6)


@pytest.mark.parametrize("filler", ["pool", "zero", "mean"])
def test_with_all_modalities_it_is_encoders_unet(filler: str) -> None:
    assert not differs(filler, NAMES)


@pytest.mark.parametrize("held", subsets(NAMES)[:-1])
def test_what_is_absent_is_filled(held: tuple[str, ...]) -> None:
    """With the mean of what is there as filler, `encoders_unet` itself; with others, another function."""
    assert not differs("mean", held)
    assert differs("pool", held)
    assert differs("zero", held)


def test_a_stand_in_is_a_mixture_of_its_modality_s_prompts() -> None:
    pool = Pool(Plan(2, (4, 8), 2), modalities=3, prompts=2)
    mixed = torch.cat([part.flatten(1) for part in pool(means(), 1)], 1)
    query = means()[1].mean((2, 3))
    scores = query @ pool.keys.weight.T
    first = torch.exp(scores[:, :1]) / torch.exp(scores).sum(1, keepdim=True)
    one, other = pool.prompts[1].weight.T
    torch.testing.assert_close(mixed, first * one + (1 - first) * other)


def test_it_follows_what_is_present_and_a_token_does_not() -> None:
    plan = Plan(2, (4, 8), 2)
    pool, token = Pool(plan, 3, 4), Pool(plan, 3, 1)
    assert not torch.allclose(pool(means(0), 0)[0], pool(means(1), 0)[0])
    assert torch.equal(token(means(0), 0)[0], token(means(1), 0)[0])


def test_prompts_are_shared_and_learn_where_their_modality_is_missing() -> None:
    model = built()
    assert {model.group_of(n) for n, _ in model.named_parameters() if n.startswith("filler.")} == {"shared"}
    model(batch_for(RECIPE, presence(RECIPE, [("flair", "t2"), NAMES])))["tumour"].sum().backward()
    assert isinstance(model.filler, Pool)
    used = [prompt.weight.grad is not None for prompt in model.filler.prompts]
    assert used == [False, True, False]


def test_the_mutant_that_fills_what_is_there_as_well_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "rows", lambda has, like: torch.zeros(1, dtype=torch.bool))
    plain, model = build_model(PLAIN), built()
    model.load_state_dict(plain.state_dict(), strict=False)
    batch = batch_for(PLAIN, presence(PLAIN, [("flair", "t2"), NAMES]))
    assert not torch.allclose(model(batch)["tumour"][1], plain(batch)["tumour"][1])  # which lacks nothing
