"""BM-MAE: what it hides, what it pays for, and what the pretext shares with the heads."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.catalogue import build_model
from models.masking import dirichlet_kept, uniforms
from models.zoo import bm_mae
from models.zoo.bm_mae import missed
from protocol.batch import Batch
from protocol.errors import RecipeError
from protocol.recipe import Head, Part
from tests.models.cases import IMAGES_AND_TABLE, batch_for, presence, recipe_for

RECIPE = recipe_for("bm_mae")
NAMES = tuple(RECIPE.modalities)
PRETRAIN = replace(RECIPE, heads={"scan": RECIPE.heads["scan"]})


def test_the_encoder_sees_one_token_a_patch_and_one_for_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the modalities that a case has; the others are there and unreadable."""
    seen: list[Tensor] = []
    honest = bm_mae.Encoder.forward

    def noted(self: bm_mae.Encoder, tokens: Tensor, readable: Tensor) -> list[Tensor]:
        seen.append(readable)
        return honest(self, tokens, readable)

    monkeypatch.setattr(bm_mae.Encoder, "forward", noted)
    subsets = [("flair",), ("flair", "t2"), NAMES]
    model, batch = build_model(RECIPE), batch_for(RECIPE, presence(RECIPE, subsets), (8, 8))
    model(batch)
    predicting, hiding = seen
    assert (1 + predicting.sum(1)).tolist() == [1 + 16 * len(subset) for subset in subsets]
    assert hiding.sum(1).tolist() == [16 * len(subset) // 4 for subset in subsets]


def test_the_error_by_hand() -> None:
    """Two modalities of three patches: the mean over what is wanted of each, summed."""
    rebuilt, truth = torch.zeros(1, 2, 3, 4), torch.ones(1, 2, 3, 4)
    truth[0, 1] = 2.0
    wanted = torch.tensor([[[True, False, True], [False, False, True]]])
    assert missed(rebuilt, truth, wanted).tolist() == [[1.0 + 4.0]]
    assert missed(truth, truth, wanted).tolist() == [[0.0]]
    assert missed(rebuilt, truth, wanted & False).tolist() == [[0.0]]


def pretext_loss(batch: Batch) -> Tensor:
    return build_model(PRETRAIN)(batch)["scan"]


def test_only_what_is_hidden_is_paid_for() -> None:
    """A change of the target where a patch was kept changes what is read, not what is compared."""
    batch = batch_for(PRETRAIN, presence(PRETRAIN, [NAMES] * 4), (8, 8))
    model = build_model(PRETRAIN)
    with torch.no_grad():  # a decoder that says zero, whatever it reads
        for name, parameter in model.named_parameters():
            if ".voxels." in name:
                parameter.zero_()
    numbers = uniforms(batch.draw, 3, 17)
    kept = dirichlet_kept(batch.present, 0.25, numbers[..., 0], numbers[..., 1:])  # (4, 3, 16)
    squares = torch.stack(
        [x.unfold(2, 2, 2).unfold(3, 2, 2).square().mean((-1, -2)) for x in batch.inputs.values()], 1
    )
    squares = squares.reshape(4, 3, 16)
    expected = [
        sum(float(squares[row, m][~kept[row, m]].mean()) for m in range(3) if not kept[row, m].all())
        for row in range(4)
    ]
    assert model(batch)["scan"][:, 0].tolist() == pytest.approx(expected, rel=1e-5)


def test_the_step_s_chance_follows_from_the_draw() -> None:
    batch = batch_for(PRETRAIN, presence(PRETRAIN, [NAMES] * 2), (8, 8))
    assert torch.equal(pretext_loss(batch), pretext_loss(batch))
    assert not torch.equal(pretext_loss(batch), pretext_loss(replace(batch, draw=batch.draw + 9)))
    zeros = replace(batch, draw=torch.zeros(2, dtype=torch.int64))
    assert torch.equal(pretext_loss(replace(batch, draw=None)), pretext_loss(zeros))


def test_both_tasks_have_tokenizers_and_encoder_in_common_and_nothing_else() -> None:
    fine = replace(RECIPE, heads={"grade": RECIPE.heads["grade"], "tumour": RECIPE.heads["tumour"]})
    pre, tuned = ({n for n, _ in build_model(each).named_parameters()} for each in (PRETRAIN, fine))
    assert {name.partition(".")[0] for name in pre & tuned} == {"tokenizers", "encoder"}
    assert {name.partition(".")[0] for name in pre ^ tuned} == {
        "decoders", "names", "maps", "stems", "unetr", "vectors",
    }  # fmt: skip
    groups = {build_model(PRETRAIN).group_of(name) for name in pre}
    assert groups == {"shared", "head:scan", *(f"modality:{name}" for name in NAMES)}


def test_a_table_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"modalities\.ehr\.kind: 'bm_mae' reads images only"):
        build_model(replace(RECIPE, modalities=IMAGES_AND_TABLE))


def test_a_pretext_of_another_model_is_refused() -> None:
    other = replace(recipe_for("parallel_unet"), heads={"scan": Head("pretext", objective=Part("own"))})
    with pytest.raises(RecipeError, match=r"heads\.scan\.kind: 'parallel_unet' has no pretext; use bm_mae"):
        build_model(other)


def test_the_recipe_s_networks_are_small() -> None:
    images = dict.fromkeys(("flair", "t1", "t1c", "t2"), RECIPE.modalities["flair"])
    small = replace(RECIPE, modalities=images, model=Part("bm_mae", {"patch": 4, "size": 64}))
    assert 150_000 < sum(p.numel() for p in build_model(small).parameters()) < 350_000
