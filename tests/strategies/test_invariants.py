"""What holds for every strategy, whatever its rule."""

import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from protocol.errors import RecipeError
from protocol.recipe import Part, build
from protocol.update import Update, Vectors
from strategies.base import Received, State, Strategy
from strategies.catalogue import STRATEGIES
from tests.strategies.federations import SIZES, Federation, copied, failing, federations, made, stream

NAMES = sorted(STRATEGIES)
GATHERS = {"median", "trimmed_mean", "krum", "geometric_median", "fedmema", "fedmepd", "fedmsplit"}
few = settings(max_examples=15, deadline=None, derandomize=True, database=None)


def frozen(state: State) -> dict[str, Vectors]:
    """Return an independent copy of all that a state holds."""
    return {"parameters": copied(state.parameters)} | {n: copied(v) for n, v in state.memory.items()}


def same(one: dict[str, Vectors], other: dict[str, Vectors], atol: float = 0.0) -> None:
    """Assert equal names, groups and values."""
    assert {n: v.keys() for n, v in one.items()} == {n: v.keys() for n, v in other.items()}
    for name, vectors in one.items():
        for group, vector in vectors.items():
            torch.testing.assert_close(vector, other[name][group], rtol=atol, atol=atol)


@pytest.mark.parametrize("name", NAMES)
@few
@given(federation=federations())
def test_groups_without_owners_keep_their_value(name: str, federation: Federation) -> None:
    """A group that nobody sent stays bit for bit, in the parameters and in memory; all is finite."""
    strategy: Strategy = made(name)
    state = strategy.init(federation.parameters)
    for updates in federation.rounds:
        before = frozen(state)
        state = strategy.step(state, stream(updates))
        after = frozen(state)
        sent = {group for update in updates for group in update.deltas}
        for key, vectors in after.items():
            for group, vector in vectors.items():
                assert torch.isfinite(vector).all()
                assert group in sent or group not in SIZES or torch.equal(vector, before[key][group])


@pytest.mark.parametrize("name", NAMES)
@few
@given(federation=federations())
def test_a_group_that_nobody_changed_keeps_its_value(name: str, federation: Federation) -> None:
    """So a frozen group, whose updates are zero, stays bit for bit."""
    strategy: Strategy = made(name)
    state = strategy.init(federation.parameters)
    for updates in federation.rounds:
        state = strategy.step(state, stream([_still(update, "shared") for update in updates]))
    assert torch.equal(state.parameters["shared"], federation.parameters["shared"])


def _still(update: Update, group: str) -> Update:
    """Return the update with nothing but zeros in `group`."""

    def zeroed(vectors: Vectors) -> Vectors:
        return {g: torch.zeros_like(v) if g == group else v for g, v in vectors.items()}

    extras = {name: zeroed(vectors) for name, vectors in update.extras.items()}
    return replace(update, deltas=zeroed(update.deltas), extras=extras)


def check_untouched(strategy: Strategy, federation: Federation) -> None:
    """Assert that a round whose stream raises leaves the state as it was, and the next one right."""
    state = strategy.step(strategy.init(federation.parameters), stream(federation.rounds[0]))
    before = frozen(state)
    with pytest.raises(RuntimeError, match="quorum"):
        strategy.step(state, failing(federation.rounds[1]))
    same(before, frozen(state))
    again = State(copied(before.pop("parameters")), before)
    one, other = (strategy.step(each, stream(federation.rounds[1])) for each in (state, again))
    same(frozen(one), frozen(other))


@pytest.mark.parametrize("name", NAMES)
@few
@given(federation=federations())
def test_a_round_that_raises_never_happened(name: str, federation: Federation) -> None:
    """The quorum fails after the last update: parameters and memory are untouched."""
    check_untouched(made(name), federation)


def test_a_step_that_is_too_early_is_caught() -> None:
    """Averaging into the parameters while updates still come fails the check above."""

    def early(state: State, updates: Iterable[Update]) -> State:
        for update in updates:
            for group, delta in update.deltas.items():
                state.parameters[group].add_(delta)
        return state

    with pytest.raises(AssertionError):
        check_untouched(replace(STRATEGIES["fedavg"](), step=early), one_of_five())


def test_sums_are_written_over() -> None:
    """The second round's sum takes the first one's memory."""
    federation, strategy = one_of_five(), STRATEGIES["fedavg"]()
    state = strategy.step(strategy.init(federation.parameters), stream(federation.rounds[0]))
    place = state.spare["deltas"]["shared"].data_ptr()
    state = strategy.step(state, stream(federation.rounds[1]))
    assert state.spare["deltas"]["shared"].data_ptr() == place


@pytest.mark.parametrize("name", NAMES)
@few
@given(federation=federations(), data=st.data())
def test_order_of_replies_does_not_matter(name: str, federation: Federation, data: st.DataObject) -> None:
    """Any order gives the same parameters, to rounding."""
    strategy: Strategy = made(name)
    order = data.draw(st.permutations(range(len(federation.rounds[0]))))
    here = strategy.step(strategy.init(federation.parameters), stream(federation.rounds[0]))
    there = strategy.step(
        strategy.init(federation.parameters), stream([federation.rounds[0][i] for i in order])
    )
    same(frozen(here), frozen(there), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_init_copies(name: str) -> None:
    """A strategy never writes into the parameters that it was given."""
    federation = one_of_five()
    given_parameters, before = federation.parameters, copied(federation.parameters)
    strategy: Strategy = made(name)
    strategy.step(strategy.init(given_parameters), stream(federation.rounds[0]))
    same({"x": before}, {"x": given_parameters})


@pytest.mark.parametrize("name", NAMES)
def test_memory_holds_what_travels(name: str) -> None:
    """What a strategy sends is in its memory from the start, one vector for each group."""
    strategy: Strategy = made(name)
    state = strategy.init(one_of_five().parameters)
    for sent in strategy.sends:
        assert state.memory[sent].keys() == state.parameters.keys()


@pytest.mark.parametrize("name", NAMES)
def test_a_count_of_zero_is_no_owner(name: str) -> None:
    """A group that a site used in no case moves nothing, and divides nothing by zero."""
    delta = torch.ones(6)
    idle = Update({"shared": delta}, {"shared": 0}, 1.0, {"control": {"shared": delta}})
    strategy: Strategy = made(name)
    state = strategy.step(strategy.init({"shared": torch.zeros(6)}), stream([idle, idle]))
    assert torch.equal(state.parameters["shared"], torch.zeros(6))


@pytest.mark.parametrize("sites", [2, 16])
@pytest.mark.parametrize("name", sorted(set(NAMES) - GATHERS))
def test_averaging_holds_one_sum(name: str, sites: int) -> None:
    """However many sites: the state, one sum for each vector sent, and the reply in hand."""
    held, allowed = models_held(made(name), sites)
    assert held <= allowed


def test_a_rule_that_keeps_replies_is_caught() -> None:
    """The median holds all replies, and the count above sees it."""
    held, allowed = models_held(STRATEGIES["median"](), 16)
    assert held > allowed


def models_held(strategy: Strategy, sites: int) -> tuple[int, int]:
    """Return (models in memory when the last reply is in, how many a streaming rule needs)."""
    size = 12_347
    state = strategy.init({"shared": torch.zeros(size)})
    kinds = 1 + len(strategy.sends)  # deltas, and SCAFFOLD's controls

    def replies() -> Iterator[Update]:
        for _ in range(sites):
            extras = {sent: {"shared": torch.ones(size)} for sent in strategy.sends}
            yield Update({"shared": torch.ones(size)}, {"shared": 3}, 2.0, extras)
            del extras
        counted.append(alive(size))

    counted: list[int] = []
    strategy.step(state, replies())
    return counted[0], 1 + len(state.memory) + 2 * kinds


def alive(size: int) -> int:
    """Count the tensors of `size` elements that exist."""
    return sum(type(thing) is Tensor and thing.numel() == size for thing in gc.get_objects())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fedavg", {"weights": "counts"}, "strategy.weights"),
        ("fedprox", {"mu": -1.0}, "strategy.mu"),
        ("fedavgm", {"momentum": 1.0}, "strategy.momentum"),
        ("fedadam", {"tau": 0.0}, "strategy.tau"),
        ("trimmed_mean", {"trim": 0.5}, "strategy.trim"),
        ("krum", {"m": 0}, "strategy.m"),
        ("modality_balanced", {"balance": 1.1}, "strategy.balance"),
        ("fedamm", {"balance": -0.1}, "strategy.balance"),
        ("fedmema", {}, "strategy.server: 'fedmema' needs this option"),
        ("fedmepd", {"patience": 0}, "strategy.patience"),
        ("fedmsplit", {"temperature": 0.0}, "strategy.temperature"),
        ("median", {"trim": 0.1}, "strategy.trim"),
        ("fedavgg", {}, "fedavg"),
        ("dp_fedavg", {"noise_multiplier": 1.0}, "strategy.unit: 'dp_fedavg' needs this option"),
        ("dp_fedavg", {"noise_multiplier": 1.0, "unit": "patient"}, "strategy.unit"),
        (
            "dp_fedavg",
            {"noise_multiplier": 4.0, "unit": "site"},
            "strategy: count_noise must be more than half",
        ),
    ],
)
def test_bad_options_are_refused_by_their_path(name: str, options: dict[str, object], message: str) -> None:
    """A recipe cannot name an option that does not exist, nor a value that makes no sense."""
    with pytest.raises(RecipeError, match=message):
        build(STRATEGIES, Part(name, options), "strategy")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: STRATEGIES["fedprox"](mu=0.0), STRATEGIES["fedavg"]),
        (lambda: STRATEGIES["fedavgm"](momentum=0.0, server_rate=1.0), STRATEGIES["fedavg"]),
        (lambda: STRATEGIES["norm_bounding"](bound=1e6), STRATEGIES["fedavg"]),
        (lambda: STRATEGIES["trimmed_mean"](trim=0.0), lambda: STRATEGIES["fedavg"](weights="uniform")),
        (lambda: STRATEGIES["trimmed_mean"](trim=0.499), STRATEGIES["median"]),
        (STRATEGIES["scaffold"], STRATEGIES["fedavg"]),
        (lambda: STRATEGIES["modality_balanced"](balance=0.0), STRATEGIES["fedavg"]),
        (STRATEGIES["fedamm"], STRATEGIES["modality_balanced"]),
        (lambda: STRATEGIES["fedmepd"](patience=10), STRATEGIES["fedavg"]),
    ],
)
@few
@given(federation=federations())
def test_special_cases_meet(
    one: Callable[[], Strategy], other: Callable[[], Strategy], federation: Federation
) -> None:
    """With an option at its limit one method becomes another, over three rounds."""
    ends: list[Vectors] = []
    for strategy in (one(), other()):
        state = strategy.init(federation.parameters)
        for updates in federation.rounds:
            state = strategy.step(state, stream(updates))
        ends.append(state.parameters)
    same({"x": ends[0]}, {"x": ends[1]}, atol=1e-5)


@few
@given(federation=federations())
def test_fednova_with_equal_steps_is_fedavg(federation: Federation) -> None:
    """Nobody took more steps than another, so there is nothing to normalise."""
    updates = [replace(update, steps=7.0) for update in federation.rounds[0]]
    ends = [
        strategy.step(strategy.init(federation.parameters), stream(updates)).parameters
        for strategy in (STRATEGIES["fednova"](), STRATEGIES["fedavg"]())
    ]
    same({"x": ends[0]}, {"x": ends[1]}, atol=1e-5)


def test_zero_fill_slows_what_few_own() -> None:
    """One of two equal sites owns FLAIR: its mean is its delta; with zero fill, half of that."""
    owner = Update({"modality:flair": torch.full((3,), 2.0)}, {"modality:flair": 10})
    other = Update({"shared": torch.ones(6)}, {"shared": 10})
    moved = {
        rule: strategy.step(
            strategy.init({"modality:flair": torch.zeros(3), "shared": torch.zeros(6)}), [owner, other]
        )
        for rule in ("count", "uniform", "zero_fill")
        for strategy in [STRATEGIES["fedavg"](weights=rule)]
    }
    flair = {rule: float(state.parameters["modality:flair"][0]) for rule, state in moved.items()}
    assert flair == {"count": 2.0, "uniform": 2.0, "zero_fill": 1.0}


def one_of_five() -> Federation:
    """Return five sites that own everything, two rounds."""
    rng = np.random.default_rng(5)

    def one(site: str) -> Update:
        delta = {"shared": torch.from_numpy(rng.normal(size=6).astype(np.float32))}
        return Received(delta, {"shared": 10}, 3.0, {"control": copied(delta)}, site)

    return Federation({"shared": torch.zeros(6)}, tuple(tuple(map(one, "abcde")) for _ in range(2)))
