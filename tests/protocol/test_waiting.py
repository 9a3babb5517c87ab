"""Pauses between looks: what they cost whoever waits, and whoever is asked."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.waiting import SHARE, SHORTEST_S, pause


def _looks(takes_s: float, longest_s: float) -> tuple[int, float]:
    """How often is looked for what takes `takes_s`, and how late it is noticed."""
    looks, waited = 0, 0.0
    while waited < takes_s:
        looks, waited = looks + 1, waited + pause(waited, longest_s)
    return looks, waited - takes_s


@given(st.floats(0.0, 5000.0), st.floats(SHORTEST_S, 5.0))
def test_an_answer_is_noticed_at_most_a_tenth_late(takes_s: float, longest_s: float) -> None:
    _, late = _looks(takes_s, longest_s)
    assert late <= min(max(SHORTEST_S, SHARE * takes_s), longest_s) + 1e-6


def test_an_hour_costs_little_more_looks_than_pauses_of_the_longest_kind() -> None:
    looks, _ = _looks(3600.0, 1.0)
    assert looks < 3600 + 60
