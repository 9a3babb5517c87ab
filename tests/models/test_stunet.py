"""STU-Net: weights that fit any spacing, size and modality, and outlines at every level of the decoder."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.catalogue import build_model
from models.unet import Plan
from models.zoo import stunet as module
from models.zoo.stunet import Residual, STUNet
from protocol.errors import RecipeError
from protocol.recipe import Modality, Recipe
from tests.models.cases import IMAGES, batch_for, presence, recipe_for

SHAPE = (10, 9, 5)


def recipe(**options: object) -> Recipe:
    return replace(recipe_for("stunet", 3, **options), modalities=IMAGES)


def built(**options: object) -> STUNet:
    model = build_model(recipe(**options))
    assert isinstance(model, STUNet)
    return model


BATCH = batch_for(recipe(), presence(recipe(), [tuple(IMAGES), ("t1",)]), SHAPE)


def test_weights_go_on_with_another_spacing_size_and_modality() -> None:
    """Those of thick slices and three modalities in volumes of thin slices and one that nobody had."""
    other = replace(recipe(in_plane=0), modalities={"ct": Modality()})
    thick, thin = built(in_plane=2), build_model(other)
    thin.load_state_dict(thick.state_dict())
    scan = batch_for(other, presence(other, [("ct",)]), (7, 12, 11))
    assert thin(scan)["tumour"].shape == (1, 2, 7, 12, 11)


def shapes(model: STUNet) -> list[tuple[int, ...]]:
    """Of the encoder's maps, without cases and channels."""
    found: list[tuple[int, ...]] = []
    for level in model.encoder:
        level.register_forward_hook(lambda *given: found.append(tuple(given[2].shape[2:])))
    model(BATCH.map(lambda x: x[1:]))
    return found[:3]


def test_thick_slices_are_halved_in_plane_first() -> None:
    """Odd sides are filled up: 10 x 9 x 5 to multiples of all strides."""
    assert shapes(built(in_plane=0)) == [(12, 12, 8), (6, 6, 4), (3, 3, 2)]
    assert shapes(built(in_plane=1)) == [(12, 12, 6), (6, 6, 6), (3, 3, 3)]
    assert shapes(built(in_plane=2)) == [(12, 12, 5), (6, 6, 5), (3, 3, 5)]


def difference_from_the_mean() -> float:
    """Between the deepest map and the mean of those that each modality gives by itself."""
    model, read = built(), list[Tensor]()
    model.ups[0].register_forward_pre_hook(lambda _, given: read.append(given[0].detach()))
    for names in (*((name,) for name in IMAGES), tuple(IMAGES)):
        model(BATCH.seeing(presence(recipe(), [names] * 2)))
    assert not torch.equal(read[0], read[1])
    return float((read[-1] - torch.stack(read[:-1]).mean(0)).abs().max())


def test_a_level_is_the_mean_of_what_a_case_has() -> None:
    assert difference_from_the_mean() < 1e-5


def test_the_mutant_that_adds_modalities_up_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "masked_mean", lambda maps, seen, shape: sum(maps.values()))
    assert difference_from_the_mean() > 1e-2


def test_every_level_of_the_decoder_outlines_while_it_learns() -> None:
    model = built()
    learning, done = model.train()(BATCH), model.eval()(BATCH)
    assert sorted(learning) == ["tumour", "tumour+1"]
    assert {tuple(logits.shape) for logits in learning.values()} == {(2, 2, *SHAPE)}
    assert list(done) == ["tumour"]
    assert torch.equal(done["tumour"], learning["tumour"])


def test_a_block_that_keeps_size_and_width_adds_what_it_read() -> None:
    """All else being nothing, a leaky ReLU of it; elsewhere a convolution of one voxel stands between."""
    plan = Plan(3, (4,), 2)
    block = Residual(plan, 4, 4, (1, 1, 1))
    for parameter in block.norms[1].parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(1, 4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x), functional.leaky_relu(x))
    kernels = [Residual(plan, *how).shortcut for how in ((4, 6, (1, 1, 1)), (4, 4, (2, 2, 1)))]
    assert [tuple(kernel.weight.shape[2:]) for kernel in kernels] == [(1, 1, 1)] * 2


@pytest.mark.parametrize("options", [{"channels": (4,)}, {"in_plane": 3}])
def test_levels_that_do_not_exist_are_refused(options: dict) -> None:
    with pytest.raises(RecipeError, match=r"model\.(channels|in_plane): expected"):
        built(**options)
