"""MulModSeg: the layers that a controller writes, and that it listens to the text."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.catalogue import build_model
from models.zoo import mulmodseg as module
from models.zoo.mulmodseg import PER_CLASS, MulModSeg, prompt, written
from tests.models.cases import IMAGES, batch_for, presence, recipe_for, subsets

RECIPE = replace(recipe_for("mulmodseg"), modalities=IMAGES)
NAMES = tuple(IMAGES)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_a_class_has_153_parameters() -> None:
    assert PER_CLASS == 8 * 8 + 8 * 8 + 8 + 8 + 8 + 1 == 153


@pytest.mark.parametrize("dims", [2, 3])
def test_written_layers_are_grouped_convolutions(dims: int) -> None:
    """As in the released code: all cases and classes as groups of one convolution."""
    cases, classes = 2, 3
    theta, features = normal(cases, classes, PER_CLASS), normal(cases, 8, *(5, 4, 3)[:dims])
    convolve = (functional.conv2d, functional.conv3d)[dims - 2]
    w1, w2, w3, b1, b2, b3 = theta.flatten(0, 1).split([64, 64, 8, 8, 8, 1], 1)
    x = features.repeat_interleave(classes, 0).flatten(0, 1)[None]
    ones, groups = [1] * dims, cases * classes
    x = convolve(x, w1.reshape(-1, 8, *ones), b1.flatten(), groups=groups).relu()
    x = convolve(x, w2.reshape(-1, 8, *ones), b2.flatten(), groups=groups).relu()
    x = convolve(x, w3.reshape(-1, 8, *ones), b3.flatten(), groups=groups)
    torch.testing.assert_close(written(theta, features), x.view(cases, classes, *features.shape[2:]))


def told(model: MulModSeg, *names: str) -> list[Tensor]:
    """Logits of one and the same image as each of `names`."""
    image = normal(2, 1, 6, 5)
    return [model._of_one(name, image)["tumour"] for name in names]


def test_the_same_image_is_another_when_the_text_says_so() -> None:
    model = build_model(RECIPE)
    assert isinstance(model, MulModSeg)
    first, second = told(model, "flair", "t1")
    assert not torch.allclose(first, second)
    assert not torch.allclose(first[:, 0], first[:, 1])  # and so are its classes


def test_the_mutant_that_forgets_the_modality_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "prompt", lambda modality, head, number: prompt("scan", head, number))
    model = build_model(RECIPE)
    assert isinstance(model, MulModSeg)
    assert torch.equal(*told(model, "flair", "t1"))


def test_logits_are_the_mean_over_what_a_case_has() -> None:
    model = build_model(RECIPE)
    for subset in subsets(NAMES):
        batch = batch_for(RECIPE, presence(RECIPE, [subset] * 2))
        single = [model(batch.seeing(presence(RECIPE, [(name,)] * 2)))["tumour"] for name in subset]
        torch.testing.assert_close(model(batch)["tumour"], torch.stack(single).mean(0))


def test_all_is_shared_but_the_controller() -> None:
    model = build_model(RECIPE)
    owners = {model.group_of(name) for name, _ in model.named_parameters()}
    assert owners == {"shared", "head:tumour"}
