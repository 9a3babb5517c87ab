"""Recipes: the text and the object are the same thing, and a mistake is named by its key."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import RecipeError
from protocol.plain import DEEPEST, MOST_BYTES, guard_text
from protocol.recipe import (
    Evaluation,
    Head,
    Modality,
    Part,
    Privacy,
    Recipe,
    Roster,
    Share,
    Training,
    build,
    dump_recipe,
    load_recipe,
    parse_cached,
    recipe_hash,
)
from protocol.typed import one_of

TEXT = """
name: demo
modalities: {flair: {}, table: {kind: table, features: 3}}
heads: {tumour: {kind: segmentation}}
data: slices
model: {name: unet, channels: [8, 16]}
strategy: fedavg
"""


# -- The text and the object -------------------------------------------------------------------


def _is_data(text: str) -> bool:
    try:
        guard_text(text, "x")
        text.encode()
    except (RecipeError, UnicodeEncodeError):
        return False
    return True


words = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
texts = st.one_of(
    st.text(max_size=12), st.sampled_from(["null", "1_0", "yes", "1e3", "0x1", "~x", ""])
).filter(_is_data)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_subnormal=False)
inside = st.floats(0, 1, exclude_min=True, exclude_max=True)
counts = st.integers(1, 2**63 - 1)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
parts = st.builds(Part, words, st.dictionaries(texts.filter(lambda key: key != "name"), values, max_size=3))
modalities = st.builds(Modality, st.just("image"), st.integers(0, 9)) | st.builds(
    Modality, st.just("table"), counts
)
heads = st.builds(
    Head, st.sampled_from(["segmentation", "classification", "survival"]), counts, parts, positive
)
below_one = st.floats(0, 1, exclude_max=True)
trainings = st.builds(
    Training,
    epochs=counts,
    steps=st.none() | counts,
    batch=counts,
    optimizer=st.sampled_from(["sgd", "adam", "adamw"]),
    rate=positive,
    momentum=below_one,
    weight_decay=st.just(0.0) | positive,
    modality_dropout=below_one,
    flips=st.booleans(),
    frozen=st.sets(st.sampled_from(["head", "modality"])).map(sorted).map(tuple),
)
privacies = st.builds(
    Privacy,
    epsilon=st.none() | positive,
    delta=st.none() | inside,
    noise_multiplier=st.none() | positive,
    clip_norm=positive,
    sampling_rate=st.none() | inside,
    mode=st.sampled_from(["auto", "hooks", "functorch", "ew"]),
    clipping=st.sampled_from(["flat", "per_group"]),
    mechanism=st.just("sgd"),
    bands=counts,
)
rosters = st.builds(Roster, inside, counts, positive, st.lists(texts, max_size=3).map(tuple))
recipes = st.builds(
    Recipe,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True),
    modalities=st.dictionaries(words, modalities, min_size=1, max_size=3),
    heads=st.dictionaries(words, heads, min_size=1, max_size=3),
    data=parts,
    model=parts,
    strategy=parts,
    seed=st.integers(0, 2**63 - 1),
    rounds=counts,
    training=trainings,
    privacy=privacies,
    roster=rosters,
    evaluation=st.builds(Evaluation, every=counts, select=st.just(""), subsets=st.booleans()),
)


@settings(max_examples=30)  # OmegaConf takes 0.1 s for each
@given(recipes)
def test_loading_what_was_dumped_gives_the_same_recipe(recipe: Recipe) -> None:
    text = dump_recipe(recipe)

    again = load_recipe(text)

    assert again == recipe
    assert dump_recipe(again) == text
    assert list(again.modalities) == list(recipe.modalities)


@given(st.text(max_size=60), st.integers(0, len(TEXT)), st.integers(0, 20))
def test_any_damage_is_a_recipe_or_a_recipe_error(inserted: str, place: int, gone: int) -> None:
    damaged = TEXT[:place] + inserted + TEXT[place + gone :]

    with suppress(RecipeError):
        recipe = load_recipe(damaged)
        assert load_recipe(dump_recipe(recipe)) == recipe


@given(
    st.sampled_from(["rounds", "data.x", "model.channels", "privacy.epsilon", "name"]), st.text(max_size=30)
)
def test_any_override_is_a_recipe_or_a_recipe_error(key: str, text: str) -> None:
    with suppress(RecipeError):
        recipe = load_recipe(TEXT, [f"{key}={text}"])
        assert load_recipe(dump_recipe(recipe)) == recipe


def test_every_field_is_in_the_canonical_text_in_the_schema_s_order() -> None:
    """Sites see defaults as they were when the run began, not as their own version has them."""
    plain: Any = yaml.safe_load(dump_recipe(load_recipe(TEXT)))

    assert list(plain) == [each.name for each in fields(Recipe) if each.name != "stages"]
    for section in (Training(), Privacy(), Roster(), Evaluation()):
        written = plain[type(section).__name__.lower()]
        assert list(written.items()) == [(key, _listed(value)) for key, value in vars(section).items()]


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_the_hash_is_that_of_the_experiment_not_of_its_spelling() -> None:
    spelled = TEXT.replace("strategy: fedavg", "strategy: {name: fedavg}\nrounds: 10\n# the default")

    assert recipe_hash(load_recipe(spelled)) == recipe_hash(load_recipe(TEXT))
    assert recipe_hash(load_recipe(TEXT, ["seed=1"])) != recipe_hash(load_recipe(TEXT))


def test_a_recipe_is_frozen_to_the_bottom() -> None:
    recipe = load_recipe(TEXT, ["data={name: x, deep: {list: [1]}}"])

    with pytest.raises(FrozenInstanceError):
        recipe.rounds = 3  # pyright: ignore[reportAttributeAccessIssue]
    for mapping in (recipe.modalities, recipe.heads, recipe.data.options, recipe.data.options["deep"]):
        with pytest.raises(TypeError):
            mapping["x"] = 1
    assert recipe.data.options["deep"]["list"] == (1,)


def test_one_text_is_parsed_once() -> None:
    text = dump_recipe(load_recipe(TEXT))

    assert parse_cached(text) is parse_cached(text)


def test_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT)

    assert load_recipe(path) == load_recipe(TEXT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read this recipe: No such file"),
        (b"name: \xff", "not UTF-8 text: invalid start byte at byte 6"),
        (b"#" * (MOST_BYTES + 10), "longer than 256 KiB"),
        (b"- 1", "expected a mapping of keys such as 'name' and 'model', found a list"),
        (b"a: 1\na: 2", "found duplicate key a"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(RecipeError) as caught:
        load_recipe(path)

    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))


# -- Overrides ---------------------------------------------------------------------------------


def test_overrides_apply_in_order() -> None:
    recipe = load_recipe(TEXT, ["rounds=3", "rounds=5", "privacy.epsilon=8", "roster.train=[a, b]"])

    assert (recipe.rounds, recipe.privacy.epsilon, recipe.roster.train) == (5, 8.0, ("a", "b"))


def test_a_part_chosen_by_name_drops_the_former_one_s_options() -> None:
    recipe = load_recipe(TEXT, ["strategy=fedprox", "strategy.mu=0.01", "model=linear"])

    assert recipe.strategy == Part("fedprox", {"mu": 0.01})
    assert recipe.model == Part("linear")


def test_an_override_reaches_into_what_is_there_and_makes_what_is_not() -> None:
    recipe = load_recipe(TEXT, ["modalities.t1.kind=image", "heads.tumour.weight=2", "model.depth=3"])

    assert list(recipe.modalities) == ["flair", "table", "t1"]
    assert recipe.heads["tumour"].weight == 2.0
    assert recipe.model.options == {"channels": (8, 16), "depth": 3}


OVERRIDES = [
    ("rounds", "override 'rounds': expected key=value, as in privacy.epsilon=8"),
    ("=3", "override '=3': expected key=value"),
    ("a..b=3", "override 'a..b=3': expected key=value"),
    ("roster.train[0]=3", "override 'roster.train[0]=3': expected key=value"),
    ("round=3", "round: no such key; the nearest is 'rounds'"),
    ("epsilon=3", "epsilon: no such key here; the nearest is 'privacy.epsilon'"),
    ("privacy.epsilom=3", "privacy.epsilom: no such key; the nearest is 'privacy.epsilon'"),
    ("rounds=0", "rounds: expected a whole number >= 1, found 0"),
    ("rounds=ten", "rounds: expected a whole number, found 'ten'"),
    ("privacy.epsilon=-1", "privacy.epsilon: expected a number > 0, found -1"),
    ("privacy.clipping=group", "privacy.clipping: expected"),
    ("privacy.delta=1", "privacy.delta: expected a number in (0, 1), found 1"),
    ("training.momentum=1", "training.momentum: expected a number in [0, 1), found 1"),
    ("training.weight_decay=-1", "training.weight_decay: expected a number >= 0, found -1"),
    ("training.frozen=[private]", "training.frozen[0]: expected one of shared, modality, head"),
    ("roster.fraction=0", "roster.fraction: expected a number in (0, 1], found 0"),
    ("seed=-1", "seed: expected a whole number >= 0, found -1"),
    ("training.optimizer=sdg", "expected one of sgd, adam, adamw, found 'sdg'; the nearest is 'sgd'"),
    ("name=a b", "name: expected text of at most 64 letters, digits, - and _, found 'a b'"),
    ("modalities={}", "modalities: expected a mapping with at least one entry, found an empty mapping"),
    (
        "modalities.T1={}",
        "modalities.T1: expected text of a-z, 0-9 and _, starting with a letter, found 'T1'",
    ),
    ("modalities.table.features=0", "modalities.table.features: a table needs its width"),
    ("strategy=[1]", "strategy: expected a name, or a mapping with 'name', found a list without"),
    ("strategy={mu: 1}", "strategy: expected a name, or a mapping with 'name', found a mapping without"),
    ("strategy=Fed Avg", "strategy.name: expected text of a-z"),
    ("evaluation.select=tumor/dice", "evaluation.select: no such head 'tumor'; the nearest is 'tumour'"),
    ("evaluation.select=tumour", "evaluation.select: expected 'head/metric', as in 'tumour/dice'"),
    ("evaluation.select=tumour/", "evaluation.select: expected 'head/metric', as in 'tumour/dice'"),
    ("seed=${oc.env:HOME}", "seed: found '${oc.env:HOME}'; interpolation"),
    ("data.folder=/etc", "data.folder: found '/etc'; a path on some machine"),
    ("data.x=!!python/name:os.system", "data.x, line 1: tag"),
    ("data.x=1\nrounds: 2", "data.x: not readable as YAML"),
    ("data.x=" + "9" * 5000, "data.x: "),
    ("data.x=0x" + "f" * 5000, "data.x: expected a whole number that fits"),
    ("data.x={1: 2}", "data.x: expected a key in words, found 1; quote it"),
    (f"data.{'a.' * 5000}b=1", "nested more than 12 deep"),
]


@pytest.mark.parametrize(("override", "message"), OVERRIDES, ids=[override[:30] for override, _ in OVERRIDES])
def test_a_wrong_override_is_named(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(TEXT, [override])

    assert message in str(caught.value)
    assert str(caught.value).startswith((override.partition("=")[0], "override"))


def test_the_deepest_override_still_loads_at_the_sites() -> None:
    """A recipe that one side accepts, the other accepts: both read the canonical text."""
    nested = "1"
    for _ in range(DEEPEST - 2):
        nested = f"[{nested}]"

    recipe = load_recipe(TEXT, [f"data.x={nested}"])

    assert load_recipe(dump_recipe(recipe)) == recipe
    with pytest.raises(RecipeError, match="nested more than"):
        load_recipe(TEXT, [f"data.x=[{nested}]"])


def test_a_selected_metric_of_a_known_head_is_accepted() -> None:
    assert load_recipe(TEXT, ["evaluation.select=tumour/dice"]).evaluation.select == "tumour/dice"


# -- Parts and catalogues ----------------------------------------------------------------------


def _fedprox(
    base: str = "", *, mu: Share, kind: Annotated[str, one_of("a", "b")] = "a", loose: Any = None
) -> Any:
    if mu > 0.5:
        raise ValueError("mu is above a half")
    if kind == "b":
        raise ValueError("this cannot be")
    return base, mu, kind, loose


STRATEGIES = {"fedprox": _fedprox, "fedavg": lambda: "averaging"}


def test_build_calls_what_the_part_names() -> None:
    assert build(STRATEGIES, Part("fedavg"), "strategy") == "averaging"
    assert build(STRATEGIES, Part("fedprox", {"mu": 0.1, "loose": [1]}), "strategy", base="given") == (
        "given",
        0.1,
        "a",
        (1,),
    )


PARTS = [
    (Part("fedpox"), "strategy: no such strategy 'fedpox'; the nearest is 'fedprox'"),
    (Part("fedavg", {"mu": 1}), "strategy.mu: no such key; there are none"),
    (Part("fedprox", {"mus": 1}), "strategy.mus: no such key; the nearest is 'strategy.mu'"),
    (Part("fedprox", {"base": 1}), "strategy.base: no such key; there are: mu, kind, loose"),
    (Part("fedprox"), "strategy.mu: 'fedprox' needs this option"),
    (Part("fedprox", {"mu": "x"}), "strategy.mu: expected a number, found 'x'"),
    (Part("fedprox", {"mu": 2}), "strategy.mu: expected a number in (0, 1], found 2"),
    (Part("fedprox", {"mu": 0.1, "kind": "c"}), "strategy.kind: expected one of a, b, found 'c'"),
    (Part("fedprox", {"mu": 0.9}), "strategy.mu: is above a half"),
    (Part("fedprox", {"mu": 0.1, "kind": "b"}), "strategy: this cannot be"),
]


@pytest.mark.parametrize(("part", "message"), PARTS)
def test_build_names_what_is_wrong(part: Part, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build(STRATEGIES, part, "strategy")

    assert str(caught.value) == message


def test_load_checks_the_parts_whose_catalogue_it_is_given() -> None:
    catalogues: Mapping[str, Any] = {
        "strategy": STRATEGIES,
        "objective": {"dice": lambda *, smooth=1.0: smooth},
    }

    load_recipe(TEXT, ["heads.tumour.objective=dice"], catalogues)
    with pytest.raises(
        RecipeError, match=r"^heads\.tumour\.objective: no such objective 'dice_ce'; the nearest is"
    ):
        load_recipe(TEXT, [], catalogues)
    with pytest.raises(RecipeError, match=r"^strategy: no such strategy 'none'"):
        load_recipe(TEXT, ["strategy=none"], catalogues)
    load_recipe(TEXT, ["strategy=none"])


def test_a_part_in_its_short_form_is_the_same_part() -> None:
    assert (
        Part.from_plain("x", "data")
        == Part.from_plain({"name": "x"}, "data")
        == Part("x", MappingProxyType({}))
    )


SECURE = ["strategy=fedavg", "secure.enabled=true"]
SPLIT = [
    *SECURE,
    "secure.noise_over=2",
    "privacy.epsilon=8",
    "privacy.noise_multiplier=1",
    "privacy.sampling_rate=0.1",
    "training.steps=1",
]


@pytest.mark.parametrize("weights", ["uniform", "zero_fill"])
def test_weights_that_need_single_updates_are_refused_where_a_sum_hides_them(weights: str) -> None:
    with pytest.raises(RecipeError, match=r"^strategy\.weights: only 'count'"):
        load_recipe(TEXT, [*SECURE, f"strategy.weights={weights}"])
    load_recipe(TEXT, ["strategy=fedavg", f"strategy.weights={weights}"])


def test_noise_on_all_that_travels_and_frozen_groups_exclude_each_other() -> None:
    frozen = "training.frozen=[modality]"
    assert load_recipe(TEXT, [frozen, "strategy=fedavg"]).training.frozen == ("modality",)
    with pytest.raises(RecipeError, match=r"^training\.frozen: the noise of 'dp_fedavg'"):
        load_recipe(TEXT, [frozen, "strategy=dp_fedavg"])


SPLIT_WRONGLY = [
    ("secure.enabled=false", "secure.noise_over: splits the noise of a sum over sites"),
    ("secure.noise_over=3", "secure.noise_over: each site sees the model and knows its own share; raise"),
    ("secure.noise_over=1", "secure.noise_over: expected a whole number in 2 to 100, found 1"),
    ("privacy.epsilon=null", "privacy.epsilon: all sites must split one noise"),
    ("privacy.noise_multiplier=null", "privacy.noise_multiplier: all sites must split one noise"),
    ("privacy.sampling_rate=null", "privacy.sampling_rate: all sites must split one noise"),
    ("privacy.mechanism=ftrl", "privacy.mechanism: correlated noise is each site's own"),
    ("training.steps=null", "training.steps: noise in each of several local steps is not noise on a sum"),
    ("training.steps=2", "training.steps: noise in each of several local steps is not noise on a sum"),
    ("training.optimizer=adam", "training.optimizer: with secure.noise_over sites sum gradients"),
    ("training.momentum=0.9", "training.optimizer: with secure.noise_over sites sum gradients"),
    ("training.weight_decay=0.1", "training.optimizer: with secure.noise_over sites sum gradients"),
    ("training.frozen=[modality]", "training.frozen: secure.noise_over takes a site's whole gradient"),
    ("strategy=fedprox", "strategy: with secure.noise_over sites sum gradients"),
]


@pytest.mark.parametrize(("override", "message"), SPLIT_WRONGLY)
def test_noise_is_split_only_where_the_sum_is_one_gaussian_mechanism(override: str, message: str) -> None:
    assert load_recipe(TEXT, SPLIT).secure.noise_over == 2
    with pytest.raises(RecipeError) as caught:
        load_recipe(TEXT, [*SPLIT, override])

    assert str(caught.value).startswith(message)
