"""T3's numbers: the divergence of two predictions, and the share that follows from it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from protocol.errors import RecipeError
from protocol.recipe import Part, build
from strategies.base import Strategy
from strategies.catalogue import STRATEGIES
from strategies.t3_merge import certainty_of_first, jensen_shannon, t3_merge

P, Q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.3, 0.2])
chances = st.lists(st.floats(1e-6, 1.0), min_size=3, max_size=3).map(lambda x: torch.tensor(x) / sum(x))


def share(strategy: Strategy, p: Tensor, q: Tensor) -> float:
    """The common model's share where it predicts p and the site's own predicts q."""
    merge = strategy.local.merge
    assert merge is not None
    return float(merge.rule(merge.measure(p.log()[None], q.log()[None])))


def test_the_divergence_is_as_computed_elsewhere() -> None:
    assert float(jensen_shannon(P.log(), Q.log())) == pytest.approx(0.021901, abs=1e-6)
    assert float(jensen_shannon(P.log(), Q.log())) == pytest.approx(jensenshannon(P, Q) ** 2, abs=1e-6)


def test_the_share_is_as_computed_elsewhere() -> None:
    assert share(t3_merge(), P, Q) == pytest.approx(0.502738, abs=1e-6)
    one, other = torch.tensor([1.0, 1e-30]), torch.tensor([1e-30, 1.0])
    assert share(t3_merge(), one, other) == pytest.approx(0.585786, abs=1e-6)


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(p=chances, q=chances)
def test_the_divergence_is_symmetric_and_bounded(p: Tensor, q: Tensor) -> None:
    found = float(jensen_shannon(p.log(), q.log()))
    assert 0 <= found <= math.log(2) + 1e-6
    assert found == pytest.approx(float(jensen_shannon(q.log(), p.log())), abs=1e-6)
    assert float(jensen_shannon(p.log(), p.log())) == pytest.approx(0, abs=1e-6)


def test_agreement_is_the_midpoint() -> None:
    assert share(t3_merge(least=0.2, most=0.6), P, P) == pytest.approx(0.4)


def test_disagreement_is_the_common_model_s() -> None:
    """The farther apart, the larger its share."""
    away = [torch.tensor([0.5 + x, 0.5 - x]) for x in (0.0, 0.1, 0.2, 0.3, 0.4)]
    shares = [share(t3_merge(gamma=8, threshold=0.1), each, away[0]) for each in away]
    assert shares == sorted(shares)
    assert len(set(shares)) == len(shares)
    assert shares[0] < 0.5 < share(t3_merge(gamma=8, threshold=0.1), away[-1], away[-1].flip(0))


def test_one_share_for_all() -> None:
    for fixed in (0.0, 0.3, 1.0):
        assert share(t3_merge(least=fixed, most=fixed), P, Q) == pytest.approx(fixed)


def test_by_entropy_the_more_certain_has_more() -> None:
    by_entropy = t3_merge(by="entropy", gamma=1)
    assert share(by_entropy, P, Q) > 0.5 > share(by_entropy, Q, P)
    entropy = [-float((x * x.log()).sum()) for x in (P, Q)]
    expected = math.exp(-entropy[0]) / sum(math.exp(-each) for each in entropy)
    assert share(by_entropy, P, Q) == pytest.approx(expected, abs=1e-6)
    assert float(certainty_of_first(P.log(), Q.log())) == pytest.approx(entropy[1] - entropy[0], abs=1e-6)


def test_what_a_site_ends_a_round_with_is_its_own_model() -> None:
    """And stays what it was when the site's memory is written over by the update."""
    finish = t3_merge().local.finish
    assert finish is not None
    here = {"shared": torch.ones(3)}
    extras, kept = finish({"shared": torch.zeros(3)}, here, {}, {}, 1, 0.1)
    here["shared"].zero_()
    assert not extras
    assert torch.equal(kept["personal"]["shared"], torch.ones(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"least": 0.7, "most": 0.2}, r"strategy\.least: expected at most .* \(0\.2\), found 0\.7"),
        ({"most": 1.5}, r"strategy\.most: expected .*in \[0, 1\]"),
        ({"each": "day"}, r"strategy\.each: expected"),
    ],
)
def test_what_is_no_share_is_refused(options: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(STRATEGIES, Part("t3_merge", options), "strategy")
