"""MMSFormer: its fusion block against libraries, and who hears whom."""

from dataclasses import replace

import pytest
import torch
from monai.networks.blocks import ChannelSELayer
from torch import Tensor, nn
from torch.nn import functional

from models.catalogue import build_model
from models.unet import Plan
from models.zoo.mmsformer import Mixed, MMSFormer, SqueezeExcite
from protocol.errors import RecipeError
from tests.models.cases import IMAGES, batch_for, presence, recipe_for

RECIPE = replace(recipe_for("mmsformer"), modalities=IMAGES)
NAMES = tuple(RECIPE.modalities)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dims", [2, 3])
def test_squeeze_and_excitation_is_monai_s(dims: int) -> None:
    ours = SqueezeExcite(32)
    theirs = ChannelSELayer(dims, 32, r=16)
    theirs.fc.load_state_dict(ours.gate.state_dict())
    x = normal(2, 32, *(5, 4, 3)[:dims])
    torch.testing.assert_close(ours(x), theirs(x))


def one_kernel(block: Mixed) -> tuple[Tensor, Tensor]:
    """The sum of a map and its three depth-wise convolutions as one of 7 x 7."""
    kernels, biases = [], []
    for look in block.looks:
        kernels.append(functional.pad(look.weight, [(7 - look.weight.shape[-1]) // 2] * 4))
        biases.append(look.bias)
    kernel = torch.stack(kernels).sum(0)
    kernel[:, :, 3, 3] += 1
    return kernel, torch.stack(biases).sum(0)


def test_three_looks_at_once_are_one_wide_one() -> None:
    block, x = Mixed(Plan(2, (8,), 4), 8), normal(2, 8, 9, 6)
    kernel, bias = one_kernel(block)
    before = block.first(x)
    expected = block.last(functional.conv2d(before, kernel, bias, padding=3, groups=8))
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-4)


def test_an_encoder_does_not_hear_what_is_fused() -> None:
    model, batch = build_model(RECIPE), batch_for(RECIPE, presence(RECIPE, [NAMES] * 2))
    assert isinstance(model, MMSFormer)
    maps: list[list[Tensor]] = []
    model.encoders["modality:t1"].register_forward_hook(lambda *given: maps.append(given[2]))
    model(batch)
    model(replace(batch, inputs=batch.inputs | {"flair": batch.inputs["flair"] + 1}))
    assert all(torch.equal(first, second) for first, second in zip(*maps, strict=True))


def test_the_mutant_that_reads_zeros_instead_of_leaving_out_is_another_function() -> None:
    batch = batch_for(RECIPE, presence(RECIPE, [("flair", "t2")] * 2))
    filled = replace(
        batch,
        inputs=batch.inputs | {"t1": torch.zeros_like(batch.inputs["t1"])},
        present=torch.ones_like(batch.present),
    )
    model = build_model(RECIPE)
    assert not torch.allclose(model(batch)["tumour"], model(filled)["tumour"])


def test_what_a_modality_adds_to_the_fusion_is_its_own() -> None:
    model = build_model(RECIPE)
    owners = {model.group_of(name) for name, _ in model.named_parameters() if name.startswith("joins.")}
    assert owners == {f"modality:{name}" for name in NAMES}
    assert isinstance(model.joins[0].parts["modality:t1"], nn.Conv2d)


def test_a_number_of_heads_for_each_stage() -> None:
    with pytest.raises(RecipeError, match=r"model\.attention_heads: expected one number a stage, 2"):
        build_model(recipe_for("mmsformer", attention_heads=(1,)))
