"""Each strategy equals its plain loop, over federations in which sites lack groups."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import Phase, given, settings

from strategies.base import State, Strategy
from strategies.catalogue import STRATEGIES
from tests.strategies import twins
from tests.strategies.federations import (
    ANCHORED,
    PROTOTYPE,
    QUIET,
    Federation,
    federations,
    laid_out,
    made,
    stream,
)

ADAPTIVE = {"server_rate": 0.3, "beta_1": 0.8, "beta_2": 0.9, "tau": 1e-2}
AVERAGED = ("fedprox", "fedbn", "fedper", "ditto", "local", "modality_distillation", "t3_merge")
PAIRS: dict[str, tuple[Strategy, Callable[..., None]]] = {
    "fedavg": (STRATEGIES["fedavg"](), twins.fedavg),
    "uniform": (STRATEGIES["fedavg"](weights="uniform"), twins.uniform),
    "zero_fill": (STRATEGIES["fedavg"](weights="zero_fill"), twins.zero_fill),
    "modality_balanced": (STRATEGIES["modality_balanced"](), twins.modality_balanced),
    "half_balanced": (STRATEGIES["modality_balanced"](balance=0.5), twins.half_balanced),
    "fedamm": (laid_out(STRATEGIES["fedamm"](), PROTOTYPE), twins.fedamm),
    "fedmema": (laid_out(made("fedmema"), ANCHORED), twins.fedmema),
    "fedmepd": (laid_out(STRATEGIES["fedmepd"](patience=1)), twins.fedmepd),
    "fedmsplit": (STRATEGIES["fedmsplit"](), twins.fedmsplit),
    "fedavgm": (STRATEGIES["fedavgm"](momentum=0.9, server_rate=0.5), twins.fedavgm),
    "fedadagrad": (STRATEGIES["fedadagrad"](server_rate=0.3, beta_1=0.8, tau=1e-2), twins.fedadagrad),
    "fedadam": (STRATEGIES["fedadam"](**ADAPTIVE), twins.fedadam),
    "fedyogi": (STRATEGIES["fedyogi"](**ADAPTIVE), twins.fedyogi),
    "fednova": (STRATEGIES["fednova"](), twins.fednova),
    "scaffold": (STRATEGIES["scaffold"](server_rate=0.7, participation=0.5), twins.scaffold),
    "norm_bounding": (STRATEGIES["norm_bounding"](bound=1.5), twins.norm_bounding),
    "dp_fedavg": (STRATEGIES["dp_fedavg"](**QUIET["dp_fedavg"], clip_norm=2.0), twins.dp_fedavg),
    "median": (STRATEGIES["median"](), twins.median),
    "trimmed_mean": (STRATEGIES["trimmed_mean"](trim=0.2), twins.trimmed_mean),
    "krum": (STRATEGIES["krum"](f=1, m=2), twins.krum),
    "geometric_median": (STRATEGIES["geometric_median"](), twins.geometric_median),
} | {name: (STRATEGIES[name](), twins.fedavg) for name in AVERAGED}


def test_every_strategy_has_a_twin() -> None:
    """The catalogue holds nothing that is not checked here."""
    assert set(STRATEGIES) <= PAIRS.keys()


def play(strategy: Strategy, federation: Federation) -> State:
    """Take all rounds, each update's memory overwritten after its turn."""
    state = strategy.init(federation.parameters)
    for updates in federation.rounds:
        state = strategy.step(state, stream(updates))
    return state


def agree(strategy: Strategy, twin: Callable[..., None], federation: Federation) -> None:
    """Assert that strategy and twin end at the same parameters."""
    expected = {g: v.numpy().astype(np.float64) for g, v in federation.parameters.items()}
    memory: twins.Arrays = {}
    for updates in federation.rounds:
        twin(expected, memory, list(updates))
    found = play(strategy, federation).parameters
    assert found.keys() == expected.keys()
    for group, vector in found.items():
        np.testing.assert_allclose(vector.numpy(), expected[group], rtol=1e-4, atol=1e-4, err_msg=group)


@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(federation=federations())
def test_strategy_is_its_twin(name: str, federation: Federation) -> None:
    """Three rounds, any owners, any counts and steps: same parameters as the plain loop."""
    agree(*PAIRS[name], federation)


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("fedavg", twins.zero_fill),
        ("zero_fill", twins.fedavg),
        ("fednova", twins.fedavg),
        ("median", twins.uniform),
        ("modality_balanced", twins.fedavg),
        ("modality_balanced", twins.half_balanced),
        ("fedamm", twins.modality_balanced),
        ("fedmema", twins.fedavg),
        ("fedmepd", twins.fedavg),
        ("fedmsplit", twins.uniform),
    ],
)
def test_twins_tell_rules_apart(name: str, twin: Callable[..., None]) -> None:
    """A strategy held against another's twin fails, so the comparison above can fail."""

    # The first that differs will do: nobody reads it, so that it need not be made smaller.
    @settings(max_examples=40, deadline=None, derandomize=True, database=None, phases=(Phase.generate,))
    @given(federation=federations())
    def compare(federation: Federation) -> None:
        agree(PAIRS[name][0], twin, federation)

    with pytest.raises(AssertionError):
        compare()
