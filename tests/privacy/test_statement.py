"""What is said of a model's privacy."""

from dataclasses import replace

from privacy.statement import ADJACENCY, OUTSIDE, UNIT, statement
from protocol.recipe import Privacy, Secure
from tests.federation import recipe


def test_a_guarantee_is_said_with_all_that_it_needs() -> None:
    private = recipe(privacy=Privacy(epsilon=8.0, clip_norm=0.5))
    for words in ("epsilon 8", "clip norm 0.5", f"level of a {UNIT}", ADJACENCY, OUTSIDE, "DP-SGD"):
        assert words in statement(private)
    correlated = replace(private, privacy=Privacy(epsilon=8.0, mechanism="ftrl"))
    assert "DP-FTRL" in statement(correlated)


def test_no_guarantee_is_said_as_clearly() -> None:
    assert statement(recipe()).startswith("None.")


def test_split_noise_is_not_said_to_hold_against_whoever_sees_one_update() -> None:
    whole = recipe(privacy=Privacy(epsilon=8.0))
    split = replace(whole, secure=Secure(enabled=True, noise_over=2))
    assert "everybody who sees updates" in statement(whole)
    assert "everybody who sees updates" not in statement(split)
    assert "as long as 2 sites of each sum are honest" in statement(split)
