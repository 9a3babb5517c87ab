"""Whom to ask."""

import pytest

from protocol.errors import QuorumError
from protocol.recipe import Head, Modality, Part, Recipe, Roster
from server.record import SiteSummary
from server.roster import Member, choose


def _members(*sites: str) -> list[Member]:
    summary = SiteSummary("x", {}, {}, {}, {})
    return [Member(site, {"shared": 3}, frozenset({"shared"}), summary) for site in sites]


def _recipe(**roster: object) -> Recipe:
    return Recipe(
        "r",
        {"t": Modality("table", 2)},
        {"y": Head("classification")},
        Part("d"),
        Part("m"),
        roster=Roster(**roster),
    )


def _names(members: list[Member]) -> list[str]:
    return [member.site for member in members]


def test_everybody_in_name_order() -> None:
    assert _names(choose(_recipe(), _members("c", "a", "b"), (), 1)) == ["a", "b", "c"]


def test_a_share_of_the_sites_is_the_same_in_a_resumed_run() -> None:
    members = _members(*"abcdefgh")
    rounds = [_names(choose(_recipe(fraction=0.5), members, (), n)) for n in range(1, 20)]
    assert all(len(names) == 4 for names in rounds)
    assert len({tuple(names) for names in rounds}) > 5
    assert rounds == [_names(choose(_recipe(fraction=0.5), members[::-1], (), n)) for n in range(1, 20)]


def test_the_quorum_is_asked_even_when_the_share_is_smaller() -> None:
    assert len(choose(_recipe(fraction=0.1, quorum=3), _members(*"abcdefgh"), (), 1)) == 3


def test_who_has_spent_its_budget_or_owns_nothing_is_not_asked() -> None:
    idle = Member("d", {}, frozenset(), SiteSummary("d", {}, {}, {}, {}))
    assert _names(choose(_recipe(), [*_members("a", "b", "c"), idle], {"b"}, 1)) == ["a", "c"]


def test_only_named_sites_train() -> None:
    assert _names(choose(_recipe(train=("b",)), _members("a", "b"), (), 1)) == ["b"]


def test_too_few_is_said_with_who_and_what_to_do() -> None:
    with pytest.raises(
        QuorumError, match=r"round 4: 1 sites can train, quorum is 2.*'a'.*lower roster.quorum"
    ):
        choose(_recipe(quorum=2), _members("a", "b"), {"a"}, 4)
