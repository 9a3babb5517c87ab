"""The frozen description of a run: the same bytes at every site.

A recipe is data. It names its parts (`model`, `strategy`, `objective`, `data`) and gives
their options; the catalogues of the other rooms say which names and options exist. What
differs between machines (folders, devices, addresses) is a *setting* and is not here.

    load_recipe(path, ["rounds=20", "strategy=fedprox", "strategy.mu=0.01"])   YAML -> Recipe
    dump_recipe(recipe)                      Recipe -> the one text that stands for it
    load_recipe(dump_recipe(r)) == r         always
    build(STRATEGIES, recipe.strategy, "strategy")    Part -> the thing it names

OmegaConf reads and writes the YAML and the overrides; the annotations below are the
schema, ranges included, and `protocol.typed` holds a recipe against them.
"""

import hashlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from protocol.errors import RecipeError
from protocol.plain import MOST_BYTES, guard, join
from protocol.typed import Rule, fit, found, freeze, hints_of, one_of, record, unknown

SIGNED_FOR = "recipe"
"""The purpose of a signature under a recipe's canonical text (`privacy.keys`)."""

_WORD = Rule(
    "of a-z, 0-9 and _, starting with a letter",
    lambda text: bool(re.fullmatch(r"[a-z][a-z0-9_]*", text)),
)
_TITLE = Rule(
    "of at most 64 letters, digits, - and _",
    lambda text: bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", text)),
)
_HEX = Rule("of 64 hexadecimal digits (a-f small)", lambda text: bool(re.fullmatch(r"[0-9a-f]{64}", text)))

Word = Annotated[str, _WORD]
Title = Annotated[str, _TITLE]
Hex = Annotated[str, _HEX]
Count = Annotated[int, Rule(">= 1", lambda value: value >= 1)]
Natural = Annotated[int, Rule(">= 0", lambda value: value >= 0)]
Positive = Annotated[float, Rule("> 0", lambda value: value > 0)]
NotNegative = Annotated[float, Rule(">= 0", lambda value: value >= 0)]
Share = Annotated[float, Rule("in (0, 1]", lambda value: 0 < value <= 1)]
BelowOne = Annotated[float, Rule("in [0, 1)", lambda value: 0 <= value < 1)]
AtLeastHalf = Annotated[float, Rule("in [0.5, 1)", lambda value: 2 * value >= 1 and value < 1)]
HIDING = 3  # of a sum of two, either site knows the other's part
Hiding = Annotated[int, Rule(f">= {HIDING}", lambda value: value >= HIDING)]
Several = Annotated[int, Rule("in 2 to 100", lambda value: value in range(2, 101))]
UpToMillion = Annotated[int, Rule("in 1 to 1000000", lambda value: 1 <= value <= 10**6)]
Inside = Annotated[float, Rule("in (0, 1)", lambda value: 0 < value < 1)]
_NOT_EMPTY = Rule("with at least one entry", lambda value: len(value) > 0)

PLAIN_SUMS = ("fedadagrad", "fedadam", "fedavg", "fedavgm", "fedyogi")
"""Strategies of which the sites know nothing: the server steps along the count-weighted owner mean."""
WHOLE_SITES = "dp_fedavg"
"""The strategy whose noise is the server's."""
TEACHING = "modality_distillation"
"""The strategy whose sites learn from what a step does not show."""
SUMMED = tuple(sorted((*PLAIN_SUMS, "ditto", "fedbn", "fedper", "fedprox", TEACHING, "t3_merge")))
"""Strategies whose server needs that mean and no single update."""

Catalogue = Mapping[str, Callable[..., Any]]
"""Name -> builder; the builder's keyword-only parameters are the part's options."""


@dataclass(frozen=True)
class Part:
    """A choice by name with its options: `strategy: {name: fedprox, mu: 0.01}`.

    `strategy: fedprox` is short for `strategy: {name: fedprox}`. Options are read-only:
    lists arrive as tuples, mappings in the order of their keys.
    """

    name: Word
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @staticmethod
    def from_plain(value: Any, path: str) -> "Part":
        """Read the flat form; RecipeError where it is not one."""
        flat = {"name": value} if isinstance(value, str) else freeze(value, path)
        if not isinstance(flat, Mapping) or "name" not in flat:
            raise RecipeError(
                f"{path}: expected a name, or a mapping with 'name', found {found(value)} without"
            )
        options = {key: flat[key] for key in flat if key != "name"}
        return Part(fit(flat["name"], Word, join(path, "name")), MappingProxyType(options))


@dataclass(frozen=True)
class Modality:
    """One kind of input. `features` is the width of a table, unused for an image."""

    kind: Annotated[str, one_of("image", "table")] = "image"
    features: Natural = 0


@dataclass(frozen=True)
class Head:
    """One label that the model predicts, and how it is learned.

    `classes`: channels of a segmentation (independent sigmoids), classes of a
    classification (1 = binary, one logit), ignored for survival (one risk score).
    A `pretext` needs no label: what the model learns is to know its own input, and every case has it.
    """

    kind: Annotated[str, one_of("segmentation", "classification", "survival", "pretext")]
    classes: Count = 1
    objective: Part = field(default_factory=lambda: Part("dice_ce"))
    weight: Positive = 1.0


@dataclass(frozen=True)
class Training:
    """The local loop of a round: `steps` optimiser steps, or else `epochs` passes.

    Groups of the kinds in `frozen` keep the values that they have when the stage begins: no step
    changes them, and no noise (`client.training.trained`).
    """

    epochs: Count = 1
    steps: Count | None = None
    batch: Count = 16
    optimizer: Annotated[str, one_of("sgd", "adam", "adamw")] = "sgd"
    rate: Positive = 0.01
    momentum: BelowOne = 0.0
    weight_decay: NotNegative = 0.0
    modality_dropout: BelowOne = 0.0  # chance to hide each present modality, never the last one
    flips: bool = False
    frozen: tuple[Annotated[str, one_of("shared", "modality", "head")], ...] = ()


@dataclass(frozen=True)
class Privacy:
    """Patient-level DP-SGD at every site; `epsilon: null` switches it off.

    `epsilon`, `delta`: the most that a patient of a site may have paid when the run is over,
    earlier runs in the same ledger included (delta null: 1/(10 n), n training patients).
    `noise_multiplier` null: the least that affords all rounds.
    `sampling_rate` null: batch / n.

    `clipping`: a patient's gradient is bounded as a whole, or each group's part of it by itself.
    `mechanism`: `sgd` draws patients by chance and gains from it; `ftrl` takes each patient once
    an epoch, with noise correlated over at most `bands` steps, and its `noise_multiplier` is an
    epoch's. `statistics_noise`: noise multiplier of the moments that tables are standardised by, a
    part of the budget; null leaves tables as their source scales them.
    """

    epsilon: Positive | None = None
    delta: Inside | None = None
    noise_multiplier: Positive | None = None
    clip_norm: Positive = 1.0
    sampling_rate: Share | None = None
    mode: Annotated[str, one_of("auto", "hooks", "functorch", "ew")] = "auto"
    clipping: Annotated[str, one_of("flat", "per_group")] = "flat"
    mechanism: Annotated[str, one_of("sgd", "ftrl")] = "sgd"
    bands: Count = 8
    statistics_noise: Positive | None = None


@dataclass(frozen=True)
class Secure:
    """Secure aggregation: the coordinator learns sums over sites and no single update.

    More than the share `threshold` of a round's roster must see the round to its end; a group
    travels when at least `fewest` sites contribute to it. Values of an update are clipped to
    +-`clip_value`, and `cases` is the most that one site may count: together they are the step
    of the integers that are summed (`privacy.secagg.fixed`).

    `noise_over` splits the noise of privacy: each site adds one of so many shares, and a sum of that many
    honest sites carries all of it (`privacy.split`). null: each site adds all of its own. With it `cases`
    are patients, and `clip_value` is not used.
    """

    enabled: bool = False
    threshold: AtLeastHalf = 2 / 3
    fewest: Hiding = HIDING
    clip_value: Positive = 1.0
    cases: UpToMillion = 10_000
    noise_over: Several | None = None


@dataclass(frozen=True)
class Roster:
    """Whom to ask: a share of the sites, at least `quorum` accepted, until `deadline_s`.

    `train` names the only sites that train (all evaluate); empty: everybody. In a simulation
    the name `pooled` there adds one site that holds all sites' training cases: the baseline
    of pooled data.
    """

    fraction: Share = 1.0
    quorum: Count = 1
    deadline_s: Positive = 3600.0
    train: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """`every` rounds on validation cases; `select` is the metric `head/name` of the best model."""

    every: Count = 1
    select: str = ""
    subsets: bool = True


@dataclass(frozen=True)
class EarlierStage:
    """What is trained before the recipe's own rounds; a key that is null is the recipe's.

    `epsilon`: the most that a patient may have paid when this stage is over; what the recipe
    allows beyond it is left for later stages. See `protocol.stages`.
    """

    name: Word
    rounds: Count
    heads: Annotated[Mapping[Word, Head], _NOT_EMPTY] | None = None
    model: Part | None = None
    strategy: Part | None = None
    training: Training | None = None
    epsilon: Positive | None = None

    def under(self, recipe: "Recipe") -> "Recipe":
        """Return the recipe of this stage of `recipe`, by itself.

        It selects no best model: that is one of the last stage.
        """
        keys = ("heads", "model", "strategy", "training")
        given = {key: value for key in keys if (value := getattr(self, key)) is not None}
        plain = replace(recipe, stages=(), rounds=self.rounds, **given)
        privacy = replace(recipe.privacy, epsilon=self.epsilon)
        return replace(plain, privacy=privacy, evaluation=replace(recipe.evaluation, select=""))


@dataclass(frozen=True)
class Recipe:
    """One experiment. The order of `modalities` is the order of `present`'s columns.

    `stages` come before the `rounds` that the recipe itself describes, in their order.
    """

    name: Title
    modalities: Annotated[Mapping[Word, Modality], _NOT_EMPTY]
    heads: Annotated[Mapping[Word, Head], _NOT_EMPTY]
    data: Part
    model: Part
    strategy: Part = field(default_factory=lambda: Part("fedavg"))
    seed: Natural = 42
    rounds: Count = 10
    training: Training = field(default_factory=Training)
    privacy: Privacy = field(default_factory=Privacy)
    secure: Secure = field(default_factory=Secure)
    roster: Roster = field(default_factory=Roster)
    evaluation: Evaluation = field(default_factory=Evaluation)
    stages: tuple[EarlierStage, ...] = ()

    @property
    def all_rounds(self) -> int:
        """Rounds of the whole run, those of the earlier stages included."""
        return sum(stage.rounds for stage in self.stages) + self.rounds


def load_recipe(
    source: Path | str,
    overrides: Sequence[str] = (),
    catalogues: Mapping[str, Catalogue] = MappingProxyType({}),
) -> Recipe:
    """Read a recipe from a file (`Path`) or from YAML text (`str`).

    `overrides` are applied in order: `privacy.epsilon=8`, `strategy=fedprox` (drops the
    former strategy's options), `strategy.mu=0.01`. With `catalogues` (keys `data`,
    `model`, `strategy`, `objective`) the parts' names and options are checked too.
    Raises RecipeError with the key's path, what was expected and the nearest valid name.
    """
    plain = read_plain(source, str(source) if isinstance(source, Path) else "recipe")
    for override in overrides:
        _override(plain, override)
    recipe: Recipe = record(plain, Recipe, "")
    _check_whole(recipe)
    check_parts(recipe, catalogues)
    return recipe


def read_plain(source: Path | str, where: str) -> dict[str, Any]:
    """Read a mapping of plain values from a YAML file (`Path`) or text (`str`), through the door.

    `where` names the text in a message. Raises RecipeError for anything but data.
    """
    return _parse(_text(source), where)


@lru_cache(maxsize=64)
def parse_cached(text: str) -> Recipe:
    """The recipe in canonical `text`, parsed once a process: a site gets the same text every round."""
    return load_recipe(text)


def dump_recipe(recipe: Recipe) -> str:
    """The canonical YAML text: every key, defaults included, always in the same order.

    `stages` stand in it only where there are some: a recipe without is the text it was before there
    were stages.
    """
    plain = _plain(recipe)
    if not recipe.stages:
        del plain["stages"]
    return OmegaConf.to_yaml(OmegaConf.create(plain))


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 of the canonical text: equal for equal experiments, on every machine."""
    return hashlib.sha256(dump_recipe(recipe).encode()).hexdigest()


def build(catalogue: Catalogue, part: Part, path: str, **given: Any) -> Any:
    """What `part` names: `catalogue[part.name](**given, **part.options)`.

    `path` is the part's key in the recipe. Raises RecipeError for a name or an option
    that does not exist, a wrong type, and a value that the builder refuses (ValueError).
    """
    options = check_part(catalogue, part, path)
    try:
        return catalogue[part.name](**given, **options)
    except ValueError as error:
        option, _, reason = str(error).partition(" ")
        known = option in options
        raise RecipeError(f"{join(path, option) if known else path}: {reason if known else error}") from error


def check_parts(recipe: Recipe, catalogues: Mapping[str, Catalogue]) -> None:
    """Check the names and options of a recipe's parts; RecipeError where one does not exist."""
    for kind, path, part in _parts(recipe):
        if kind in catalogues:
            check_part(catalogues[kind], part, path)


def check_part(catalogue: Catalogue, part: Part, path: str) -> dict[str, Any]:
    """The part's options as its builder's annotations want them; RecipeError otherwise."""
    if part.name not in catalogue:
        raise unknown(part.name, sorted(catalogue), path, what=path.rpartition(".")[2])
    known = _options_of(catalogue[part.name])
    for option in part.options:
        if option not in known:
            raise unknown(option, known, path)
    for option, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and option not in part.options:
            raise RecipeError(f"{join(path, option)}: '{part.name}' needs this option")
    hints = hints_of(catalogue[part.name])
    return {key: fit(value, hints.get(key, Any), join(path, key)) for key, value in part.options.items()}


def _options_of(builder: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(builder).parameters
    return {name: each for name, each in parameters.items() if each.kind is inspect.Parameter.KEYWORD_ONLY}


def _parts(recipe: Recipe) -> Iterator[tuple[str, str, Part]]:
    yield "data", "data", recipe.data
    yield "model", "model", recipe.model
    yield "strategy", "strategy", recipe.strategy
    yield from _objectives(recipe.heads, "heads")
    for place, stage in enumerate(recipe.stages):
        path = f"stages[{place}]"
        yield from ((k, f"{path}.{k}", p) for k, p in _given(model=stage.model, strategy=stage.strategy))
        yield from _objectives(stage.heads or {}, f"{path}.heads")


def _given(**parts: Part | None) -> Iterator[tuple[str, Part]]:
    yield from ((kind, part) for kind, part in parts.items() if part is not None)


def _objectives(heads: Mapping[str, Head], path: str) -> Iterator[tuple[str, str, Part]]:
    for name, head in heads.items():
        yield "objective", f"{path}.{name}.objective", head.objective


def _text(source: Path | str) -> str:
    if isinstance(source, str):
        return source
    try:
        with source.open("rb") as file:
            # One byte more than allowed, so that the door sees that it is too long.
            return file.read(MOST_BYTES + 1).decode()
    except OSError as error:
        raise RecipeError(f"{source}: cannot read this recipe: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{source}: not UTF-8 text: {error.reason} at byte {error.start}") from error


def _parse(text: str, where: str) -> dict[str, Any]:
    guard(text, where)
    try:
        # The door let no alias through, so nodes only count what was written.
        config = OmegaConf.create(text, max_yaml_expanded_nodes=MOST_BYTES)
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise RecipeError(f"{where}: {' '.join(str(error).split())}") from error
    plain: Any = OmegaConf.to_container(config, resolve=False)
    if not isinstance(plain, dict):
        raise RecipeError(f"{where}: expected a mapping of keys such as 'name' and 'model', found a list")
    return plain


_KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


def _override(plain: dict[str, Any], override: str) -> None:
    """Set one `key.path=value` in place."""
    key, equals, text = override.partition("=")
    if not equals or not _KEY.fullmatch(key):
        raise RecipeError(f"override {override[:60]!r}: expected key=value, as in privacy.epsilon=8")
    guard(text, key, key)
    *parents, last = key.split(".")
    here = plain
    for name in parents:
        below = here.get(name)
        # A part by its bare name may be given options: `strategy: fedprox`, then `strategy.mu=0.01`.
        here[name] = {"name": below} if isinstance(below, str) else below if isinstance(below, dict) else {}
        here = here[name]
    here[last] = _value(text, key)


def _value(text: str, key: str) -> Any:
    try:
        config = OmegaConf.from_dotlist([f"value={text}"])
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise RecipeError(f"{key}: {' '.join(str(error).split())}") from error
    plain = OmegaConf.to_container(config, resolve=False)
    return plain["value"] if isinstance(plain, dict) else plain


def _check_whole(recipe: Recipe) -> None:
    """What no single key can tell."""
    _check_summed(recipe)
    _check_split(recipe)
    if recipe.training.frozen and recipe.strategy.name == WHOLE_SITES:
        raise RecipeError(
            f"training.frozen: the noise of '{WHOLE_SITES}' is on all that travels; "
            "give [], or another strategy"
        )
    for name, modality in recipe.modalities.items():
        if modality.kind == "table" and modality.features < 1:
            raise RecipeError(f"modalities.{name}.features: a table needs its width, a whole number >= 1")
    if recipe.privacy.statistics_noise is not None and recipe.privacy.epsilon is None:
        raise RecipeError("privacy.statistics_noise: is part of a budget; give privacy.epsilon")
    if recipe.privacy.mechanism == "ftrl" and recipe.training.steps is not None:
        raise RecipeError(
            "training.steps: privacy.mechanism ftrl takes whole epochs; give training.epochs instead"
        )
    if recipe.strategy.name == TEACHING and not recipe.training.modality_dropout:
        raise RecipeError(
            f"training.modality_dropout: '{TEACHING}' teaches to do without what is hidden, and 0 hides "
            "nothing; give 0.5, or use strategy=fedavg"
        )
    _check_stages(recipe)
    head, slash, metric = recipe.evaluation.select.partition("/")
    if not recipe.evaluation.select:
        return
    if head not in recipe.heads:
        raise unknown(head, list(recipe.heads), "evaluation.select", what="head")
    if not slash or not metric:
        raise RecipeError(f"evaluation.select: expected 'head/metric', as in '{head}/dice', found {head!r}")


def _check_stages(recipe: Recipe) -> None:
    names = [stage.name for stage in recipe.stages]
    budgets = [*(stage.epsilon for stage in recipe.stages), recipe.privacy.epsilon]
    for place, (stage, after) in enumerate(zip(recipe.stages, budgets[1:], strict=True)):
        path = f"stages[{place}]"
        if stage.name in names[:place]:
            raise RecipeError(f"{path}.name: there are two stages '{stage.name}'; name each once")
        if recipe.privacy.epsilon is None:
            if stage.epsilon is not None:
                raise RecipeError(f"{path}.epsilon: is a part of a budget; give privacy.epsilon")
        elif stage.epsilon is None or after is None or stage.epsilon >= after:
            raise RecipeError(
                f"{path}.epsilon: expected a number below that of the stage after it ({found(after)}), "
                f"found {found(stage.epsilon)}: it is what a patient has paid when the stage is over"
            )
        try:
            _check_whole(stage.under(recipe))
        except RecipeError as error:
            raise RecipeError(f"{path}: {error}") from error
    if recipe.stages and recipe.privacy.epsilon is not None and recipe.privacy.mechanism == "ftrl":
        raise RecipeError("privacy.mechanism: the noise of ftrl runs through one stage only; use sgd")


def _check_summed(recipe: Recipe) -> None:
    """Refuse secure aggregation of a strategy that looks at single updates."""
    if not recipe.secure.enabled:
        return
    if recipe.strategy.name not in SUMMED:
        raise RecipeError(
            f"strategy: '{recipe.strategy.name}' needs each site's own update, which secure.enabled hides: "
            f"choose one of {', '.join(SUMMED)}, or set secure.enabled=false"
        )
    if recipe.strategy.options.get("weights", "count") != "count":
        raise RecipeError("strategy.weights: only 'count' can be summed while secure.enabled hides updates")


def _check_split(recipe: Recipe) -> None:
    """Refuse to split noise where the sum is not one Gaussian mechanism that all sites mean alike."""
    if recipe.secure.noise_over is not None:
        for holds, otherwise in _split_rules(recipe, recipe.secure.noise_over):
            if not holds:
                raise RecipeError(otherwise)


def _split_rules(recipe: Recipe, shares: int) -> Iterator[tuple[bool, str]]:
    """Yield (what must hold, what is wrong where it does not)."""
    secure, privacy, training, name = recipe.secure, recipe.privacy, recipe.training, recipe.strategy.name
    own_step = training.optimizer, training.momentum, training.weight_decay
    yield secure.enabled, "secure.noise_over: splits the noise of a sum over sites; give secure.enabled=true"
    known = "each site sees the model and knows its own share"
    yield shares < secure.fewest, f"secure.noise_over: {known}; raise secure.fewest above {shares}"
    for key in ("epsilon", "noise_multiplier", "sampling_rate"):
        given = getattr(privacy, key) is not None
        yield given, f"privacy.{key}: all sites must split one noise and draw patients alike; give it"
    yield privacy.mechanism == "sgd", "privacy.mechanism: correlated noise is each site's own; give sgd"
    several = "noise in each of several local steps is not noise on a sum"
    yield training.steps == 1, f"training.steps: {several}; with secure.noise_over give 1"
    whole = "secure.noise_over takes a site's whole gradient"
    yield not training.frozen, f"training.frozen: {whole}; give []"
    gradients = "with secure.noise_over sites sum gradients and take no step of their own"
    yield own_step == ("sgd", 0, 0), f"training.optimizer: {gradients}; give sgd, momentum=0, weight_decay=0"
    plain = f"choose one of {', '.join(PLAIN_SUMS)}"
    yield name in PLAIN_SUMS, f"strategy: {gradients}, and '{name}' changes what sites do; {plain}"


def _plain(thing: Any) -> Any:
    if isinstance(thing, Part):
        return {"name": thing.name} | _plain(freeze(thing.options, thing.name))
    if is_dataclass(thing):
        return {each.name: _plain(getattr(thing, each.name)) for each in fields(thing)}
    if isinstance(thing, Mapping):
        return {key: _plain(value) for key, value in thing.items()}
    return [_plain(value) for value in thing] if isinstance(thing, tuple) else thing
