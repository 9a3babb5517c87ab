"""What a sum over sites is enough for is said in the recipe's room, of the strategies that there are."""

import pytest

from protocol.errors import RecipeError
from protocol.recipe import PLAIN_SUMS, SUMMED, Part, Secure, dump_recipe, load_recipe
from strategies.base import Local
from strategies.catalogue import STRATEGIES
from tests.federation import recipe


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - set(SUMMED)))
def test_a_strategy_that_looks_at_single_updates_is_refused_by_the_recipe_itself(strategy: str) -> None:
    text = dump_recipe(recipe(strategy=Part(strategy), secure=Secure(enabled=True)))
    with pytest.raises(RecipeError, match=rf"^strategy: '{strategy}' needs each site's own update"):
        load_recipe(text)


def test_every_name_in_the_lists_is_a_strategy() -> None:
    assert set(PLAIN_SUMS) < set(SUMMED) < set(STRATEGIES)


@pytest.mark.parametrize("strategy", PLAIN_SUMS)
def test_sites_know_nothing_of_a_plain_sum(strategy: str) -> None:
    built = STRATEGIES[strategy]()
    assert built.local == Local()
    assert built.sends == ()
