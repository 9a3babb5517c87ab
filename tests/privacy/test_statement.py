"""What is said of a model's privacy."""

from dataclasses import replace

from privacy.accounting import ADJACENCY, UNIT
from privacy.statement import OUTSIDE, statement
from protocol.recipe import Privacy
from tests.federation import recipe


def test_a_guarantee_is_said_with_all_that_it_needs() -> None:
    private = recipe(privacy=Privacy(epsilon=8.0, clip_norm=0.5))
    for words in ("epsilon 8", "clip norm 0.5", f"level of a {UNIT}", ADJACENCY, OUTSIDE, "DP-SGD"):
        assert words in statement(private)
    correlated = replace(private, privacy=Privacy(epsilon=8.0, mechanism="ftrl"))
    assert "DP-FTRL" in statement(correlated)


def test_no_guarantee_is_said_as_clearly() -> None:
    assert statement(recipe()).startswith("None.")
