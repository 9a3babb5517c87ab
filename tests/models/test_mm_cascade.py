"""3MT: an absent modality's step is skipped, and every step is trained by its own exit."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from models.catalogue import build_model, build_objectives
from models.objectives import case_losses, exits, total_loss
from models.zoo.mm_cascade import MMCascade
from protocol.recipe import Head, Part
from tests.models.cases import VECTOR_HEADS, batch_for, presence, recipe_for

RECIPE = recipe_for("mm_cascade")
NAMES = tuple(RECIPE.modalities)


def built() -> MMCascade:
    model = build_model(RECIPE)
    assert isinstance(model, MMCascade)
    return model


def test_an_absent_modality_s_step_is_skipped() -> None:
    """As if the network had been built without it."""
    batch = batch_for(RECIPE, presence(RECIPE, [("flair", "ehr")] * 2))
    whole = built()
    without = whole(batch)
    whole.steps["modality:t1"] = nn.Identity()  # would raise if it were called with two tensors
    for head, logits in whole(batch).items():
        assert torch.equal(logits, without[head])


def test_some_cases_skip_what_others_do_not() -> None:
    batch = batch_for(RECIPE, presence(RECIPE, [NAMES, ("flair", "ehr")]))
    model = built().eval()
    alone = model(batch.map(lambda x: x[1:]))
    for head, logits in model(batch).items():
        torch.testing.assert_close(logits[1:], alone[head])


def test_every_step_has_an_exit_while_it_trains() -> None:
    batch = batch_for(RECIPE, presence(RECIPE, [NAMES, ("flair",)]))
    model = built()
    outputs = model(batch)
    assert set(outputs) == {f"{head}{place}" for head in VECTOR_HEADS for place in ("", "+1", "+2")}
    assert set(model.eval()(batch)) == set(VECTOR_HEADS)
    # The second case has nothing after flair, the first of three: its exits are all the same.
    assert torch.equal(outputs["grade+1"][1], outputs["grade"][1])
    assert not torch.equal(outputs["grade+1"][0], outputs["grade"][0])


def test_the_loss_is_the_sum_over_exits() -> None:
    batch = batch_for(RECIPE, presence(RECIPE, [NAMES] * 4))
    heads = {"grade": RECIPE.heads["grade"]}
    outputs, objectives = built()(batch), build_objectives(replace(RECIPE, heads=heads))
    each = [case_losses({"grade": logits}, batch, heads, objectives) for logits in exits(outputs, "grade")]
    assert len(each) == len(NAMES)
    torch.testing.assert_close(case_losses(outputs, batch, heads, objectives), sum(each))
    has = batch.labelled["grade"]
    torch.testing.assert_close(total_loss(outputs, batch, heads, objectives), sum(each)[has].mean())


def test_only_a_head_s_own_exits_are_its() -> None:
    outputs = {"a": torch.zeros(1), "a+1": torch.ones(1), "ab": torch.ones(1), "ab+1": torch.ones(1)}
    assert len(list(exits(outputs, "a"))) == 2


@pytest.mark.parametrize("missing", NAMES)
def test_the_mutant_that_reads_zeros_instead_of_skipping_is_another_function(missing: str) -> None:
    held = tuple(name for name in NAMES if name != missing)
    batch = batch_for(RECIPE, presence(RECIPE, [held] * 2))
    inputs = {**batch.inputs, missing: torch.zeros_like(batch.inputs[missing])}
    filled = replace(batch, inputs=inputs, present=torch.ones_like(batch.present))
    model = built().eval()
    assert not torch.equal(model(batch)["grade"], model(filled)["grade"])


def test_a_survival_has_exits_too() -> None:
    heads = {"risk": Head("survival", 1, Part("exponential"))}
    recipe = replace(RECIPE, heads=heads)
    batch = batch_for(recipe, presence(recipe, [NAMES] * 3))
    loss = total_loss(build_model(recipe)(batch), batch, heads, build_objectives(recipe))
    assert loss.isfinite()
