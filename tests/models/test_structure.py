"""M2SNet's loss: weights at edges alone, its formula voxel by voxel, and zero where all is right."""

import math

import pytest
import torch
from torch import Tensor

from models import structure
from models.objectives import OBJECTIVES
from models.structure import at_edges, edges, unlike
from protocol.errors import RecipeError
from protocol.recipe import Part, build

WINDOW = 3
SQUARE = torch.zeros(1, 1, 12, 12)
SQUARE[..., 3:9, :6] = 1.0


def test_only_voxels_near_an_edge_weigh_more() -> None:
    """Near is within the window; the border of the image is no edge."""
    heavy = edges(SQUARE, WINDOW)[0, 0] > 1
    near = torch.zeros(12, 12, dtype=torch.bool)
    near[2:10, :7] = True
    near[4:8, :5] = False
    assert torch.equal(heavy, near)
    assert float(edges(SQUARE, WINDOW).max()) < 6


def by_hand(logits: Tensor, truth: Tensor) -> float:
    """Weighted cross-entropy and overlap of one mask `(X, Y)`, voxel by voxel."""
    wide, high = truth.shape
    weights = wrong = both = either = 0.0
    for x in range(wide):
        for y in range(high):
            window = truth[max(x - 1, 0) : x + 2, max(y - 1, 0) : y + 2]
            label, chance = float(truth[x, y]), 1 / (1 + math.exp(-float(logits[x, y])))
            weight = 1 + 5 * abs(float(window.mean()) - label)
            weights += weight
            wrong -= weight * math.log(chance if label else 1 - chance)
            both += weight * chance * label
            either += weight * (chance + label - chance * label)
    return wrong / weights + 1 - (both + 1) / (either + 1)


def difference_from_hand() -> float:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 5, 4, generator=generator)
    truth = (torch.randn(2, 2, 5, 4, generator=generator) > 0).float()
    values = at_edges(logits, truth, WINDOW)
    expected = [sum(by_hand(logits[b, c], truth[b, c]) for c in range(2)) / 2 for b in range(2)]
    return float((values - torch.tensor(expected)).abs().max())


def test_cross_entropy_and_overlap_by_hand() -> None:
    assert difference_from_hand() < 1e-5


def test_the_mutant_that_weighs_all_voxels_alike_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "edges", lambda truth, window: torch.ones_like(truth))
    assert difference_from_hand() > 1e-3


@pytest.mark.parametrize("shape", [(12, 12), (5, 7), (3, 4, 5), (1, 1)])
def test_it_is_zero_just_where_the_prediction_is_right(shape: tuple[int, ...]) -> None:
    truth = (torch.randn(1, 2, *shape, generator=torch.Generator().manual_seed(1)) > 0).float()
    assert unlike(truth, truth).tolist() == [0.0]
    assert float(OBJECTIVES["structure"]().function(200 * truth - 100, truth)) == pytest.approx(0, abs=1e-6)
    wrong = truth.clone()
    wrong.view(-1)[0] = 1 - wrong.view(-1)[0]
    assert float(unlike(wrong, truth)) > 0


def test_a_blur_that_is_right_costs_only_what_is_seen_up_close() -> None:
    """A checkerboard taken for its mean: wrong by a half at the finest scale, right at all others."""
    checkers = ((torch.arange(8)[:, None] + torch.arange(8)) % 2).float().expand(1, 1, 8, 8)
    assert unlike(torch.full_like(checkers, 0.5), checkers).tolist() == [0.25]


def test_the_window_is_odd() -> None:
    with pytest.raises(RecipeError, match=r"objective\.window: expected .*odd"):
        build(OBJECTIVES, Part("structure", {"window": 4}), "objective")
