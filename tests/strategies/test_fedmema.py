"""Whose decoder is whose, and whom the anchors follow."""

import pytest
import torch

from models.catalogue import build_model
from models.flat import Flat
from protocol.errors import RecipeError
from protocol.recipe import Part, Roster
from protocol.update import Update
from server.app import require
from server.record import SiteSummary
from server.roster import Member
from strategies import fedmema as module
from strategies.base import Local, Received, State
from strategies.fedmema import anchored, fedmema, model_for
from tests.federation import recipe
from tests.models.cases import recipe_for
from tests.strategies.federations import ANCHORED, laid_out

GROUPS = ("head:tumour", "modality:flair", "shared")  # by ANCHORED's layout the first holds anchors


def sent(name: str, delta: float, cases: int) -> Update:
    deltas = {group: torch.full((1,), delta) for group in GROUPS}
    return Received(deltas, dict.fromkeys(GROUPS, cases), site=name)


def play(*rounds: list[Update]) -> State:
    strategy = laid_out(fedmema(server="s"), ANCHORED)
    state = strategy.init({group: torch.zeros(1) for group in GROUPS})
    for updates in rounds:
        state = strategy.step(state, updates)
    return state


def at(state: State, name: str) -> list[float]:
    return [float(model_for(state, name)[group]) for group in GROUPS]


BOTH = [sent("s", 1.0, 30), sent("a", 5.0, 10)]


def check_whose_is_what() -> None:
    """Anchors are the server's, encoders the mean by cases, the decoder each one's own."""
    assert at(play(BOTH), "a") == [1.0, 2.0, 5.0]
    assert at(play(BOTH), "s") == at(play(BOTH), "new") == [1.0, 2.0, 1.0]
    assert at(play(BOTH, BOTH), "a") == [2.0, 4.0, 10.0]


def test_whose_is_what() -> None:
    check_whose_is_what()


@pytest.mark.parametrize("found", [set[str](), set(GROUPS)])
def test_anchors_that_are_not_the_server_s_and_decoders_that_are_are_caught(
    found: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "anchored", lambda layout: found)
    with pytest.raises(AssertionError):
        check_whose_is_what()


def test_without_the_server_s_site_only_encoders_move() -> None:
    after = play(BOTH, [sent("a", 5.0, 10)])
    assert at(after, "new") == [1.0, 7.0, 1.0]
    assert at(after, "a") == [1.0, 7.0, 10.0]


def test_anchors_are_found_in_the_network() -> None:
    assert anchored(Flat(build_model(recipe_for("fedmema"))).layout) == {"head:scan"}


def test_a_server_s_site_that_does_not_train_is_refused_before_anything_starts() -> None:
    members = [Member(name, {"shared": 1}, frozenset(), SiteSummary(name, {}, {}, {}, {})) for name in "ab"]
    named, strategy = recipe(strategy=Part("fedmema", {"server": "b"})), fedmema(server="b")
    require(strategy, named, members)
    message = r"strategy: 'fedmema' learns from site 'b', which does not train here; name one of a$"
    for less, roster in ((members[:1], Roster()), (members, Roster(train=("a",)))):
        with pytest.raises(RecipeError, match=message):
            require(strategy, recipe(strategy=named.strategy, roster=roster), less)


def test_sites_know_nothing_of_it() -> None:
    """But that the server's is named in the recipe."""
    assert (fedmema(server="s").local, fedmema(server="s").sends) == (Local(), ())
