"""Robust rules: the networks against numpy and scipy, and what one lying site can do."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import trim_mean
from torch import Tensor

from protocol.update import Update
from strategies import networks
from strategies.catalogue import STRATEGIES
from strategies.krum import squared_distances
from strategies.median import middle
from strategies.networks import merge_exchange, middle_mean, program, prune
from strategies.trimmed_mean import cut_of

ROBUST = ["median", "trimmed_mean", "krum", "geometric_median"]


def rows_of(n: int, size: int = 40, seed: int = 0) -> list[Tensor]:
    """Return `n` random vectors."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator) for _ in range(n)]


def sort(network: Sequence[tuple[int, int]], values: Sequence[int]) -> list[int]:
    """Run a network on plain numbers."""
    wires = list(values)
    for i, j in network:
        wires[i], wires[j] = min(wires[i], wires[j]), max(wires[i], wires[j])
    return wires


@pytest.mark.parametrize("n", range(1, 11))
def test_network_sorts(n: int) -> None:
    """It sorts every sequence of zeros and ones, hence everything (Knuth's 0-1 principle)."""
    network = list(merge_exchange(n))
    for bits in product((0, 1), repeat=n):
        assert sort(network, bits) == sorted(bits)


def test_no_comparator_is_spare() -> None:
    """Without any one of its comparators the network for 8 no longer sorts."""
    network = list(merge_exchange(8))
    for left_out in range(len(network)):
        rest = network[:left_out] + network[left_out + 1 :]
        assert any(sort(rest, bits) != sorted(bits) for bits in product((0, 1), repeat=8))


@pytest.mark.parametrize("n", [*range(1, 13), 33])
def test_middle_mean_is_scipys_trim_mean(n: int) -> None:
    """For every cut, and with blocks that do not divide the size."""
    rows = rows_of(n)
    kept = [row.clone() for row in rows]
    for cut in range((n + 1) // 2):
        expected = trim_mean(np.stack([row.numpy() for row in rows]).astype(np.float64), (cut + 1e-6) / n)
        np.testing.assert_allclose(middle_mean(rows, cut).numpy(), expected, atol=1e-6)
    assert all(map(torch.equal, rows, kept))


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_median_is_numpys(data: st.DataObject) -> None:
    """Any finite floats, ties and both zeros included."""
    n, size = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 5))
    numbers = st.floats(-1e6, 1e6, width=32)
    rows = [torch.tensor(data.draw(st.lists(numbers, min_size=size, max_size=size))) for _ in range(n)]
    expected = np.median(np.stack([row.numpy() for row in rows]).astype(np.float64), axis=0)
    np.testing.assert_allclose(middle(rows).numpy(), expected, rtol=1e-6)


def test_blocks_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, the last one short, give what one block gives."""
    rows = rows_of(7, size=103)
    whole, far = middle_mean(rows, 2), squared_distances(rows)
    monkeypatch.setattr(networks, "BLOCK", 16)
    monkeypatch.setattr("strategies.krum.BLOCK", 16)
    assert torch.equal(middle_mean(rows, 2), whole)
    torch.testing.assert_close(squared_distances(rows), far, rtol=1e-5, atol=1e-4)


def test_pruning_saves_work() -> None:
    """The median of 8 needs 26 of the 38 instructions of a whole sort, and few scratch blocks."""
    assert len(list(merge_exchange(8))) == 19
    assert len(program(8, 3)[0]) == 26
    assert program(8, 3)[2] <= 8 + 8 + 2
    assert prune(list(merge_exchange(8)), 8, 0) == []


def test_a_lost_instruction_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every instruction of the median of 5 matters to the comparison with numpy."""
    instructions, outputs, registers = program(5, 2)
    rows = rows_of(5, size=2000)
    expected = np.median(np.stack([row.numpy() for row in rows]), axis=0)
    for index in range(len(instructions)):
        act, a, b, to = instructions[index]
        other = torch.maximum if act is torch.minimum else torch.minimum
        broken = [*instructions[:index], (other, a, b, to), *instructions[index + 1 :]]
        monkeypatch.setattr(networks, "program", lambda n, cut, broken=broken: (broken, outputs, registers))
        assert not np.allclose(middle_mean(rows, 2).numpy(), expected)


def test_how_many_are_cut() -> None:
    """Rounded up, exact for round products, and always leaving somebody."""
    assert [cut_of(0.2, n) for n in range(1, 12)] == [0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3]
    assert cut_of(0.1, 30) == 3
    assert [cut_of(0.0, n) for n in (1, 5)] == [0, 0]
    assert [cut_of(0.499, n) for n in (4, 5)] == [1, 2]


def test_distances_are_scipys() -> None:
    """Pairwise, symmetric, zero on the diagonal."""
    rows = rows_of(6)
    for i, j in product(range(6), repeat=2):
        assert float(squared_distances(rows)[i, j]) == pytest.approx(
            float((rows[i] - rows[j]).square().sum())
        )


def honest_and_one(
    factor: float, options: dict[str, object] | None = None, name: str = ""
) -> tuple[Tensor, Tensor]:
    """Return (what the federation moved by, what the four honest sites mean)."""
    generator = torch.Generator().manual_seed(3)
    truth = torch.randn(500, generator=generator)
    deltas = [truth + 0.3 * torch.randn(500, generator=generator) for _ in range(5)]
    honest = torch.stack(deltas[1:]).mean(0)
    deltas[0] = deltas[0] * factor
    strategy = STRATEGIES[name](**(options or {}))
    state = strategy.init({"shared": torch.zeros(500)})
    state = strategy.step(state, [Update({"shared": d}, {"shared": 10}, 1.0) for d in deltas])
    return state.parameters["shared"], honest


@pytest.mark.parametrize("factor", [-10.0, 1e4, -1e18])
@pytest.mark.parametrize("name", ROBUST)
def test_one_liar_of_five_moves_nothing(name: str, factor: float) -> None:
    """A sign flip times ten, or anything larger: within the honest sites' own spread of their mean."""
    moved, honest = honest_and_one(factor, name=name)
    assert float((moved - honest).norm() / honest.norm()) < 0.3


def test_a_mean_follows_the_liar() -> None:
    """The same attack turns the mean around; bounded norms keep it pointing the right way."""
    mean, honest = honest_and_one(-10.0, name="fedavg")
    assert float(torch.cosine_similarity(mean, honest, dim=0)) < 0
    bounded, _ = honest_and_one(-10.0, {"bound": 20.0}, "norm_bounding")
    assert float(torch.cosine_similarity(bounded, honest, dim=0)) > 0.9


def test_claimed_cases_buy_nothing() -> None:
    """A site that claims a million cases weighs what any other does."""
    for name in ROBUST:
        ends = []
        for claimed in (1, 10**6):
            updates = [
                Update({"g": row}, {"g": claimed if i == 0 else 1}) for i, row in enumerate(rows_of(5))
            ]
            strategy = STRATEGIES[name]()
            ends.append(strategy.step(strategy.init({"g": torch.zeros(40)}), updates).parameters["g"])
        assert torch.equal(*ends)


def test_krum_picks_from_the_crowd() -> None:
    """Krum (m = 1) answers with one site's delta, and never the odd one's."""
    rows = rows_of(6)
    rows[2] = rows[2] + 100
    updates = [Update({"g": row}, {"g": 1}) for row in rows]
    strategy = STRATEGIES["krum"](f=1, m=1)
    moved = strategy.step(strategy.init({"g": torch.zeros(40)}), updates).parameters["g"]
    assert [i for i, row in enumerate(rows) if torch.equal(row, moved)] in ([0], [1], [3], [4], [5])


@pytest.mark.parametrize("n", [3, 4, 7])
def test_geometric_median_minimises(n: int) -> None:
    """No point that scipy finds has a smaller sum of distances (to a thousandth)."""
    rows = rows_of(n, size=4, seed=n)
    strategy = STRATEGIES["geometric_median"](iterations=50)
    updates = [Update({"g": row}, {"g": 1}) for row in rows]
    found = strategy.step(strategy.init({"g": torch.zeros(4)}), updates).parameters["g"].double().numpy()
    points = np.stack([row.double().numpy() for row in rows])

    def total(z: np.ndarray) -> float:
        return float(np.linalg.norm(points - z, axis=1).sum())

    best = minimize(total, points.mean(0), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-9})
    assert total(found) <= best.fun * 1.001
