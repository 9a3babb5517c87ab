"""MM-DINOv2: what it reads, what it hides, what it is told, and what may be private."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from models import views
from models.agreement import agreement, spread
from models.catalogue import build_model, build_objectives
from models.masking import uniforms
from models.objectives import ce
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


def test_a_modality_is_a_vector_of_norm_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its parameters are; and with them ten times as large nothing changes."""
    model = built().eval()
    said = model(SOME_LACK)["grade"]
    with torch.no_grad():
        for parameter in model.names.parameters():
            parameter.mul_(10)
    torch.testing.assert_close(model(SOME_LACK)["grade"], said)
    monkeypatch.setattr(functional, "normalize", lambda x, dim: x / 7)
    assert not torch.allclose(model(SOME_LACK)["grade"], said)


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


def test_a_crop_shows_one_part_of_every_image() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4).repeat(2, 2, 1, 1)
    whole = crop(image, torch.tensor([[1.0, 0.3, 0.9]] * 2), (0.5, 1.0), (4, 4))
    torch.testing.assert_close(whole, image)
    corner = crop(image, torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 1.0]]), (0.25, 1.0), (2, 2))
    torch.testing.assert_close(corner[0, 0], image[0, 0, :2, :2])
    torch.testing.assert_close(corner[1, 1], image[0, 0, 2:, 2:])


def by_hand(said: Tensor, told: Tensor) -> list[float]:
    return [
        sum(
            -float(row[-1]) * sum(p * math.log(q) for p, q in zip(_chances(t, 0.7), _chances(row[:-1], 1.0), strict=True))
            for row, t in zip(case, heard, strict=True)
        )
        for case, heard in zip(said, told, strict=True)
    ]  # fmt: skip


def _chances(logits: Tensor, temperature: float) -> list[float]:
    powers = [math.exp(float(z) / temperature) for z in logits]
    return [power / sum(powers) for power in powers]


def check_agreement(said: Tensor, told: Tensor) -> None:
    assert agreement(said, told, 0.7, centred=False).tolist() == pytest.approx(by_hand(said, told), rel=1e-5)


def test_agreement_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    said, told = torch.rand(3, 4, 3, generator=torch.Generator().manual_seed(1)), torch.rand(3, 4, 2)
    check_agreement(said, told)
    honest: Callable[..., Tensor] = Tensor.softmax
    monkeypatch.setattr(Tensor, "softmax", lambda x, dim: honest(x * 0.7, dim))  # a teacher no surer
    with pytest.raises(AssertionError):
        check_agreement(said, told)


def test_a_centred_teacher_couples_cases_and_a_fixed_one_does_not() -> None:
    said, told = torch.rand(4, 5, 4), torch.rand(4, 5, 3)
    for centred in (False, True):
        alone = agreement(said[:1], told[:1], 0.7, centred=centred)
        assert torch.allclose(agreement(said, told, 0.7, centred=centred)[:1], alone) != centred


def test_koleo_is_the_log_of_the_nearest_distance() -> None:
    vectors = torch.tensor([[[1.0, 0]], [[0, 2.0]], [[-3.0, 0]]])
    torch.testing.assert_close(spread(vectors), torch.full((3,), -0.5 * math.log(2)))
    assert spread(vectors[:1]).tolist() == [0]


def test_what_couples_a_batch_is_not_private_and_the_error_says_what_is() -> None:
    private = replace(RECIPE, privacy=Privacy(epsilon=8.0))
    assert build_objectives(private)["scan"].coupling == "case"
    for part, instead in ((Part("dino", {"centred": True}), "centred: false"), (Part("koleo"), "leave this")):
        heads = {**RECIPE.heads, "scan": replace(SCAN["scan"], objective=part)}
        with pytest.raises(PrivacyError, match=rf"heads\.scan\.objective: .* of a batch, .*{instead}"):
            build_objectives(replace(private, heads=heads))


def test_the_paper_s_weights_of_classes() -> None:
    """log(N / n_c) of ten, five and one in sixteen; a case's loss is its class' weight times what it was."""
    weights = tuple(math.log(16 / n) for n in (10, 5, 1))
    assert weights == pytest.approx((0.47, 1.1632, 2.7726), abs=5e-5)
    logits, target = torch.rand(3, 3), torch.tensor([2, 0, 1])
    found = ce(weights=weights).function(logits, target) / ce().function(logits, target)
    assert found.tolist() == pytest.approx([weights[2], weights[0], weights[1]])
    assert not ce(weights=weights).fits(Head("classification", 2, Part("ce")))


def test_other_heads_and_tables_are_refused() -> None:
    for heads in (TUMOUR, SCAN, {"idh": Head("classification", 1, Part("bce"))}):
        with pytest.raises(RecipeError, match="one classification with classes: 2 or more"):
            build_model(replace(RECIPE, heads=heads))
    with pytest.raises(RecipeError, match=r"modalities\.ehr\.kind: 'mm_dino' reads images only"):
        build_model(replace(RECIPE, modalities=IMAGES_AND_TABLE))
    with pytest.raises(RecipeError, match=r"model\.dims: 2, but the images have 3"):
        build_model(RECIPE)(batch_for(RECIPE, presence(RECIPE, [NAMES]), (4, 4, 4)))


def test_the_recipe_s_network_is_small_and_may_train_privately() -> None:
    recipe = load_recipe("recipes/mm_dino.yaml", ["privacy.epsilon=8", "privacy.delta=0.001"])
    assert 300_000 < sum(p.numel() for p in build_model(recipe).parameters()) < 500_000
    assert build_objectives(recipe)["self"].coupling == "case"
