"""Prototypes: where they rest, whom they draw, and what a hospital learns of what it does not have."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.catalogue import build_model
from models.classes import class_chances, class_means
from models.masking import Seen, visible
from models.unet import Plan
from models.zoo import fedamm as module
from models.zoo.fedamm import FedAMM, Prototypes
from protocol.errors import RecipeError
from protocol.groups import taught_by
from protocol.recipe import Head, Part
from tests.models.cases import SCAN, batch_for, presence, recipe_for, subsets

RECIPE = recipe_for("fedamm")
IMAGES = ("flair", "t1")
BATCH = batch_for(RECIPE, presence(RECIPE, subsets(IMAGES) * 2))
GENERATOR = torch.Generator().manual_seed(0)
FEATURES = {name: torch.rand(len(BATCH), 3, 2, 2, generator=GENERATOR) for name in IMAGES}
CHANCES = torch.rand(len(BATCH), 2, 2, 2, generator=GENERATOR)


def prototypes(distil: float = 1.0) -> Prototypes:
    made = Prototypes(IMAGES, 2, 3, distil)
    for name, vector in zip(IMAGES, (0.5, 2.0), strict=True):
        torch.nn.init.constant_(made.of[taught_by(name)].vector.weight, vector)
    return made


def seen() -> dict[str, Seen]:
    return {name: each for name, each in visible(BATCH, RECIPE.modalities).items() if name in IMAGES}


def by_hand(distil: float) -> list[float]:
    """One case, one modality, one class at a time."""
    found = []
    for row in range(len(BATCH)):
        costs = []
        for place, (name, own) in enumerate(zip(IMAGES, (0.5, 2.0), strict=True)):
            if not BATCH.present[row, place]:
                continue
            cost = 0.0
            for c in range(2):
                z = (FEATURES[name][row] * CHANCES[row, c]).sum((1, 2))
                z = z / z.norm()
                much = min(float(CHANCES[row, c].sum()), 1.0)
                cost += much * float((z - own).square().sum() + distil * (z - 1.25).square().sum()) / 2
            costs.append(cost)
        found.append(sum(costs) / len(costs))
    return found


def check_costs() -> None:
    for distil in (0.0, 0.7):
        expected = torch.tensor(by_hand(distil))
        torch.testing.assert_close(prototypes(distil)(FEATURES, seen(), CHANCES), expected)


def check_who_moves() -> None:
    """A prototype is moved by its owners' features alone, to their mean; features by what all say alone."""
    made = prototypes()
    features = {name: x.clone().requires_grad_() for name, x in FEATURES.items()}
    made(features, seen(), CHANCES).sum().backward()
    means, much = class_means(FEATURES["flair"], CHANCES)
    share = BATCH.present[:, 0] / BATCH.present[:, :2].sum(1)
    pull = ((0.5 - means) * (much * share[:, None])[..., None]).sum(0)
    torch.testing.assert_close(made.of[taught_by("flair")].vector.weight.grad, pull.flatten()[:, None])
    again = features["flair"].detach().clone().requires_grad_()
    z, _ = class_means(again, CHANCES)
    (((z - 1.25).square().sum(2) / 2 * much).sum(1) * share).sum().backward()
    torch.testing.assert_close(features["flair"].grad, again.grad)


def test_costs_by_hand() -> None:
    check_costs()


def test_who_moves() -> None:
    check_who_moves()


def _of_all_voxels(features: Tensor, chances: Tensor) -> tuple[Tensor, Tensor]:
    return class_means(features, torch.ones_like(chances))


def _the_other_way(one: Tensor, other: Tensor) -> Tensor:
    return (one - other.detach()).square().sum(-1) / 2


@pytest.mark.parametrize(
    ("what", "broken"), [("class_means", _of_all_voxels), ("half_squares", _the_other_way)]
)
def test_other_prototypes_are_caught(
    what: str, broken: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Means over all voxels, and prototypes that nothing moves."""
    honest = {"class_means": class_means}.get(what)
    monkeypatch.setattr(module, what, broken)
    with pytest.raises(AssertionError):
        (check_costs if honest else check_who_moves)()


def test_a_hospital_learns_what_others_say_of_what_it_lacks() -> None:
    """Without a case of T1, T1's prototypes change what FLAIR learns, and get no gradient."""
    model = build_model(RECIPE)
    assert isinstance(model, FedAMM)
    batch = BATCH.seeing(presence(RECIPE, [("flair",)] * len(BATCH)))
    theirs = model.prototypes["head:scan"].of[taught_by("t1")].vector.weight

    def learned() -> Tensor:
        model.zero_grad()
        model(batch)["scan"].sum().backward()
        assert theirs.grad is None
        return torch.cat([p.grad.flatten() for n, p in model.named_parameters() if "modality:flair" in n])

    before = learned()
    torch.nn.init.constant_(theirs, 0.3)
    assert not torch.allclose(learned(), before)


def test_where_classes_are_is_the_mean_chance_of_each_block() -> None:
    logits = torch.randn(2, 2, 3, 5, generator=GENERATOR)
    found = class_chances([logits[:, :1], logits[:, 1:]], Plan(2, (4, 4), 1))
    one, other = logits.sigmoid().unbind(1)
    for channel, each in enumerate((one, other, (1 - one) * (1 - other))):
        block = torch.nn.functional.pad(each, (0, 1, 0, 1))[:, 2:4, 4:6].mean((1, 2))
        torch.testing.assert_close(found[:, channel, 1, 2], block)
    assert found.shape == (2, 3, 2, 3)


def test_a_pretext_about_classes_needs_a_segmentation() -> None:
    heads = SCAN | {"grade": Head("classification", 1, Part("bce"))}
    with pytest.raises(RecipeError, match=r"the pretext of 'fedamm' is about the classes of a segmentation"):
        build_model(replace(RECIPE, heads=heads))


def test_without_a_pretext_it_is_encoders_unet() -> None:
    heads = {name: head for name, head in RECIPE.heads.items() if name != "scan"}
    one = build_model(replace(RECIPE, heads=heads))
    other = build_model(replace(recipe_for("encoders_unet"), heads=heads))
    assert one.state_dict().keys() == other.state_dict().keys()
    for head, logits in one(BATCH).items():
        assert torch.equal(logits, other(BATCH)[head])
