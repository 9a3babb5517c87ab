"""Stages: rounds are shared out over recipes, and whoever has none notices nothing."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import RecipeError
from protocol.recipe import EarlierStage, Part, Privacy, Recipe, dump_recipe, load_recipe, recipe_hash
from protocol.stages import stage_at, stage_in, stages_of

RECIPES = Path(__file__).parent.parent.parent / "recipes"
TEXT = """
name: demo
modalities: {flair: {}, t1: {}}
heads: {tumour: {kind: segmentation}}
data: slices
model: {name: unet, channels: [8, 16]}
rounds: 10
training: {batch: 4}
evaluation: {select: tumour/dice}
stages:
  - {name: pretrain, rounds: 20, heads: {scan: {kind: pretext, objective: own}}, training: {batch: 32}}
  - {name: warm, rounds: 5, strategy: {name: fedprox, mu: 0.1}}
"""
SECURE = TEXT.replace("fedprox, mu: 0.1", "median") + "secure: {enabled: true}"
PRIVATE = ["privacy.epsilon=8"]


def staged(*epsilons: float | None) -> str:
    """TEXT with budgets of its two earlier stages."""
    plain = yaml.safe_load(TEXT)
    for stage, epsilon in zip(plain["stages"], epsilons, strict=True):
        stage["epsilon"] = epsilon
    return yaml.safe_dump(plain)


@pytest.mark.parametrize("recipe", [load_recipe(RECIPES / f"{name}.yaml") for name in ("phantom", "heart4")])
def test_a_recipe_without_stages_has_the_text_that_it_had_before_there_were_any(recipe: Recipe) -> None:
    text = dump_recipe(recipe)

    assert list(yaml.safe_load(text)) == [each.name for each in fields(Recipe)][:-1]
    assert stages_of(recipe) == (stage_at(recipe, 1),)
    assert stage_in(text, 3) == (stage_at(recipe, 3), text)


def test_the_text_and_the_object_are_the_same_thing() -> None:
    recipe = load_recipe(TEXT)

    assert load_recipe(dump_recipe(recipe)) == recipe
    assert recipe_hash(recipe) != recipe_hash(replace(recipe, stages=()))


def test_a_stage_is_the_recipe_with_what_it_does_otherwise() -> None:
    recipe = load_recipe(TEXT)
    first, second, last = stages_of(recipe)

    assert [(each.first, each.last) for each in (first, second, last)] == [(1, 20), (21, 25), (26, 35)]
    assert recipe.all_rounds == 35
    assert (list(first.recipe.heads), first.recipe.training.batch) == (["scan"], 32)
    assert first.recipe.model == second.recipe.model == recipe.model
    assert second.recipe.strategy == Part("fedprox", {"mu": 0.1})
    assert second.recipe.heads == recipe.heads
    assert last.recipe == replace(recipe, stages=())
    assert [each.recipe.evaluation.select for each in (first, second, last)] == ["", "", "tumour/dice"]


@settings(max_examples=20)
@given(st.lists(st.integers(1, 9), max_size=4), st.integers(1, 9))
def test_every_round_belongs_to_one_stage(earlier: list[int], rounds: int) -> None:
    whole = replace(
        load_recipe(TEXT),
        rounds=rounds,
        stages=tuple(EarlierStage(f"s{place}", count) for place, count in enumerate(earlier)),
    )
    stages = stages_of(whole)

    assert sum(stage.recipe.rounds for stage in stages) == whole.all_rounds == stages[-1].last
    for number in range(1, whole.all_rounds + 1):
        (stage,) = (each for each in stages if each.first <= number <= each.last)
        assert stage_at(whole, number) == stage
    assert stage_at(whole, 0) == stages[0]


def test_a_stage_s_own_text_is_a_recipe_without_stages() -> None:
    text = dump_recipe(load_recipe(TEXT))
    stage, own = stage_in(text, 21)

    assert load_recipe(own) == stage.recipe
    assert stage.name == "warm"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT.replace("name: warm", "name: pretrain"), r"stages\[1\]\.name: there are two stages 'pretrain'"),
        (TEXT.replace("rounds: 5,", "rounds: 0,"), r"stages\[1\]\.rounds"),
        (TEXT.replace("rounds: 5, strategy", "rounds: 5, strateggy"), r"nearest is 'stages\[1\]\.strategy'"),
        (TEXT.replace("{scan: {kind: pretext, objective: own}}", "{}"), r"stages\[0\]\.heads"),
        (
            TEXT.replace("fedprox, mu: 0.1", "median") + "secure: {enabled: true}",
            r"stages\[1\]: strategy: 'median'",
        ),
        (staged(4.0, None), r"stages\[0\]\.epsilon: is a part of a budget; give privacy\.epsilon"),
    ],
)
def test_a_mistake_is_named_by_its_key(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(text)


@pytest.mark.parametrize("epsilons", [(None, None), (4.0, None), (6.0, 4.0), (4.0, 8.0), (4.0, 4.0)])
def test_a_budget_must_leave_something_for_every_stage(epsilons: tuple[float | None, ...]) -> None:
    with pytest.raises(RecipeError, match=r"stages\[\d\]\.epsilon: expected a number below"):
        load_recipe(staged(*epsilons), PRIVATE)


def test_a_stage_has_its_share_of_the_budget() -> None:
    recipe = load_recipe(staged(2.0, 4.0), PRIVATE)

    assert [stage.recipe.privacy for stage in stages_of(recipe)] == [
        Privacy(epsilon=epsilon) for epsilon in (2.0, 4.0, 8.0)
    ]


def test_correlated_noise_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"privacy\.mechanism"):
        load_recipe(staged(2.0, 4.0), [*PRIVATE, "privacy.mechanism=ftrl"])


def test_a_stage_s_parts_are_looked_up_too() -> None:
    catalogues = {"strategy": {"fedavg": lambda: None}}
    with pytest.raises(RecipeError, match=r"stages\[1\]\.strategy: no such strategy 'fedprox'"):
        load_recipe(TEXT, (), catalogues)


def test_an_override_changes_the_last_stage() -> None:
    recipe: Recipe = load_recipe(TEXT, ["rounds=3"])

    assert [stage.last for stage in stages_of(recipe)] == [20, 25, 28]
