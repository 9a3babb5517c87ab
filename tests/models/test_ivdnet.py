"""IVD-Net: how wide its streams hear, what is passed down, and what the decoder averages."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from models.catalogue import build_model
from models.unet import halved
from models.zoo import ivdnet as module
from models.zoo.ivdnet import IVDNet, centre
from protocol.errors import RecipeError
from protocol.recipe import Modality
from tests.models.cases import IMAGES, batch_for, presence, recipe_for

RECIPE = replace(recipe_for("ivdnet"), modalities=IMAGES)
NAMES = tuple(RECIPE.modalities)


def built(**options: object) -> IVDNet:
    model = build_model(replace(recipe_for("ivdnet", **options), modalities=IMAGES))
    assert isinstance(model, IVDNet)
    return model


def heard(block: nn.Module) -> int:
    """Channels that a block reads, of all modalities together."""
    convolutions = [part for name, part in block.entry.named_modules() if name.startswith("parts.")]
    return sum(part.in_channels for part in convolutions if isinstance(part, nn.Conv2d))


def test_streams_hear_as_much_as_in_the_paper() -> None:
    """4, 12, 28 and at the bridge 60 times the first width, of four modalities."""
    four = {name: Modality() for name in ("fat", "inn", "opp", "water")}
    recipe = recipe_for("ivdnet", channels=(2, 4, 8, 16, 32))
    model = build_model(replace(recipe, modalities=four))
    assert isinstance(model, IVDNet)
    blocks = [stage["modality:fat"] for stage in model.hearing if isinstance(stage, nn.ModuleDict)]
    assert [heard(block) // 2 for block in [*blocks, model.bridge]] == [4, 12, 28, 60]


def test_every_stream_hears_every_other() -> None:
    """Also where its own image is blank."""
    model, batch = built(), batch_for(RECIPE, presence(RECIPE, [NAMES] * 2))
    maps = {}
    model.hearing[0]["modality:t1"].register_forward_hook(lambda *given: maps.setdefault(len(maps), given[2]))
    model(batch)
    model(replace(batch, inputs=batch.inputs | {"flair": batch.inputs["flair"] + 1}))
    assert not torch.equal(maps[0], maps[1])


def test_what_was_passed_goes_on_at_half_size() -> None:
    x = torch.arange(64.0).view(1, 1, 8, 8)
    assert centre(x).tolist() == x[:, :, 2:6, 2:6].tolist()
    assert centre(x[..., :4]).shape == halved(x[..., :4]).shape == (1, 1, 4, 2)
    assert not torch.equal(centre(x), halved(x))


def test_carry_is_the_recipe_s_choice() -> None:
    batch = batch_for(RECIPE, presence(RECIPE, [NAMES]), (8, 8))
    pooled, cropped = (built(carry=carry)(batch)["tumour"] for carry in ("pooled", "cropped"))
    assert not torch.equal(pooled, cropped)


def averaged(model: IVDNet, held: tuple[str, ...]) -> tuple[Tensor, list[Tensor]]:
    """What the finest block of the decoder reads, and what it is to be the mean of."""
    kept: dict[str, Tensor] = {}
    up = model.ups[-1]
    up.raised.register_forward_hook(lambda *given: kept.update(up=given[2]))
    up.block.register_forward_pre_hook(lambda block, given: kept.update(read=given[0]))
    for name in NAMES:
        model.first[f"modality:{name}"].register_forward_hook(
            lambda *given, name=name: kept.update({name: given[2]})
        )
    model(batch_for(RECIPE, presence(RECIPE, [held, NAMES])))
    return kept["read"][0], [kept[name][0] for name in ("up", *held)]


@pytest.mark.parametrize("held", [NAMES, ("t1",), ("flair", "t2")])
def test_the_decoder_reads_the_mean_of_what_is_below_and_the_streams_present(held: tuple[str, ...]) -> None:
    """(decoder + 4 streams) / 5 in the paper, of those that a case has here."""
    read, parts = averaged(built(), held)
    torch.testing.assert_close(read, torch.stack(parts).mean(0))


def test_the_mutant_that_counts_absent_streams_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "masked_mean", lambda maps, seen, shape: sum(maps.values()) / len(maps))
    read, parts = averaged(built(), ("flair", "t2"))
    assert not torch.allclose(read, torch.stack(parts).mean(0))


def test_a_bridge_alone_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"model\.channels: expected two entries or more"):
        built(channels=(4,))
