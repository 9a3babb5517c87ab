"""Vectors of frozen encoders: who teaches them, the gap, the means, and what takes an absent one's place."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.catalogue import build_model, build_objectives
from models.flat import Flat, carry
from models.objectives import total_loss
from models.unet import padded
from models.zoo import embed_fusion as module
from models.zoo.embed_fusion import EmbedFusion, by_image, by_table, fixed, gap_shift
from models.zoo.embed_fusion import embed_fusion as build
from protocol.batch import Batch
from protocol.errors import RecipeError
from protocol.groups import modality_group
from protocol.recipe import Part, Recipe
from tests.models.cases import (
    SCAN,
    TABLES,
    TUMOUR,
    VECTOR_HEADS,
    batch_for,
    presence,
    recipe_for,
    subsets,
)
from tests.models.invariance import results

RECIPE = replace(recipe_for("embed_fusion"), heads=SCAN)
NAMES = tuple(RECIPE.modalities)
GRADE = {"grade": VECTOR_HEADS["grade"]}


def built() -> EmbedFusion:
    model = build_model(recipe_for("embed_fusion"))
    assert isinstance(model, EmbedFusion)
    return model


def vectors(model: EmbedFusion, batch: Batch) -> list[Tensor]:
    """The unit vectors of every case and modality, from its content alone."""

    def found(name: str, x: Tensor) -> Tensor:
        if x.ndim == 2:
            return by_table(x, model.size)
        with torch.no_grad():
            return by_image(model.body.encoders[modality_group(name)](padded(x, model.body.plan)))

    return [z / z.norm(dim=1, keepdim=True) for z in (found(*each) for each in batch.inputs.items())]


def means_of(model: EmbedFusion) -> list[Tensor]:
    return [weight.detach()[:, 0] / model.size**0.5 for weight in model.means.parameters()]


def set_means(model: EmbedFusion, batch: Batch) -> None:
    """Let each mean be that of the cases which have its modality: a loop over cases."""
    for place, (mean, z) in enumerate(zip(model.means.parameters(), vectors(model, batch), strict=True)):
        held = [row for row, has in zip(z, batch.present[:, place].tolist(), strict=True) if has]
        mean.data = (sum(held[1:], held[0]) / len(held))[:, None] * model.size**0.5


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
    assert pull() > 1e-3


def test_what_is_absent_is_its_modality_s_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a hospital without it needs the mean of others: the means are shared."""
    model, whole = built(), batch_for(RECIPE, presence(RECIPE, [NAMES] * 4))
    set_means(model, whole)
    given: list[Tensor] = []
    monkeypatch.setattr(module, "gap_shift", lambda z, means, strength: (given.append(z), z)[1])
    model(whole.seeing(presence(RECIPE, [("flair",)] * 4)))
    torch.testing.assert_close(given[0][:, 0], vectors(model, whole)[0])
    for place in (1, 2):
        torch.testing.assert_close(given[0][:, place], means_of(model)[place].expand(4, -1))
    assert {model.group_of(name) for name, _ in model.named_parameters() if "means" in name} == {"shared"}


def test_of_a_table_nothing_is_learned() -> None:
    """Such as of vectors that a hospital has made beforehand; without an image that is all there is."""
    model = build_model(replace(RECIPE, modalities=TABLES, heads=GRADE | SCAN))
    assert {name.partition(".")[0] for name, _ in model.named_parameters()} == {"means", "hidden", "heads"}
    assert model.axes == 0
    assert torch.equal(fixed(4, 2), fixed.__wrapped__(4, 2))  # nothing is drawn anew


def test_only_outlines_teach_an_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither labels of vectors nor their means; a model that hands the gradient on is caught."""
    recipe = replace(RECIPE, heads=GRADE | SCAN)
    batch = batch_for(recipe, presence(recipe, [NAMES] * 2))

    def taught(recipe: Recipe) -> set[str]:
        found = results(build_model(recipe), batch_for(recipe, batch.present), recipe)
        return {name for name in found if "encoders" in name}

    assert taught(replace(recipe, heads=TUMOUR))
    assert not taught(recipe)
    monkeypatch.setattr(Tensor, "detach", lambda x: x)
    assert taught(recipe)


def test_a_modality_that_no_case_has_gets_no_gradient() -> None:
    recipe = replace(RECIPE, heads=TUMOUR)
    model = build_model(recipe)
    for absent in ("flair", "t1"):
        held = tuple(name for name in NAMES if name != absent)
        results(model, batch_for(recipe, presence(recipe, [held] * 2)), recipe)
        theirs = [p.grad for n, p in model.named_parameters() if model.group_of(n) == modality_group(absent)]
        assert theirs
        assert all(grad is None for grad in theirs)


def test_a_case_is_encoded_once() -> None:
    """Whatever is read from it: outlines, labels, means."""
    model, passes = built(), list[str]()
    for group, encoder in model.body.encoders.items():
        encoder.register_forward_hook(lambda *_, group=group: passes.append(group))
    recipe = recipe_for("embed_fusion")
    outputs = model(batch_for(recipe, presence(recipe, [NAMES] * 2)))
    assert outputs.keys() == recipe.heads.keys() > {"tumour", "grade", "scan"}
    assert passes == ["modality:flair", "modality:t1"]


def test_vectors_begin_with_the_encoders_that_outlines_have_taught() -> None:
    """The stages' parts in common: encoders, and nothing else."""
    outlining = Flat(build_model(replace(RECIPE, heads=TUMOUR)))
    grading = Flat(build_model(replace(RECIPE, heads=GRADE | SCAN, seed=5)))
    before = {name: parameter.clone() for name, parameter in grading.model.named_parameters()}
    carry(outlining.vectors, outlining.layout, grading)
    taught = dict(outlining.model.named_parameters())
    for name, parameter in grading.model.named_parameters():
        kept = taught[name] if name.startswith("body.encoders.") else before[name]
        assert torch.equal(parameter, kept)
    assert {name.partition(".")[0] for name in taught} == {"body"}


def test_labels_do_not_move_the_means() -> None:
    recipe = recipe_for("embed_fusion")
    model, batch = build_model(recipe), batch_for(recipe, presence(recipe, [NAMES] * 2))
    model(batch)["grade"].sum().backward()
    assert all(p.grad is None for name, p in model.named_parameters() if name.startswith("means"))


def test_a_strength_beyond_one_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"model\.strength: expected .* in \[-1, 1\]"):
        build_model(replace(RECIPE, model=Part("embed_fusion", {"strength": 1.5})))
    assert build(RECIPE.modalities, RECIPE.heads).strength == 1
