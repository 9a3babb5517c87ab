"""Vectors of frozen encoders: their norm, the gap, the means, and what takes an absent one's place."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.catalogue import build_model, build_objectives
from models.objectives import total_loss
from models.zoo import embed_fusion as module
from models.zoo.embed_fusion import EmbedFusion, by_image, by_table, fixed, gap_shift
from models.zoo.embed_fusion import embed_fusion as build
from protocol.batch import Batch
from protocol.errors import RecipeError
from protocol.recipe import Part
from tests.models.cases import SCAN, batch_for, presence, recipe_for, subsets

RECIPE = replace(recipe_for("embed_fusion"), heads=SCAN)
NAMES = tuple(RECIPE.modalities)


def built() -> EmbedFusion:
    model = build_model(recipe_for("embed_fusion"))
    assert isinstance(model, EmbedFusion)
    return model


def vectors(model: EmbedFusion, batch: Batch) -> list[Tensor]:
    """The unit vectors of every case and modality, from its content alone."""
    found = [
        by_image(x, model.plan) if x.ndim > 2 else by_table(x, model.size) for x in batch.inputs.values()
    ]
    return [x / x.norm(dim=1, keepdim=True) for x in found]


def set_means(model: EmbedFusion, batch: Batch) -> None:
    """Let each mean be that of the cases which have its modality: a loop over cases."""
    for place, (mean, z) in enumerate(zip(model.means.parameters(), vectors(model, batch), strict=True)):
        held = [row for row, has in zip(z, batch.present[:, place].tolist(), strict=True) if has]
        mean.data = (sum(held[1:], held[0]) / len(held))[:, None]


def pull() -> float:
    """How strongly the pretext moves means that are right, over sites of unlike subsets, pooled."""
    model = build_model(RECIPE)
    assert isinstance(model, EmbedFusion)
    whole = batch_for(RECIPE, presence(RECIPE, subsets(NAMES)))
    batch = replace(whole, labelled={"scan": torch.ones(len(whole), dtype=torch.bool)})
    set_means(model, batch)
    total_loss(model(batch), batch, RECIPE.heads, build_objectives(RECIPE)).backward()
    return max(float(mean.grad.abs().max()) for mean in model.means.parameters() if mean.grad is not None)


def test_the_gap_is_closed_left_or_opened() -> None:
    """Of two modalities each moves half; before the norm, so the test undoes it by long vectors."""
    z = torch.nn.functional.normalize(
        torch.randn(50, 2, 8, generator=torch.Generator().manual_seed(0)), dim=2
    )
    z = torch.nn.functional.normalize(z + torch.tensor([[0.5], [-0.5]]), dim=2)
    means, gap = z.mean(0), z.mean(0)[0] - z.mean(0)[1]
    for strength in (-1.0, 0.0, 0.4, 1.0):
        first, second = z[:, 0] - strength / 2 * gap, z[:, 1] + strength / 2 * gap
        expected = torch.stack([x / x.norm(dim=1, keepdim=True) for x in (first, second)], 1)
        torch.testing.assert_close(gap_shift(z, means, strength), expected)
        torch.testing.assert_close(first.mean(0) - second.mean(0), (1 - strength) * gap)


def test_a_mean_is_what_the_pretext_comes_to_rest_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over those who have the modality; the mutant that counts absent ones as well is caught."""
    assert pull() < 1e-6
    monkeypatch.setattr(torch, "where", lambda has, x, other: x)
    assert pull() > 1e-2


def test_what_is_absent_is_its_modality_s_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a hospital without it needs the mean of others: the means are shared."""
    model, whole = built(), batch_for(RECIPE, presence(RECIPE, [NAMES] * 4))
    set_means(model, whole)
    given: list[Tensor] = []
    monkeypatch.setattr(module, "gap_shift", lambda z, means, strength: (given.append(z), z)[1])
    model(whole.seeing(presence(RECIPE, [("flair",)] * 4)))
    torch.testing.assert_close(given[0][:, 0], vectors(model, whole)[0])
    for place in (1, 2):
        torch.testing.assert_close(given[0][:, place], model.means[place].weight[:, 0].expand(4, -1))
    assert {model.group_of(name) for name, _ in model.named_parameters() if "means" in name} == {"shared"}


def test_only_the_means_and_the_small_network_learn() -> None:
    model = built()
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"means", "hidden", "heads"}
    assert torch.equal(fixed(4, 2, 3, 3), fixed.__wrapped__(4, 2, 3, 3))  # nothing is drawn anew


def test_labels_do_not_move_the_means() -> None:
    recipe = recipe_for("embed_fusion")
    model, batch = build_model(recipe), batch_for(recipe, presence(recipe, [NAMES] * 2))
    model(batch)["grade"].sum().backward()
    assert all(p.grad is None for name, p in model.named_parameters() if name.startswith("means"))


def test_a_strength_beyond_one_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"model\.strength: expected .* in \[-1, 1\]"):
        build_model(replace(RECIPE, model=Part("embed_fusion", {"strength": 1.5})))
    assert build(RECIPE.modalities, RECIPE.heads).strength == 1
