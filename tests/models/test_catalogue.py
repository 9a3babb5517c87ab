"""Building what a recipe names: always the same, and only what fits."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from models import catalogue
from models.base import MultiModal
from models.catalogue import build_model, build_objectives
from protocol.errors import PrivacyError, RecipeError
from protocol.recipe import Head, Modality, Part, Privacy, Recipe
from tests.models.cases import (
    ALL,
    IMAGES_AND_TABLE,
    OUTLINING,
    SEGMENTING,
    TABLES,
    TABULAR,
    TUMOUR,
    VECTORIAL,
    recipe_for,
)

IMAGE = {"ct": Modality()}


@pytest.mark.parametrize("name", ALL)
def test_one_seed_gives_one_model_whatever_was_drawn_before(name: str) -> None:
    first = build_model(recipe_for(name)).state_dict()
    torch.rand(7)
    again, other = (
        build_model(recipe_for(name)).state_dict(),
        build_model(recipe_for(name, seed=2)).state_dict(),
    )
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not all(torch.equal(value, other[key]) for key, value in first.items())


def test_building_leaves_the_global_randomness_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build_model(recipe_for("parallel_unet"))
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    ("features", "kind", "objective"), [(13, "classification", "bce"), (39, "survival", "cox")]
)
def test_table_linear_starts_as_flambys_baseline(features: int, kind: str, objective: str) -> None:
    table, head = {"clinical": Modality("table", features)}, {"y": Head(kind, 1, Part(objective))}
    recipe = Recipe("r", table, head, Part("d"), Part("table_linear"), seed=42)
    torch.manual_seed(42)
    baseline = nn.Linear(features, 1)
    built = dict(build_model(recipe).named_parameters())
    assert list(built) == ["heads.head:y.weight", "heads.head:y.bias"]
    assert torch.equal(built["heads.head:y.weight"], baseline.weight)
    assert torch.equal(built["heads.head:y.bias"], baseline.bias)


@pytest.mark.parametrize(
    ("name", "modalities", "message"),
    [
        (name, TABLES, rf"modalities: '{name}' needs an image")
        for name in (*SEGMENTING, *OUTLINING, *VECTORIAL)
    ]
    + [
        (name, IMAGES_AND_TABLE, r"modalities\.flair\.kind: .* tables only")
        for name in ("table_linear", "table_mlp")
    ]
    + [(name, IMAGES_AND_TABLE, r"modalities\.ehr\.kind: .* images only") for name in OUTLINING],
)
def test_a_model_that_cannot_read_the_modalities_is_refused(
    name: str, modalities: dict, message: str
) -> None:
    recipe = replace(recipe_for(name), modalities=modalities)
    with pytest.raises(RecipeError, match=message):
        build_model(recipe)


@pytest.mark.parametrize("name", [*TABULAR, *VECTORIAL])
def test_a_model_that_cannot_segment_is_refused(name: str) -> None:
    recipe = replace(recipe_for(name), heads=TUMOUR)
    with pytest.raises(RecipeError, match=r"heads\.tumour\.kind: .* cannot segment"):
        build_model(recipe)


@pytest.mark.parametrize("name", OUTLINING)
def test_a_model_that_only_segments_is_refused_another_head(name: str) -> None:
    recipe = replace(recipe_for(name), heads={"grade": Head("classification", 1, Part("bce"))})
    with pytest.raises(RecipeError, match=r"heads\.grade\.kind: .* segments and no more; use parallel_unet"):
        build_model(recipe)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": ()}, r"model\.channels: .*one entry or more"),
        ({"channels": (8, 1)}, r"model\.channels: .*each >= 2"),
        ({"channels": "wide"}, r"model\.channels: expected a list"),
        ({"dims": 4}, r"model\.dims: expected .*2 or 3"),
        ({"groups": 0}, r"model\.groups: expected .*>= 1"),
        ({"chanels": (4,)}, r"model\.chanels: .*nearest is 'model\.channels'"),
    ],
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_model(replace(recipe_for("parallel_unet"), model=Part("parallel_unet", options)))


class Buffered(MultiModal):
    def __init__(self) -> None:
        super().__init__(IMAGE)
        self.norm = nn.BatchNorm2d(2)

    def predict(self, seen: object) -> dict:
        return {}


def test_a_model_with_buffers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalogue.MODELS, "buffered", lambda modalities, heads: Buffered())
    with pytest.raises(RecipeError, match=r"model: 'buffered' keeps state outside .*norm\.running_mean"):
        build_model(replace(recipe_for("parallel_unet"), model=Part("buffered")))


OVERLAPS = {"dice", "dice_ce", "dice_holder", "dice_pseudo_holder", "structure"}
FITTING = {
    ("segmentation", 1): OVERLAPS | {"bce", "focal"},
    ("segmentation", 3): OVERLAPS | {"bce", "focal"},
    ("classification", 1): {"bce", "focal"},
    ("classification", 3): {"ce", "focal"},
    ("survival", 1): {"cox", "exponential"},
    ("pretext", 1): {"own", "contrast", "dino", "koleo"},
}


@pytest.mark.parametrize(("kind", "classes"), list(FITTING))
@pytest.mark.parametrize("name", list(catalogue.OBJECTIVES))
def test_an_objective_trains_the_heads_that_it_fits(kind: str, classes: int, name: str) -> None:
    recipe = replace(recipe_for("parallel_unet"), heads={"h": Head(kind, classes, Part(name))})
    if name in FITTING[kind, classes]:
        assert build_objectives(recipe).keys() == {"h"}
        return
    with pytest.raises(
        RecipeError, match=rf"heads\.h\.objective: '{name}' does not train a {kind}"
    ) as refused:
        build_objectives(recipe)
    assert any(fitting in str(refused.value) for fitting in FITTING[kind, classes])


@pytest.mark.parametrize("name", list(catalogue.OBJECTIVES))
def test_an_objective_that_couples_cases_is_not_built_for_private_training(name: str) -> None:
    """Before any site reserves a step that it could not take."""
    (kind, classes), *_ = (key for key, fitting in FITTING.items() if name in fitting)
    private = replace(
        recipe_for("parallel_unet"),
        heads={"h": Head(kind, classes, Part(name))},
        privacy=Privacy(epsilon=8.0),
    )
    if catalogue.OBJECTIVES[name]().coupling == "case":
        assert build_objectives(private).keys() == {"h"}
        return
    with pytest.raises(PrivacyError, match=rf"heads\.h\.objective: '{name}' couples .*; (use|leave)"):
        build_objectives(private)
