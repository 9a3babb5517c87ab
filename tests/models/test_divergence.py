"""Hoelder divergences against published values, a plain loop, and their own algebra."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.divergence import holder, pseudo_holder

P, Q = (0.7, 0.2, 0.1), (0.5, 0.3, 0.2)

weights = st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4)
above_one = st.floats(1.05, 5.0)


def logs(p: tuple[float, ...] | list[float]) -> Tensor:
    shares = torch.tensor(p, dtype=torch.float64)
    return (shares / shares.sum()).log()


def by_hand(p: list[float], q: list[float], alpha: float, powers: tuple[float, float]) -> float:
    """-log of Hoelder's quotient for p^powers[0] and q^powers[1], sum by sum."""
    beta = alpha / (alpha - 1)
    first, second = ([x / sum(each) for x in each] for each in (p, q))
    first, second = [x ** powers[0] for x in first], [x ** powers[1] for x in second]
    bound = sum(x**alpha for x in first) ** (1 / alpha) * sum(x**beta for x in second) ** (1 / beta)
    return -math.log(sum(x * y for x, y in zip(first, second, strict=True)) / bound)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (pseudo_holder(logs(P), logs(Q), 1.1), 0.080452),
        (pseudo_holder(logs(P), logs(Q), 2.0), 0.052085),
        (pseudo_holder(logs(P), logs(P), 1.1), 0.188808),
        (holder(logs(P), logs(Q), 1.1, 1.0), 0.007099),
        (holder(logs(P), logs(Q), 2.0, 2.0), 0.052085),
        (holder(logs(P), logs(P), 1.1, 1.0), 0.0),
    ],
)
def test_known_values(found: Tensor, expected: float) -> None:
    assert float(found) == pytest.approx(expected, abs=1e-6)


@given(weights, weights, above_one, st.floats(0.2, 4.0))
def test_both_are_hoelder_s_quotient_and_never_negative(
    p: list[float], q: list[float], alpha: float, gamma: float
) -> None:
    beta = alpha / (alpha - 1)
    proper, pseudo = holder(logs(p), logs(q), alpha, gamma), pseudo_holder(logs(p), logs(q), alpha)
    assert float(proper) == pytest.approx(by_hand(p, q, alpha, (gamma / alpha, gamma / beta)), abs=1e-9)
    assert float(pseudo) == pytest.approx(by_hand(p, q, alpha, (1.0, 1.0)), abs=1e-9)
    assert min(float(proper), float(pseudo)) > -1e-12


@given(weights, above_one)
def test_where_each_is_zero(p: list[float], alpha: float) -> None:
    """The proper one at p = q, the other at q proportional to p^(alpha / beta)."""
    assert float(holder(logs(p), logs(p), alpha, 1.0)) == pytest.approx(0.0, abs=1e-12)
    flatter = (logs(p) * (alpha - 1)).log_softmax(-1)
    assert float(pseudo_holder(logs(p), flatter, alpha)) == pytest.approx(0.0, abs=1e-12)


def test_the_released_form_does_not_pass_for_the_proper_one() -> None:
    """It would rather have a flat answer than the right one."""
    flatter = (logs(P) * 0.1).log_softmax(-1)
    assert pseudo_holder(logs(P), flatter, 1.1) < pseudo_holder(logs(P), logs(P), 1.1)
    assert holder(logs(P), flatter, 1.1, 1.0) > holder(logs(P), logs(P), 1.1, 1.0)
