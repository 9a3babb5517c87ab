"""BrainMVP: what is replaced and by what, and that templates stand in for what a case lacks."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.catalogue import build_model
from models.masking import uniforms, visible
from models.zoo import brainmvp as module
from models.zoo.brainmvp import BrainMVP, Replacing, pairs, replaced
from protocol.batch import Batch
from protocol.errors import RecipeError
from tests.models.cases import IMAGES_AND_TABLE, SCAN, TUMOUR, batch_for, presence, recipe_for

RECIPE = replace(recipe_for("brainmvp", side=8), heads=TUMOUR | SCAN)
NAMES = tuple(RECIPE.modalities)
RULE = Replacing(block=2, share=0.8, distilled=10.0)


def built(seed: int = 1) -> BrainMVP:
    """A model whose templates are not empty."""
    model = build_model(replace(RECIPE, seed=seed))
    assert isinstance(model, BrainMVP)
    with torch.no_grad():
        for place, template in enumerate(model.templates):
            template.picture.vector.weight.fill_(1.0 + place)
    return model


@pytest.mark.parametrize("shape", [(20, 8), (6, 4, 8)])
def test_four_of_five_blocks_are_replaced_whole(shape: tuple[int, ...]) -> None:
    image = torch.zeros(3, 1, *shape)
    hidden = replaced(image, RULE, torch.tensor([1, 2, 1]))
    blocks = hidden[(..., *(slice(None, None, 2) for _ in shape))]
    count = blocks[0].numel()
    assert blocks.flatten(1).sum(1).tolist() == [round(0.8 * count)] * 3
    whole = blocks
    for axis in range(2, 2 + len(shape)):
        whole = whole.repeat_interleave(2, axis)
    assert torch.equal(whole, hidden)
    assert torch.equal(hidden[0], hidden[2])
    assert not torch.equal(hidden[0], hidden[1])


def test_two_images_that_a_case_has() -> None:
    has = torch.tensor([[True, True, True], [False, True, True], [False, True, False]])
    numbers = torch.tensor([[0.1, 0.9, 0.5], [0.9, 0.2, 0.3], [0.8, 0.1, 0.7]])
    one, other = pairs(has, numbers)
    assert one.tolist() == [1, 2, 1]
    assert other.tolist()[:2] == [2, 1]
    assert pairs(has[:, :1], numbers[:, :1])[1].tolist() == [0, 0, 0]


def views(model: BrainMVP, batch: Batch) -> list[Tensor]:
    """What the pretext shows the encoder."""
    seen: list[Tensor] = []
    hook = model.encoder.register_forward_hook(lambda _, given, __: seen.append(given[0].detach()))
    model.pretext(visible(batch, NAMES), batch.draw)
    hook.remove()
    return seen


BATCH = batch_for(RECIPE, presence(RECIPE, [NAMES, NAMES[1:], NAMES[:1]]), (8, 8))


def check_views_and_loss_by_hand() -> None:
    model = built()
    first, second = views(model, BATCH)
    one, other = pairs(BATCH.present, uniforms(BATCH.draw, 3))
    hidden = replaced(BATCH.inputs["flair"], RULE, BATCH.draw)
    paid = model(BATCH)["scan"][:, 0]
    for row, name in enumerate(NAMES[place] for place in one.tolist()):
        true = BATCH.inputs[name][row]
        template = torch.full_like(true, 1.0 + NAMES.index(name))
        assert torch.equal(first[row], torch.where(hidden[row], template, true))
        assert torch.equal(first[row][~hidden[row]], true[~hidden[row]])
        rebuild = model.rebuilders["head:scan"]
        expected = 10 * (rebuild(model.encoder(first[row : row + 1])[-1]) - true).square().mean()
        if BATCH.present[row].sum() > 1:
            partner = BATCH.inputs[NAMES[int(other[row])]][row]
            assert torch.equal(second[row], torch.where(hidden[row], partner, true))
            expected = expected + (rebuild(model.encoder(second[row : row + 1])[-1]) - true).square().mean()
        torch.testing.assert_close(paid[row], expected)


def test_views_and_loss_by_hand() -> None:
    check_views_and_loss_by_hand()


def _kept(image: Tensor, replacing: Replacing, draw: Tensor) -> Tensor:
    return ~replaced(image, replacing, draw)


def _any_image(has: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    return pairs(torch.ones_like(has), numbers)


@pytest.mark.parametrize(("name", "broken"), [("replaced", _kept), ("pairs", _any_image)])
def test_other_views_are_caught(
    name: str, broken: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, broken)
    with pytest.raises(AssertionError):
        check_views_and_loss_by_hand()


def test_a_template_learns_where_it_replaces_its_own_modality() -> None:
    model = built()
    model(BATCH)["scan"].sum().backward()
    one, _ = pairs(BATCH.present, uniforms(BATCH.draw, 3))
    hidden = replaced(BATCH.inputs["flair"], RULE, BATCH.draw)
    for place, template in enumerate(model.templates):
        gradient = template.picture.vector.weight.grad.view(8, 8)
        used = hidden[one == place].any(0).any(0)
        assert torch.equal(gradient != 0, used)


def test_a_case_is_as_if_its_template_had_been_scanned() -> None:
    model = built().eval()
    lacks = BATCH.seeing(presence(RECIPE, [NAMES[:2]] * 3))
    template = torch.full((3, 1, 8, 8), 3.0)
    scanned = replace(
        lacks, inputs={**lacks.inputs, "t2": template}, present=torch.ones(3, 3, dtype=torch.bool)
    )
    torch.testing.assert_close(model(lacks)["tumour"], model(scanned)["tumour"])
    empty = replace(scanned, inputs={**scanned.inputs, "t2": torch.zeros_like(template)})
    assert not torch.allclose(model(lacks)["tumour"], model(empty)["tumour"])


def test_templates_reach_everybody() -> None:
    model = built()
    owners = {model.group_of(name) for name, _ in model.named_parameters() if name.startswith("templates.")}
    assert owners == {"shared"}


def test_a_template_is_as_large_as_the_image() -> None:
    picture = built().templates[1](torch.zeros(2, 1, 5, 9))
    assert picture.shape == (2, 1, 5, 9)
    assert torch.equal(picture, torch.full_like(picture, 2.0))


def test_tables_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"modalities\.ehr\.kind: 'brainmvp' reads images only"):
        build_model(replace(RECIPE, modalities=IMAGES_AND_TABLE))
