"""A1: a case is rebuilt from an undefended step, and from a private one no better than by guessing."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from protocol.recipe import Head, Modality, Part, Recipe, load_recipe
from sim.attacks.inversion import measure, psnr
from tests.models.cases import recipe_for
from tests.sim.attacks.rigged import TABLE, rig

FLAT = replace(
    TABLE, modalities={"ehr": Modality("table", 64)}, model=Part("table_mlp", {"hidden": (32, 16)})
)
"""A scan of 8 x 8 pixels as a table; what a first linear layer sees, its gradient tells."""
IMAGES = {name: Modality() for name in ("flair", "t1")}
OUTLINE = {"tumour": Head("segmentation", 1, Part("dice_ce"))}
ON_IMAGES = [
    Recipe("scans", IMAGES, OUTLINE, Part("none"), Part(name, {"channels": (8, 16, 32, 64)}))
    for name in ("early_fusion_unet", "parallel_unet")
]
BOTH = load_recipe(Path(__file__).parents[3] / "recipes" / "lgg_multitask.yaml")
RECIPES = [
    TABLE,
    FLAT,
    *(pytest.param(recipe, marks=pytest.mark.slow) for recipe in (*ON_IMAGES, BOTH)),
]


def named(recipe: Recipe) -> str:
    return f"{recipe.name}-{recipe.model.name}"


@pytest.mark.parametrize("recipe", RECIPES, ids=named)
def test_a_step_without_privacy_shows_the_patient(recipe: Recipe) -> None:
    found = measure(recipe, None, 0)
    assert found.psnr >= 30
    assert found.mean_psnr < 25


@pytest.mark.parametrize("recipe", RECIPES, ids=named)
def test_a_private_step_shows_no_more_than_the_mean_scan(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig(monkeypatch, 0)
    found = measure(recipe, 1.0, 0, starts=2)
    assert found.psnr <= found.mean_psnr + 1


def test_the_mutant_that_clips_and_adds_no_noise_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    rig(monkeypatch, 0)
    found = measure(TABLE, 0.0, 0)
    assert found.psnr > found.mean_psnr + 1


def test_a_pretext_with_a_teacher_is_attacked_too() -> None:
    """Its chance is drawn and its teacher asked as in the step itself, in double precision."""
    recipe = replace(recipe_for("mm_dino"), modalities={"flair": Modality()})
    assert math.isfinite(measure(recipe, 1.0, 0, starts=1, steps=1).psnr)


def test_decibels_are_of_the_range() -> None:
    truth = {"a": torch.tensor([[0.0, 4.0]])}
    assert psnr({"a": torch.tensor([[0.4, 4.4]])}, truth) == pytest.approx(20.0, abs=1e-4)
    assert psnr(truth, truth) == pytest.approx(120.0)
    assert math.isfinite(psnr({"a": torch.ones(1, 2)}, {"a": torch.ones(1, 2)}))
