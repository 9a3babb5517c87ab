"""MEDUSA: where it looks, and that the classifier sees nothing else."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.catalogue import build_model
from models.flat import Flat, carry
from models.unet import Plan, pooled
from models.zoo.medusa import Attention, Medusa
from tests.models.cases import TUMOUR, VECTOR_HEADS, batch_for, presence, recipe_for

RECIPE = replace(recipe_for("medusa"), heads={"grade": VECTOR_HEADS["grade"]} | TUMOUR)
IMAGE = batch_for(RECIPE, presence(RECIPE, [("flair",)] * 2), (8, 4))


def built(**changes: object) -> Medusa:
    model = build_model(replace(RECIPE, **changes))
    assert isinstance(model, Medusa)
    return model


def looking(everywhere: float) -> Medusa:
    """A model whose every scale looks everywhere alike: +inf is one, -inf zero."""
    model = built()
    assert model.attended is not None
    with torch.no_grad():
        for scale in model.attended.attention.scales:
            scale.weight.zero_()
            scale.bias.fill_(everywhere)
    return model


@pytest.mark.parametrize("dims", [2, 3])
def test_each_scale_has_its_own_map_between_zero_and_one(dims: int) -> None:
    maps = Attention(Plan(dims, (4, 8, 16), 2))(torch.randn(2, 4, *(8,) * dims))
    assert [tuple(each.shape) for each in maps] == [(2, 1, *(side,) * dims) for side in (8, 4, 2)]
    assert all(bool(((each > 0) & (each < 1)).all()) for each in maps)


def backbone_alone(model: Medusa) -> Tensor:
    assert model.attended is not None
    deepest = model.attended.backbone(IMAGE.inputs["flair"], "modality:flair")[-1]
    return model.vectors["head:grade"](pooled(deepest))


def test_attention_of_one_everywhere_is_the_backbone() -> None:
    model = looking(torch.inf)
    assert torch.equal(model(IMAGE)["grade"], backbone_alone(model))
    assert not torch.equal(built()(IMAGE)["grade"], backbone_alone(built()))


def test_attention_of_zero_shows_nothing() -> None:
    """What is left is what norms make of zeros, whatever the image."""
    model = looking(-torch.inf)
    other = IMAGE.map(lambda x: x.flip(0))
    assert torch.equal(model(IMAGE)["grade"], model(other)["grade"])
    assert not torch.equal(built()(IMAGE)["grade"], built()(other)["grade"])


def test_what_one_modality_shows_all_look_at() -> None:
    """The map is the mean over what a case has."""
    model, both = built(), batch_for(RECIPE, presence(RECIPE, [("flair", "t1")] * 2), (8, 4))
    each = [model.body(both.inputs[name], f"modality:{name}") for name in ("flair", "t1")]
    found: list[Tensor] = []
    model.attended.attention.register_forward_hook(lambda _, given, __: found.append(given[0]))
    model(both)
    torch.testing.assert_close(found[0], (each[0] + each[1]) / 2)


def test_a_grade_begins_with_what_outlines_have_taught() -> None:
    """The stages' parts in common: the whole body, and nothing else."""
    outlining = Flat(built(heads=TUMOUR))
    grading = Flat(built(heads={"grade": VECTOR_HEADS["grade"]}, seed=5))
    before = {name: parameter.clone() for name, parameter in grading.model.named_parameters()}
    carry(outlining.vectors, outlining.layout, grading)
    taught = dict(outlining.model.named_parameters())
    for name, parameter in grading.model.named_parameters():
        kept = taught[name] if name.startswith("body.") else before[name]
        assert torch.equal(parameter, kept)
    assert {name.partition(".")[0] for name in taught} == {"body", "maps"}
