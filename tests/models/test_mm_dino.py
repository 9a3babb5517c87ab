"""MM-DINOv2: what it reads, what it hides, what it is told, and what may be private."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from models.agreement import agreement, spread
from models.catalogue import build_model, build_objectives
from models.masking import uniforms
from models.objectives import case_losses, ce, total_loss
from models.tokens import positions
from models.views import block, crop, one_whole
from models.zoo import mm_dino
from models.zoo.mm_dino import MMDino
from protocol.errors import PrivacyError, RecipeError
from protocol.recipe import Head, Part, Privacy, load_recipe
from tests.models.cases import IMAGES_AND_TABLE, SCAN, TUMOUR, batch_for, presence, recipe_for
from tests.models.invariance import refilled

RECIPE = recipe_for("mm_dino")
NAMES = tuple(RECIPE.modalities)
SOME_LACK = batch_for(RECIPE, presence(RECIPE, [NAMES, NAMES[:2], NAMES[1:], NAMES[:1], ()]), (8, 8))


def built() -> MMDino:
    model = build_model(RECIPE)
    assert isinstance(model, MMDino)
    return model


def test_a_case_is_one_class_token_and_one_token_a_patch_of_what_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Tensor] = []
    honest = mm_dino.Encoder.forward

    def noted(self: mm_dino.Encoder, tokens: Tensor, readable: Tensor) -> list[Tensor]:
        seen.append(readable)
        return honest(self, tokens, readable)

    monkeypatch.setattr(mm_dino.Encoder, "forward", noted)
    built().eval()(SOME_LACK)
    (readable,) = seen
    assert 1 + readable.shape[1] == 1 + 3 * 16
    assert (1 + readable.sum(1)).tolist() == [1 + 16 * n for n in (3, 2, 2, 1, 0)]


def check_norm_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a name adds to every token, whatever its parameters are, is the same vector of norm one."""
    model = built().eval()
    with torch.no_grad():
        for name, parameter in model.names.named_parameters():
            parameter.mul_(10 if "flair" in name else 0.1)
    seen: list[Tensor] = []

    def noted(tokens: Tensor, readable: Tensor) -> list[Tensor]:
        seen.append(tokens)
        return [tokens]

    monkeypatch.setattr(model.tokenizer, "forward", lambda x: torch.zeros(len(x), 16, 12))
    monkeypatch.setattr(model.encoder, "forward", noted)
    model(SOME_LACK)
    names = seen[0].unflatten(1, (3, 16))[0] - positions((4, 4), 12)  # of the case that has everything
    torch.testing.assert_close(names.norm(dim=2), torch.ones(3, 16))
    torch.testing.assert_close(names, names[:, :1].expand_as(names))


def test_a_modality_is_a_vector_of_norm_one(monkeypatch: pytest.MonkeyPatch) -> None:
    check_norm_one(monkeypatch)


def test_a_name_as_long_as_its_parameters_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "normalize", lambda x, dim: x)
    with pytest.raises(AssertionError):
        check_norm_one(monkeypatch)


def test_the_teacher_s_word_does_not_depend_on_what_is_absent() -> None:
    model = built()
    expected = model.tell(SOME_LACK)["scan"]
    assert torch.equal(model.tell(refilled(SOME_LACK, NAMES, float("nan")))["scan"], expected)
    assert model.eval()(SOME_LACK).keys() == {"grade"}


def test_the_student_s_rows_are_the_teacher_s_where_nothing_is_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One image as every crop: the two differ in what is hidden, and in nothing else."""
    model = built()
    monkeypatch.setattr(mm_dino, "crop", lambda images, *_: images)
    told, said = model.tell(SOME_LACK)["scan"], model(SOME_LACK)["scan"]
    assert said.shape == (5, 6 + 2 * 3 * 16, 3 + 1)
    assert not torch.allclose(said[:4, :, :-1], told[:4])
    monkeypatch.setattr(mm_dino, "block", lambda numbers, grid: torch.zeros(5, 16, dtype=torch.bool))
    monkeypatch.setattr(mm_dino, "one_whole", lambda has, numbers: has & False)
    torch.testing.assert_close(model(SOME_LACK)["scan"][..., :-1], told)


def test_views_and_hidden_patches_each_weigh_one() -> None:
    """A crop of which nothing is hidden weighs nothing, and so does a case without anything."""
    weights = built()(SOME_LACK)["scan"][..., -1]
    views_, patches = weights[:, :6].sum(1), weights[:, 6:].sum(1)
    torch.testing.assert_close(views_, torch.tensor([1.0, 1, 1, 1, 0]))
    torch.testing.assert_close(patches[:3], torch.ones(3))  # a whole modality at least
    assert patches[4] == 0


@given(st.integers(0, 2**62), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_what_is_hidden(draw: int, height: int, width: int, held: int) -> None:
    """A block is a rectangle and never all of a large grid; one modality of several, and only one it has."""
    numbers = uniforms(torch.tensor([draw]), 10)
    hidden = block(numbers[:, :6], (height, width)).view(height, width)
    rows, columns = hidden.any(1), hidden.any(0)
    assert torch.equal(hidden, rows[:, None] & columns)
    assert hidden.sum() <= max(1, math.ceil(height * width * 0.5) + height + width)
    has = torch.arange(4)[None] < held
    chosen = one_whole(has, numbers[:, 6:])
    assert int(chosen.sum()) == (held > 1)
    assert not (chosen & ~has).any()


@pytest.mark.parametrize("shape", [(9, 5), (7, 4, 6)])
def test_a_crop_is_what_pytorch_samples(shape: tuple[int, ...]) -> None:
    """Of every image of a case the same part; nothing beyond an edge but the edge."""
    axes, generator = len(shape), torch.Generator().manual_seed(2)
    images = torch.randn(4, 2, *shape, generator=generator)
    numbers = torch.rand(4, 1 + axes, generator=generator)
    side = (0.2 + 0.3 * numbers[:, 0]) ** (1 / axes)
    # Its axes run from -1 to 1, the last first.
    shift = (1 - side[:, None]) * (2 * numbers[:, 1:].flip(1) - 1)
    scale = side[:, None, None] * torch.eye(axes)
    places = functional.affine_grid(
        torch.cat([scale, shift[..., None]], 2), [4, 2, *(3,) * axes], align_corners=False
    )
    expected = functional.grid_sample(images, places, padding_mode="border", align_corners=False)
    torch.testing.assert_close(crop(images, numbers, (0.2, 0.5), (3,) * axes), expected)


def by_hand(said: Tensor, told: Tensor) -> list[float]:
    """The losses of rows, each a weight and two lists of chances, by plain arithmetic."""
    return [
        sum(
            -weight * sum(p * math.log(q) for p, q in zip(chances(t, 0.7), chances(z, 1.0), strict=True))
            for (*z, weight), t in zip(case, heard, strict=True)
        )
        for case, heard in zip(said.tolist(), told.tolist(), strict=True)
    ]


def chances(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(z / temperature) for z in logits]
    return [power / sum(powers) for power in powers]


def check_agreement() -> None:
    generator = torch.Generator().manual_seed(1)
    said, told = torch.rand(3, 4, 3, generator=generator), torch.rand(3, 4, 2, generator=generator)
    assert agreement(said, told, 0.7).tolist() == pytest.approx(by_hand(said, told), rel=1e-5)


def test_agreement_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    check_agreement()
    honest: Callable[..., Tensor] = Tensor.softmax
    monkeypatch.setattr(Tensor, "softmax", lambda x, dim: honest(x * 0.7, dim))  # a teacher no surer
    with pytest.raises(AssertionError):
        check_agreement()


def test_nobody_learns_from_no_teacher() -> None:
    """A target that nobody has told is no target: not even a network that teaches itself."""
    untaught = replace(SOME_LACK, targets=SOME_LACK.targets | {"scan": torch.empty(5, 0)})
    for loss in (case_losses, total_loss):
        with pytest.raises(IndexError):
            loss(built()(untaught), untaught, RECIPE.heads, build_objectives(RECIPE))


def test_koleo_is_the_log_of_the_nearest_distance() -> None:
    vectors = torch.tensor([[[1.0, 0]], [[0, 2.0]], [[-3.0, 0]]])
    torch.testing.assert_close(spread(vectors), torch.full((3,), -0.5 * math.log(2)))
    assert spread(vectors[:1]).tolist() == [0]


def test_what_couples_a_batch_is_not_private() -> None:
    private = replace(RECIPE, privacy=Privacy(epsilon=8.0))
    assert build_objectives(private)["scan"].coupling == "case"
    heads = {**RECIPE.heads, "even": replace(SCAN["scan"], objective=Part("koleo"))}
    with pytest.raises(PrivacyError, match=r"heads\.even\.objective: .* cases of a batch, .*; leave this"):
        build_objectives(replace(private, heads=heads))


def test_smoothing_spreads_a_share_of_the_truth() -> None:
    logits, target = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    shares = torch.tensor([0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3])
    expected = -(shares * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(ce(smoothing=0.1).function(logits, target), expected)


def test_other_heads_and_tables_are_refused() -> None:
    for heads in (TUMOUR, SCAN, {"idh": Head("classification", 1, Part("bce"))}):
        with pytest.raises(RecipeError, match="one classification with classes: 2 or more"):
            build_model(replace(RECIPE, heads=heads))
    with pytest.raises(RecipeError, match=r"modalities\.ehr\.kind: 'mm_dino' reads images only"):
        build_model(replace(RECIPE, modalities=IMAGES_AND_TABLE))
    with pytest.raises(RecipeError, match=r"model\.dims: 2, but the images have 3"):
        build_model(RECIPE)(batch_for(RECIPE, presence(RECIPE, [NAMES]), (4, 4, 4)))


def test_the_recipe_is_the_paper_s_and_private_without_koleo() -> None:
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "mm_dino.yaml")
    assert {name: build_objectives(recipe)[name].coupling for name in recipe.heads} == {
        "grade": "case", "views": "case", "even": "batch",
    }  # fmt: skip
    batch = batch_for(recipe, presence(recipe, [("flair", "t1"), ("t1", "t2")]), (16, 16))
    outputs = build_model(recipe)(batch)
    assert outputs["even"].shape == (2, 2, 64)
    assert total_loss(outputs, batch, recipe.heads, build_objectives(recipe)).isfinite()
