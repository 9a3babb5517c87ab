"""MSM-Seg: who remembers whom, in which order, and what the self prompt is trained on."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.catalogue import build_model
from models.masking import Seen
from models.zoo.modality_slice_memory import Frame, SliceMemory
from protocol.batch import Batch
from protocol.errors import RecipeError
from tests.models.cases import IMAGES, batch_for, presence, recipe_for

RECIPE = replace(recipe_for("modality_slice_memory", 3), modalities=IMAGES)
NAMES = tuple(IMAGES)
SLICES = 4


def built() -> SliceMemory:
    model = build_model(RECIPE)
    assert isinstance(model, SliceMemory)
    return model.eval()


def batch() -> Batch:
    return batch_for(RECIPE, presence(RECIPE, [NAMES] * 2), (5, 4, SLICES))


def maps(*held: str) -> dict[str, Tensor]:
    """Features `(B, D, x, y, Z)` of what two cases have."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(2, 8, 2, 3, SLICES, generator=generator) for name in held}


def frames(model: SliceMemory, given: dict[str, Tensor]) -> list[Tensor]:
    """What is read of every frame, in the order of reading."""
    found: list[Tensor] = []
    handle = model.frame.register_forward_hook(lambda *call: found.append(call[2][0]))
    has = torch.ones(2, dtype=torch.bool)
    model._remembering(
        given,
        {
            name: Seen(has, has & (name in given), anybody=name in given, everybody=name in given)
            for name in NAMES
        },
    )
    handle.remove()
    return found


def changed(model: SliceMemory, modality: str, z: int) -> set[tuple[str, int]]:
    """Frames of which something else is read when slice `z` of `modality` is another."""
    first = maps(*NAMES)
    second = first | {modality: first[modality].clone()}
    second[modality][..., z] += 1
    order = [(name, place) for place in range(SLICES) for name in NAMES]
    pairs = zip(order, frames(model, first), frames(model, second), strict=True)
    return {frame for frame, before, after in pairs if not torch.equal(before, after)}


def test_a_frame_is_remembered_by_what_comes_after_it() -> None:
    """By later slices of its own modality, and by the modalities after it."""
    later = {(name, z) for z in (1, 2, 3) for name in NAMES}
    assert changed(built(), "t1", 1) == later - {("flair", z) for z in (1, 2, 3)}  # which is read before t1


def test_the_mutant_that_remembers_nothing_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Frame._read
    monkeypatch.setattr(
        Frame, "_read", lambda self, which, half, memories, has: honest(self, which, half, [], [])
    )
    assert changed(built(), "t1", 1) == {("t1", 1)}


@pytest.mark.parametrize("held", [NAMES, ("t1",), ("flair", "t2")])
def test_a_modality_that_is_absent_is_a_frame_that_is_not_there(held: tuple[str, ...]) -> None:
    assert len(frames(built(), maps(*held))) == SLICES * len(held)


def test_what_is_remembered_holds_the_self_prompt() -> None:
    frame, x = Frame(8, 2), torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    _, prompt = frame(x, [], [], [])
    assert not torch.allclose(frame.remembered(x, prompt), frame.remembered(x, prompt + 3))


def test_the_self_prompt_is_an_exit_of_every_head_while_it_trains() -> None:
    model = built()
    assert set(model(batch())) == {"tumour"}
    outputs = model.train()(batch())
    assert set(outputs) == {"tumour", "tumour+1"}
    assert outputs["tumour+1"].shape == outputs["tumour"].shape
    assert torch.equal(outputs["tumour+1"][:, 0], outputs["tumour+1"][:, 1])


def test_an_image_is_a_volume_of_one_slice() -> None:
    flat = replace(recipe_for("modality_slice_memory", 2), modalities=IMAGES)
    image, volume = build_model(flat), built()
    image.load_state_dict(volume.state_dict())
    given = batch_for(flat, presence(flat, [NAMES] * 2), (6, 5))
    deep = replace(given, inputs={name: x[..., None] for name, x in given.inputs.items()})
    torch.testing.assert_close(image.eval()(given)["tumour"], volume(deep)["tumour"][..., 0])


def test_features_must_hold_places_and_two_halves() -> None:
    with pytest.raises(RecipeError, match=r"model\.channels: the last must be a multiple of 4"):
        build_model(recipe_for("modality_slice_memory", channels=(4, 6)))
