"""The sum is exact, whoever dies where; below the threshold there is none; few contributors are not sent."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secagg import coordinator as coordinator_room
from privacy.secagg import site as site_room
from privacy.secagg.coordinator import CoordinatorSession
from privacy.secagg.masks import Words, shift
from privacy.secagg.terms import threshold
from protocol.errors import PrivacyError
from tests.privacy.secagg.federations import Sites, begun, contributed, expected, names, play, same, sites

STEPS = range(6)


def _ends_as_it_should(federation: Sites, last: dict[str, int]) -> bool:
    wanted = expected(federation, last)
    try:
        found = play(federation, last)
    except PrivacyError:
        found = None
    return same(found or None, wanted or None)


def _deaths(number: int) -> Iterator[dict[str, int]]:
    for steps in product(STEPS, repeat=number):
        yield dict(zip(names(number), steps, strict=True))


def _short(deaths: dict[str, int]) -> bool:
    """Two orders of the same deaths are enough where sites are alike: first to last, and last to first."""
    steps = list(deaths.values())
    return sorted(steps) in (steps, steps[::-1])


FIVE = [pytest.param(5, least, marks=pytest.mark.slow) for least in (3, 4)]


@pytest.mark.parametrize(("number", "least"), [(3, 2), (4, 3), *FIVE])
def test_for_every_set_of_deaths_the_sum_is_exact_or_there_is_none(number: int, least: int) -> None:
    federation = sites(number, least)
    for last in filter(_short, _deaths(number)):
        assert _ends_as_it_should(federation.again(attempt=str(last)), last), last


@pytest.mark.slow
@pytest.mark.parametrize(("number", "least"), [(3, 2), (4, 3)])
def test_the_order_of_sites_that_die_does_not_matter(number: int, least: int) -> None:
    federation = sites(number, least, owned={"s00": ["shared", "more"], "s01": ["shared", "more"]})
    for last in _deaths(number):
        assert _ends_as_it_should(federation.again(attempt=str(last)), last), last


OWNED = st.lists(st.sampled_from(["shared", "modality:t1", "head:tumour"]), unique=True, min_size=1)


@settings(max_examples=20)
@given(st.data(), st.integers(3, 9))
def test_with_groups_of_some_sites_the_sums_are_exact(data: st.DataObject, number: int) -> None:
    owned = {site: data.draw(OWNED) for site in names(number)}
    least = data.draw(st.integers(number // 2 + 1, number))
    last = {site: data.draw(st.sampled_from([5, 5, 5, 4, 3, 2, 1, 0])) for site in names(number)}
    assert _ends_as_it_should(sites(number, least, owned=owned), last)


@given(st.floats(0.5, 0.99), st.integers(1, 300))
def test_the_threshold_is_more_than_half_and_never_more_than_all(share: float, number: int) -> None:
    least = threshold(share, number)
    assert number < 2 * least
    assert least <= number


@pytest.mark.parametrize(("number", "least"), [(3, 3), (4, 3), (6, 5), (9, 7), (10, 7)])
def test_two_thirds_is_read_as_two_thirds(number: int, least: int) -> None:
    assert threshold(2 / 3, number) == least


def test_what_a_site_sends_says_nothing_by_itself() -> None:
    """The same values in two rounds look like two independent draws, and like neither value nor zero."""
    federation = sites(3, 2)
    seen = []
    for attempt in ("one", "two"):
        again = federation.again(attempt=attempt)
        coordinator = begun(again, {})
        groups = again.sessions["s00"].accept(coordinator.inbox("s00"))
        vectors = {"shared": np.zeros(4000, np.uint32)}
        assert groups == ["shared"]
        again.sessions["s00"].mask({"shared": 1}, vectors)
        seen.append(vectors["shared"])
    for words in (*seen, seen[0] - seen[1]):
        assert len(np.unique(words)) > 3990
        assert abs(words.astype(float).mean() / 2**32 - 0.5) < 0.03


def test_a_group_of_two_owners_is_never_sent() -> None:
    federation = sites(5, 3, owned={"s00": ["shared", "rare"], "s01": ["shared", "rare"]})
    coordinator = begun(federation, {})
    assert federation.sessions["s00"].accept(coordinator.inbox("s00")) == ["shared"]
    found = play(federation.again(attempt="second"))
    assert found.keys() == {"shared"}


def test_a_group_that_loses_its_third_contributor_stays_masked() -> None:
    rare = {site: ["shared", "rare"] for site in names(3)}
    federation = sites(6, 4, owned=rare)
    last = {"s01": 2}
    coordinator = begun(federation, last)
    sums = contributed(federation, coordinator, last)
    for site in coordinator.contributed:
        coordinator.sign(site, federation.sessions[site].agree(coordinator.contributed))
    revealed = {s: federation.sessions[s].reveal(coordinator.signatures) for s in coordinator.contributed}
    assert not any("rare" in groups for each in revealed.values() for groups in each.seeds.values())
    assert {g for g, _, _ in coordinator.unmask(revealed, sums)} == {"shared"}
    plain = federation.values["s00"]["rare"] + federation.values["s02"]["rare"]
    assert not np.array_equal(sums["rare"], plain)


def test_the_mutant_that_sends_small_groups_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = site_room.contributors
    for room in (site_room, coordinator_room):
        monkeypatch.setattr(
            room, "contributors", lambda adverts, present, fewest: honest(adverts, present, 1)
        )
    federation = sites(5, 3, owned={"s00": ["shared", "rare"], "s01": ["shared", "rare"]})
    assert "rare" in play(federation)


def _forgets(what: str) -> object:
    def shifted(count: int, words: Words, plus: list[bytes], minus: list[bytes]) -> int:
        kept = {"plus": (plus, []), "minus": ([], minus), "last": (plus, list(minus)[:-1])}[what]
        return shift(count, words, *kept)

    return shifted


@pytest.mark.parametrize("what", ["plus", "minus", "last"])
def test_the_mutant_that_leaves_a_mask_is_caught(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(coordinator_room, "shift", _forgets(what))
    assert not _ends_as_it_should(sites(4, 3), {"s01": 2})


def test_the_mutant_without_orphans_is_caught_by_a_death_and_by_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CoordinatorSession, "_orphans", lambda *_: ([], []))
    assert _ends_as_it_should(sites(4, 3), {})
    assert not _ends_as_it_should(sites(4, 3), {"s01": 2})


def test_a_wrong_share_is_found_out() -> None:
    federation = sites(3, 3)
    coordinator = begun(federation, {})
    sums = contributed(federation, coordinator, {})
    for site in coordinator.contributed:
        coordinator.sign(site, federation.sessions[site].agree(coordinator.contributed))
    revealed = {s: federation.sessions[s].reveal(coordinator.signatures) for s in coordinator.contributed}
    seeds = {s: dict(shares) for s, shares in revealed["s01"].seeds.items()}
    seeds["s00"]["shared"] = seeds["s01"]["shared"]
    revealed["s01"] = site_room.Revealed({}, seeds)
    with pytest.raises(PrivacyError, match="a site sent a wrong one"):
        list(coordinator.unmask(revealed, sums))


def test_the_coordinator_refuses_what_one_site_could_spoil_for_all() -> None:
    federation = sites(4, 3)
    coordinator = begun(federation, {})
    with pytest.raises(PrivacyError, match="keys of another"):
        coordinator.admit("s01", coordinator.adverts["s00"])
    with pytest.raises(PrivacyError, match="did not write to every other"):
        coordinator.post("s01", {"s00": b""})
    contributed(federation, coordinator, {})
    with pytest.raises(PrivacyError, match="signed another list"):
        coordinator.sign("s01", federation.sessions["s01"].agree(["s00", "s01", "s02"]))
