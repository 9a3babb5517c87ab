"""DP-FedAvg hides a site: its noise, its clip norm's quantile, and what it does not promise."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from protocol.update import Update
from strategies import dp_fedavg as module
from strategies.base import State, Strategy
from strategies.dp_fedavg import CLIP_NORM, OF_ALL, dp_fedavg

SIZE = 20_000


def strategy(**options: float) -> Strategy:
    return dp_fedavg(**{"unit": "site", "noise_multiplier": 1.0} | options)


def updates(norms: list[float], size: int = SIZE, group: str = "shared") -> list[Update]:
    """One update a norm, each along an axis of its own."""
    found = []
    for place, norm in enumerate(norms):
        delta = torch.zeros(size)
        delta[place] = norm
        found.append(Update({group: delta}, {group: 100 + place}, 1.0))
    return found


def moved(made: Strategy, sent: list[Update], size: int = SIZE) -> tuple[Tensor, float]:
    """The step's movement and the clip norm after it."""
    state = made.step(made.init({"shared": torch.zeros(size), "modality:t1": torch.zeros(size)}), iter(sent))
    return state.parameters["shared"], float(state.memory[CLIP_NORM][OF_ALL])


def tracked(made: Strategy, rounds: Iterator[list[Update]]) -> list[float]:
    """The clip norm after each round."""
    state: State = made.init({"shared": torch.zeros(100)})
    bounds = []
    for sent in rounds:
        state = made.step(state, iter(sent))
        bounds.append(float(state.memory[CLIP_NORM][OF_ALL]))
    return bounds


# -- Sensitivity --------------------------------------------------------------------------------
def test_a_site_moves_the_sum_by_at_most_the_clip_norm() -> None:
    made = strategy(noise_multiplier=0.0, clip_norm=0.5)
    sent = updates([0.1, 3.0, 1e6], 10)
    nothing = Update({"shared": torch.zeros(10)}, {"shared": 100})
    whole, _ = moved(made, sent, 10)
    for gone in range(3):
        others = [nothing if place == gone else update for place, update in enumerate(sent)]
        without, _ = moved(made, others, 10)
        assert float((whole - without).norm()) * 3 <= 0.5 * (1 + 1e-6)
    assert float(whole[2]) * 3 == pytest.approx(0.5)


def test_a_site_of_many_cases_weighs_no_more() -> None:
    sent = [Update({"shared": torch.eye(2)[i]}, {"shared": n}) for i, n in enumerate((1, 100_000))]
    whole, _ = moved(strategy(noise_multiplier=0.0, clip_norm=9.0), sent, 2)
    assert whole.tolist() == [0.5, 0.5]


def test_sum_and_count_together_are_one_gaussian_mechanism() -> None:
    """A site moves (sum / its noise, count / its noise) by 1 / noise_multiplier."""
    for z, count_noise in ((0.5, 0.3), (1.0, 2.0), (3.0, 20.0)):
        of_sums = module._of_sums(z, count_noise)
        assert math.hypot(1 / of_sums, 0.5 / count_noise) == pytest.approx(1 / z)
        assert of_sums > z


# -- Noise --------------------------------------------------------------------------------------
def noise_is_right(made: Strategy) -> bool:
    """Whether four sites' mean carries the stddev that the promise needs, within 3 %."""
    noise, _ = moved(made, updates([0.0] * 4))
    wanted = module._of_sums(made.promise.noise_multiplier, 2.0) * 0.1 / 4
    return abs(float(noise.std()) / wanted - 1) < 0.03


def test_the_mean_has_its_noise() -> None:
    assert noise_is_right(strategy())


def test_noise_that_forgets_the_count_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: the sum's noise alone is the whole noise multiplier, and the count comes for nothing."""
    made = strategy(noise_multiplier=2.0, count_noise=1.2)
    wanted = module._of_sums(2.0, 1.2)
    monkeypatch.setattr(module, "_of_sums", lambda z, count_noise: z)
    cheap = strategy(noise_multiplier=2.0, count_noise=1.2)
    stddevs = [float(moved(each, updates([0.0] * 4))[0].std()) * 4 / 0.1 for each in (made, cheap)]
    assert abs(stddevs[0] / wanted - 1) < 0.03 < abs(stddevs[1] / wanted - 1)


def test_a_group_of_few_sites_has_more_noise_and_one_of_none_stays() -> None:
    made = strategy()
    few = updates([0.0])[0]
    sent = [*updates([0.0] * 4), Update({"modality:t1": few.deltas["shared"]}, {"modality:t1": 3})]
    state = made.step(made.init({g: torch.zeros(SIZE) for g in ("shared", "modality:t1", "head:y")}), sent)
    ratio = state.parameters["modality:t1"].std() / state.parameters["shared"].std()
    assert float(ratio) == pytest.approx(4, rel=0.05)
    assert not state.parameters["head:y"].any()


def test_no_seed_repeats_the_noise() -> None:
    def draw() -> Tensor:
        torch.manual_seed(0)
        return moved(strategy(), updates([0.0] * 2))[0]

    assert not (draw() == draw()).float().mean() > 1e-3


# -- The clip norm ------------------------------------------------------------------------------
def count_is_noised(made: Strategy) -> bool:
    """Whether equal rounds lead to different clip norms."""
    ends = {moved(made, updates([0.05] * 4, 10), 10)[1] for _ in range(5)}
    return len(ends) > 1


def test_the_count_is_noised() -> None:
    assert count_is_noised(strategy())


def test_a_count_without_noise_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Exact(module.SecureGenerator):
        def normal_(self, tensor: Tensor, std: float) -> Tensor:
            return tensor.zero_() if tensor.numel() == 1 else super().normal_(tensor, std)

    monkeypatch.setattr(module, "SecureGenerator", Exact)
    assert not count_is_noised(strategy())


def test_the_counts_noise_has_its_stddev() -> None:
    made = strategy(clip_rate=1.0, count_noise=2.0)
    logs = [math.log(moved(made, updates([0.05] * 4, 10), 10)[1] / 0.1) for _ in range(1000)]
    assert float(torch.tensor(logs).std()) == pytest.approx(2.0 / 4, rel=0.1)


@pytest.mark.parametrize(("quantile", "expected"), [(0.25, 25), (0.5, 50), (0.9, 90)])
def test_the_clip_norm_finds_its_quantile_of_the_norms(quantile: float, expected: float) -> None:
    """A hundred sites whose updates have norms 1 to 100."""
    made = strategy(quantile=quantile, clip_norm=5.0, noise_multiplier=0.1)
    bounds = tracked(made, (updates([float(n) for n in range(1, 101)], 100) for _ in range(120)))
    assert sum(bounds[-30:]) / 30 == pytest.approx(expected, rel=0.15)


def test_a_clip_norm_that_runs_the_other_way_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    made = strategy(noise_multiplier=0.0)
    rising: Callable[[float], float] = math.exp
    monkeypatch.setattr(module.math, "exp", lambda x: rising(-x))
    bounds = tracked(made, (updates([5.0] * 10, 100) for _ in range(40)))
    monkeypatch.undo()
    assert bounds[-1] < 0.1 < tracked(made, (updates([5.0] * 10, 100) for _ in range(40)))[-1]


# -- The promise --------------------------------------------------------------------------------
def test_the_promise_is_a_sites_and_says_so() -> None:
    promise = strategy(noise_multiplier=3.0, delta=1e-4).promise
    assert (promise.unit, promise.noise_multiplier, promise.delta) == ("site", 3.0, 1e-4)
    assert "patient" not in promise.adjacency


def test_with_ten_sites_the_noise_drowns_the_sum() -> None:
    """Why hospital-level privacy is not offered to ten hospitals: a U-Net's 500,000 parameters."""
    made = strategy(noise_multiplier=2.4)  # 20 rounds at epsilon 8, delta 1e-5
    signal, noise = 10 * 0.1, module._of_sums(2.4, 2.0) * 0.1 * math.sqrt(500_000)
    assert noise / signal > 150
    assert made.promise.unit == "site"
