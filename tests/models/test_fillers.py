"""What stands where an image is absent: each filler by a plain loop, bounded for one patient, and no leak."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.catalogue import build_model, build_objectives
from models.fillers import Filler
from models.masking import visible
from models.objectives import case_losses
from protocol.batch import Batch
from protocol.recipe import Head, Modality, Part, Recipe
from tests.models.cases import batch_for, presence, subsets
from tests.models.invariance import leaks
from tests.privacy.neighbours import SLACK, sensitivity

KINDS = ("zero", "mean", "other", "template")
IMAGES = ("flair", "t1", "t2")


def _recipe(filler: str) -> Recipe:
    return Recipe(
        "r",
        {name: Modality() for name in IMAGES} | {"age": Modality("table", 1)},
        {"tumour": Head("segmentation", 1, Part("dice_ce")), "grade": Head("classification", 1, Part("bce"))},
        Part("d"),
        Part("early_fusion_unet", {"channels": (4, 8), "filler": filler}),
    )


def _batch(recipe: Recipe) -> Batch:
    """Every pattern of modalities, among them a case of a table alone."""
    return batch_for(recipe, presence(recipe, subsets(tuple(recipe.modalities))))


def _by_hand(kind: str, batch: Batch, case: int, templates: Tensor) -> Tensor:
    """What the network reads of a case, `(images, X, Y)`."""
    there = [m for m in range(len(IMAGES)) if batch.present[case, m]]
    found = [batch.inputs[IMAGES[m]][case, 0] for m in there]
    empty = torch.zeros_like(batch.inputs["flair"][case, 0])
    filling = {
        "zero": [empty] * len(IMAGES),
        "mean": [sum(found, empty) / max(len(found), 1)] * len(IMAGES),
        "other": [found[0] if found else empty] * len(IMAGES),
        "template": list(templates[case]),
    }[kind]
    return torch.stack([found[there.index(m)] if m in there else filling[m] for m in range(len(IMAGES))])


@pytest.mark.parametrize("kind", KINDS)
def test_a_place_is_filled_as_a_plain_loop_fills_it(kind: str) -> None:
    batch = _batch(_recipe(kind))
    seen = visible(batch, tuple(_recipe(kind).modalities))
    filler = Filler(kind, 2, len(IMAGES))
    for template in filler.templates:
        torch.nn.init.normal_(next(template.parameters()))
    like = batch.inputs["flair"]
    templates = torch.cat([t(like) for t in filler.templates] or [like], 1)
    found = filler([seen[name] for name in IMAGES])
    expected = torch.stack([_by_hand(kind, batch, case, templates) for case in range(len(batch))])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_no_filler_lets_absent_content_or_more_than_one_patients_share_through(kind: str) -> None:
    recipe = _recipe(kind)
    model, objectives, batch = build_model(recipe), build_objectives(recipe), _batch(recipe)

    def losses(outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        return case_losses(outputs, batch, recipe.heads, objectives)

    assert leaks(model, batch, recipe) == set()
    assert 0.99 < sensitivity(model.train(), batch, losses) <= SLACK
    learned = {name for name, _ in model.named_parameters() if name.startswith("filler")}
    assert {model.group_of(name) for name in learned} == ({"shared"} if kind == "template" else set())


def test_a_mean_that_counts_absent_images_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Filler, "_filling", lambda filler, images, has: images.mean(1, keepdim=True))
    with pytest.raises(AssertionError):
        test_a_place_is_filled_as_a_plain_loop_fills_it("mean")


def test_a_template_is_learned_by_those_who_lack_its_modality() -> None:
    recipe = _recipe("template")
    model, objectives, batch = build_model(recipe), build_objectives(recipe), _batch(recipe)
    with_all = replace(batch, present=batch.present | True)
    for case, learns in ((batch, True), (with_all, False)):
        model.zero_grad()
        case_losses(model(case), case, recipe.heads, objectives).sum().backward()
        moved = [
            p.grad is not None and bool(p.grad.any()) for n, p in model.named_parameters() if "filler" in n
        ]
        assert moved == [learns] * len(IMAGES)
