"""Anchors: where they rest, who teaches them, and what a case that lacks something takes from them."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.catalogue import build_model
from models.classes import class_chances, class_means
from models.masking import visible
from models.zoo.fedmema import Attend, FedMEMA
from tests.models.cases import batch_for, presence, recipe_for, subsets

RECIPE = recipe_for("fedmema")
IMAGES = ("flair", "t1")
SOME = subsets((*IMAGES, "ehr"))
BATCH = batch_for(RECIPE, presence(RECIPE, SOME))
FULL = torch.tensor([set(IMAGES) <= set(subset) for subset in SOME])


def built() -> FedMEMA:
    """A network whose attention is not at its beginning, where it takes nothing."""
    model = build_model(RECIPE)
    assert isinstance(model, FedMEMA)
    assert model.attend is not None
    torch.nn.init.normal_(model.attend.out.weight, generator=torch.Generator().manual_seed(0))
    return model


def vectors(model: FedMEMA) -> torch.nn.Parameter:
    return model.anchors["head:scan"].vector.weight


def check_who_takes_and_who_teaches() -> None:
    """Full cases teach the anchors and take nothing from them, the others the other way round."""
    model = built()
    before = model(BATCH)
    before["tumour"].sum().backward(retain_graph=True)
    assert vectors(model).grad is None
    pulls = [torch.autograd.grad(cost, vectors(model), retain_graph=True)[0] for cost in before["scan"]]
    taught = [bool(pull.any()) for pull in pulls]
    assert taught == FULL.tolist()
    torch.nn.init.normal_(vectors(model), generator=torch.Generator().manual_seed(1))
    differ = (model(BATCH)["tumour"] != before["tumour"]).flatten(1).any(1)
    assert torch.equal(differ, ~FULL)


def test_full_cases_teach_the_anchors_and_others_take_from_them() -> None:
    check_who_takes_and_who_teaches()


@pytest.mark.parametrize("full", [torch.ones_like, torch.zeros_like, torch.logical_not])
def test_others_who_teach_or_take_are_caught(
    full: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = FedMEMA._full
    monkeypatch.setattr(FedMEMA, "_full", lambda self, seen: full(honest(self, seen)))
    with pytest.raises(AssertionError):
        check_who_takes_and_who_teaches()


def test_an_anchor_rests_at_the_mean_of_its_class() -> None:
    """Each full case pulls it towards its own mean feature, as far as it has the class."""
    model = built()
    pull = torch.autograd.grad(model(BATCH)["scan"].sum(), vectors(model))[0].view(-1, model.size)
    seen = visible(BATCH, model.modalities)
    features = model.fused(model.levels(seen), seen)[-1]
    means, much = class_means(features, class_chances([model(BATCH)["tumour"]], model.plan))
    apart = vectors(model).view(-1, model.size) - means
    torch.testing.assert_close(pull, (apart * much[..., None])[FULL].sum(0))


def test_attention_by_hand() -> None:
    """Voxel by voxel, in double precision."""
    generator = torch.Generator().manual_seed(2)
    attend = Attend(4)
    torch.nn.init.normal_(attend.out.weight, generator=generator)
    x, anchors = torch.randn(2, 4, 3, 2, generator=generator), torch.randn(2, 3, 4, generator=generator)
    found = attend(x, anchors)
    for row in range(2):
        for i in range(3):
            for j in range(2):
                q = attend.query(x[row, :, i, j])
                weights = torch.stack([q @ attend.key(a) / 2 for a in anchors[row]]).softmax(0)
                mixed = sum(w * attend.value(a) for w, a in zip(weights, anchors[row], strict=True))
                torch.testing.assert_close(found[row, :, i, j], attend.out(mixed), rtol=1e-4, atol=1e-5)


def test_it_begins_as_encoders_unet() -> None:
    heads = {name: head for name, head in RECIPE.heads.items() if name != "scan"}
    one, other = build_model(RECIPE), build_model(replace(recipe_for("encoders_unet"), heads=heads))
    one.load_state_dict(other.state_dict(), strict=False)
    for head, logits in other(BATCH).items():
        assert torch.equal(logits, one(BATCH)[head])
