"""A coordinator that lies: what it asks, and that it gets nothing that unmasks a single site.

Every attack is run against the honest site. Some are run against a site with one check taken away as
well, and then go all the way to the victim's own values: that is what the check is for.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secagg import channel, shamir
from privacy.secagg import site as site_room
from privacy.secagg.coordinator import CoordinatorSession
from privacy.secagg.masks import Words, shift
from privacy.secagg.site import AGREEMENT, Revealed, SiteSession
from privacy.secagg.terms import Advert, pair_info, read_advert, signed, threshold
from protocol.errors import PrivacyError
from tests.privacy.secagg.federations import Sites, begun, contributed, contribution, names, sites

VICTIM = "s00"
ROUND = {"round": 2}
RUN = {"run": "other"}
ATTEMPT = {"attempt": "second"}
RECIPE = {"recipe": "another"}
FEWEST = {"fewest": 4}


def _taken(federation: Sites, steps: int) -> CoordinatorSession:
    """All sites took `steps` of share, contribute, agree, reveal."""
    coordinator = begun(federation, {})
    if steps >= 2:
        contributed(federation, coordinator, {})
    if steps >= 3:
        for site in coordinator.contributed:
            coordinator.sign(site, federation.sessions[site].agree(coordinator.contributed))
    return coordinator


STEPS: dict[str, Callable[[SiteSession], object]] = {
    "advertise": lambda session: session.advertise(),
    "share": lambda session: session.share([]),
    "accept": lambda session: session.accept({}),
    "mask": lambda session: session.mask({}, {}),
    "agree": lambda session: session.agree([]),
    "reveal": lambda session: session.reveal({}),
}


def _refuses_all_but(session: SiteSession, step: str) -> None:
    for other in STEPS.keys() - {step}:
        with pytest.raises(PrivacyError, match=f"'{other}' of round 1 is out of turn"):
            STEPS[other](session)


def test_each_step_is_taken_once_and_in_order() -> None:
    federation = sites(4, 3)
    victim = federation.sessions[VICTIM]
    coordinator = CoordinatorSession(federation.terms, federation.pins)
    _refuses_all_but(victim, "advertise")
    adverts = [session.advertise() for session in federation.sessions.values()]
    for advert in adverts:
        coordinator.admit(advert.site, advert)
    _refuses_all_but(victim, "share")
    for site, session in federation.sessions.items():
        coordinator.post(site, session.share(adverts))
    _refuses_all_but(victim, "accept")
    for site, session in federation.sessions.items():
        session.accept(coordinator.inbox(site))
    _refuses_all_but(victim, "mask")
    for site in federation.sessions:
        coordinator.count(site, contribution(federation, site, ["shared"])[0])
    _refuses_all_but(victim, "agree")
    for site, session in federation.sessions.items():
        coordinator.sign(site, session.agree(names(4)))
    _refuses_all_but(victim, "reveal")
    victim.reveal(coordinator.signatures)
    _refuses_all_but(victim, "")


def test_nothing_follows_a_refusal() -> None:
    federation = sites(4, 3)
    coordinator = _taken(federation, 2)
    session = federation.sessions[VICTIM]
    with pytest.raises(PrivacyError, match="too few"):
        session.agree([VICTIM, "s01"])
    with pytest.raises(PrivacyError, match="out of turn"):
        session.agree(coordinator.contributed)
    with pytest.raises(PrivacyError, match="out of turn"):
        session.reveal({})


def _swapped(advert: Advert, **keys: bytes) -> Advert:
    return replace(advert, **keys)


KEY = channel.public_of(channel.new_key())
SWAPS: dict[str, Callable[[Sites, Advert], Advert]] = {
    "mask key": lambda federation, advert: _swapped(advert, mask_key=KEY),
    "letter key": lambda federation, advert: _swapped(advert, letter_key=KEY),
    "both keys": lambda federation, advert: _swapped(advert, mask_key=KEY, letter_key=channel.public_of(KEY)),
    "groups": lambda federation, advert: replace(advert, groups=("shared", "head:tumour")),
    "name": lambda federation, advert: replace(advert, site="s02"),
    "stranger": lambda federation, advert: replace(advert, site="nobody"),
    "no signature": lambda federation, advert: replace(advert, signature=b""),
    "signed by another site": lambda federation, advert: signed(
        _swapped(advert, mask_key=KEY), federation.terms, federation.signers["s03"]
    ),
    "another purpose": lambda federation, advert: replace(
        advert,
        signature=federation.signers[advert.site].sign(AGREEMENT, advert.statement(federation.terms)),
    ),
}


@pytest.mark.parametrize("swap", SWAPS)
def test_swapped_keys_are_refused_by_everybody(swap: str) -> None:
    federation = sites(4, 3)
    adverts = {site: session.advertise() for site, session in federation.sessions.items()}
    shown = [SWAPS[swap](federation, a) if site == "s01" else a for site, a in adverts.items()]
    for site in adverts:
        with pytest.raises(PrivacyError):
            federation.sessions[site].share(shown)


@pytest.mark.parametrize("changes", [ROUND, RUN, ATTEMPT, RECIPE, FEWEST], ids=str)
def test_keys_of_another_round_are_refused(changes: dict[str, object]) -> None:
    federation = sites(4, 3)
    old = federation.again(**changes).sessions["s01"].advertise()
    adverts = [s.advertise() if site != "s01" else old for site, s in federation.sessions.items()]
    for site in (VICTIM, "s02", "s03"):
        with pytest.raises(PrivacyError, match="'s01' are not signed by it for this round"):
            federation.sessions[site].share(adverts)


def test_a_site_misses_its_own_keys_and_sees_twins() -> None:
    for lie in ("own missing", "own replayed", "twice", "one key for two", "too few"):
        federation = sites(4, 3)
        adverts = {site: session.advertise() for site, session in federation.sessions.items()}
        fresh = federation.again().sessions
        shown = {
            "own missing": [a for site, a in adverts.items() if site != VICTIM],
            "own replayed": [fresh[VICTIM].advertise(), *list(adverts.values())[1:]],
            "twice": [*adverts.values(), fresh["s01"].advertise()],
            "one key for two": [
                *list(adverts.values())[:3],
                signed(replace(adverts["s02"], site="s03"), federation.terms, federation.signers["s03"]),
            ],
            "too few": list(adverts.values())[:2],
        }[lie]
        with pytest.raises(PrivacyError):
            federation.sessions[VICTIM].share(shown)


def test_letters_of_another_view_attempt_sender_or_receiver_are_not_opened() -> None:
    federation = sites(4, 3)
    coordinator = begun(federation, {})
    honest = coordinator.inbox(VICTIM)
    other = begun(federation.again(attempt="second"), {}).inbox(VICTIM)
    lies = [
        honest | {"s01": other["s01"]},
        honest | {"s01": honest["s02"], "s02": honest["s01"]},
        honest | {"s01": coordinator.inbox("s03")["s01"]},
        honest | {"s01": b""},
    ]
    for lie in lies:
        again = sites(4, 3)
        mine = begun(again, {}).inbox(VICTIM)
        with pytest.raises(PrivacyError):
            again.sessions[VICTIM].accept({s: lie[s] if lie[s] is not honest[s] else mine[s] for s in mine})


def test_sites_that_were_shown_different_rosters_cannot_go_on_together() -> None:
    """The coordinator shows s03's keys to all but the victim: their masks are against another view."""
    federation = sites(4, 3)
    adverts = {site: session.advertise() for site, session in federation.sessions.items()}
    without = [a for site, a in adverts.items() if site != "s03"]
    federation.sessions[VICTIM].share(without)
    letters = {s: federation.sessions[s].share(list(adverts.values())) for s in ("s01", "s02", "s03")}
    with pytest.raises(PrivacyError, match="cannot be opened"):
        federation.sessions[VICTIM].accept({s: letters[s][VICTIM] for s in ("s01", "s02")})


LISTS: dict[str, list[str]] = {
    "without the site": ["s01", "s02", "s03"],
    "too few": [VICTIM, "s01"],
    "one twice": [VICTIM, "s01", "s01"],
    "a stranger": [VICTIM, "s01", "nobody"],
    "nobody": [],
}


@pytest.mark.parametrize("lie", LISTS)
def test_a_list_of_contributors_that_cannot_be_is_not_signed(lie: str) -> None:
    federation = sites(4, 3)
    _taken(federation, 2)
    with pytest.raises(PrivacyError, match="not aggregated"):
        federation.sessions[VICTIM].agree(LISTS[lie])


def test_a_site_that_did_not_share_is_no_contributor() -> None:
    federation = sites(4, 3)
    coordinator = begun(federation, {"s03": 1})
    contributed(federation, coordinator, {"s03": 1})
    with pytest.raises(PrivacyError, match="shared no secrets"):
        federation.sessions[VICTIM].agree(names(4))


def test_too_few_or_wrong_signatures_reveal_nothing() -> None:
    for lie in ("too few", "none", "forged", "of another attempt", "of no contributor", "borrowed"):
        federation = sites(4, 3)
        coordinator = _taken(federation, 3)
        old = _taken(federation.again(attempt="second"), 3).signatures
        honest = coordinator.signatures
        wrong = {
            "too few": {s: honest[s] for s in (VICTIM, "s01")},
            "none": {},
            "forged": honest | {"s02": bytes(64)},
            "of another attempt": old,
            "of no contributor": honest | {"nobody": honest["s01"]},
            "borrowed": dict.fromkeys(honest, honest["s01"]),
        }[lie]
        with pytest.raises(PrivacyError):
            federation.sessions[VICTIM].reveal(wrong)


def _wants(federation: Sites) -> tuple[CoordinatorSession, dict[str, Words]]:
    """Everybody has contributed; return the coordinator and each site's masked values."""
    coordinator, sent = begun(federation, {}), dict[str, Words]()
    for site, session in federation.sessions.items():
        counts, vectors = contribution(federation, site, session.accept(coordinator.inbox(site)))
        coordinator.count(site, counts)
        sent[site] = vectors["shared"]
    return coordinator, sent


Got = list[tuple[str, Revealed]]
"""Who revealed what."""


def _attack(federation: Sites, lists: Mapping[str, Sequence[str]]) -> Got:
    """Show each site a list of contributors of its own, and ask it to reveal with whoever signed the same."""
    signatures: dict[tuple[str, ...], dict[str, bytes]] = {}
    for site, shown in lists.items():
        with suppress(PrivacyError):
            signature = federation.sessions[site].agree(shown)
            signatures.setdefault(tuple(shown), {})[site] = signature
    got: Got = []
    for known in signatures.values():
        for site in known:
            with suppress(PrivacyError):
                got.append((site, federation.sessions[site].reveal(known)))
    return got


def _unmasked(federation: Sites, coordinator: CoordinatorSession, got: Got, masked: Words) -> Words | None:
    """The victim's values from shares of its b and of its mask key, if there are enough of both."""
    number = {site: index + 1 for index, site in enumerate(federation.terms.roster)}
    seeds = {number[s]: each.seeds[VICTIM]["shared"] for s, each in got if VICTIM in each.seeds}
    keys = {number[s]: each.mask_keys[VICTIM] for s, each in got if VICTIM in each.mask_keys}
    least = federation.terms.threshold
    if min(len(seeds), len(keys)) < least:
        return None
    key = shamir.combine(keys, least)
    streams = [
        channel.derive(
            channel.agree(key, coordinator.adverts[peer].mask_key),
            pair_info(coordinator._view, "shared", VICTIM, peer),
        )
        for peer in federation.sessions
        if peer != VICTIM
    ]
    words = masked.copy()
    # The victim is first by name: all its streams were added.
    shift(0, words, [], [shamir.combine(seeds, least), *streams])
    return words


HALVES = {"s00": ["s00", "s01"], "s01": ["s00", "s01"], "s02": ["s02", "s03"], "s03": ["s02", "s03"]}
OVERLAP = {s: names(4) if s < "s02" else ["s01", "s02", "s03"] for s in names(4)}


@pytest.mark.parametrize("lists", [HALVES, OVERLAP])
def test_a_split_list_of_contributors_reveals_nothing(lists: dict[str, list[str]]) -> None:
    federation = sites(4, 3)
    _wants(federation)
    assert _attack(federation, lists) == []


def test_the_mutant_threshold_of_one_half_loses_the_victims_values() -> None:
    """With t = n/2 two halves sign two lists, and the coordinator has b and the mask key."""
    federation = sites(4, 2, fewest=1)
    coordinator, sent = _wants(federation)
    words = _unmasked(federation, coordinator, _attack(federation, HALVES), sent[VICTIM])
    assert words is not None
    assert np.array_equal(words, federation.values[VICTIM]["shared"])


def test_the_mutant_that_answers_twice_loses_the_victims_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SiteSession, "_step", lambda self, name: nullcontext())
    federation = sites(4, 3)
    coordinator, sent = _wants(federation)
    everybody = _attack(federation, dict.fromkeys(names(4), names(4)))
    without = _attack(federation, dict.fromkeys(names(4)[1:], names(4)[1:]))
    words = _unmasked(federation, coordinator, everybody + without, sent[VICTIM])
    assert words is not None
    assert np.array_equal(words, federation.values[VICTIM]["shared"])


# Each list has three sites. Yet s00 and s01 are on at least three of them, and each of the others
# is missing from at least three.
MIXED = {
    "s00": ["s00", "s01", "s02"],
    "s01": ["s00", "s01", "s03"],
    "s02": ["s00", "s01", "s02"],
    "s03": ["s00", "s01", "s03"],
    "s04": ["s00", "s01", "s04"],
}


def _sum_of_two(federation: Sites) -> Words:
    """What the coordinator has of s00 + s01 after it showed each site a list of its own."""
    coordinator, sent = _wants(federation)
    sums = {"shared": sent["s00"] + sent["s01"]}
    got = _attack(federation, MIXED)
    view = coordinator._view
    liar = CoordinatorSession(replace(federation.terms, fewest=1), federation.pins)
    liar.adverts, liar._letters, liar.__dict__["_view"] = coordinator.adverts, coordinator._letters, view
    for site in ("s00", "s01"):
        liar.count(site, {"shared": 0})
    with suppress(PrivacyError):
        list(liar.unmask(dict(got), sums))
    return sums["shared"]


def test_lists_mixed_so_that_the_sum_is_of_two_reveal_nothing() -> None:
    federation = sites(5, 3)
    plain = federation.values["s00"]["shared"] + federation.values["s01"]["shared"]
    assert not np.array_equal(_sum_of_two(federation), plain)


def test_the_mutant_that_reveals_without_agreement_lets_a_sum_of_two_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = SiteSession._require

    def trusting(self: SiteSession, holds: bool, otherwise: str) -> None:  # noqa: FBT001
        honest(self, holds or otherwise == "signatures are too few", otherwise)

    monkeypatch.setattr(SiteSession, "_require", trusting)
    federation = sites(5, 3)
    plain = federation.values["s00"]["shared"] + federation.values["s01"]["shared"]
    assert np.array_equal(_sum_of_two(federation), plain)


@settings(max_examples=25)
@given(st.data(), st.integers(3, 7), st.floats(0.5, 0.9))
def test_no_lie_about_contributors_gets_both_secrets_of_a_site(
    data: st.DataObject, number: int, share: float
) -> None:
    """Any lists to any sites, with the help of c sites that sign and tell everything, 2t > n + c."""
    least = threshold(share, number)
    federation = sites(number, least)
    coordinator, _ = _wants(federation)
    everybody = list(federation.sessions)
    helpers = everybody[number - (2 * least - number - 1) :] if 2 * least - number - 1 else []
    honest = [site for site in everybody if site not in helpers]
    lists = {site: tuple(data.draw(st.lists(st.sampled_from(everybody), unique=True))) for site in honest}
    favourites = [tuple(everybody), tuple(everybody[1:])]
    lists |= {s: data.draw(st.sampled_from([*favourites, lists[s]])) for s in honest}
    got = _with_helpers(federation, coordinator, honest, helpers, lists)
    for site in honest:
        seeds = sum(site in each.seeds for each in got) + len(helpers)
        keys = sum(site in each.mask_keys for each in got) + len(helpers)
        assert min(seeds, keys) < least


def _with_helpers(
    federation: Sites,
    coordinator: CoordinatorSession,
    honest: list[str],
    helpers: list[str],
    lists: dict[str, tuple[str, ...]],
) -> list[Revealed]:
    signatures: dict[tuple[str, ...], dict[str, bytes]] = {}
    for site in honest:
        try:
            signature = federation.sessions[site].agree(lists[site])
        except PrivacyError:
            continue
        signatures.setdefault(tuple(sorted(lists[site])), {})[site] = signature
    for contributed_ones, known in signatures.items():
        statement = site_room.agreement(coordinator._view, names(len(federation.sessions)), contributed_ones)
        known |= {
            s: federation.signers[s].sign(AGREEMENT, statement) for s in helpers if s in contributed_ones
        }
    got = []
    for known in signatures.values():
        for site in known.keys() & set(honest):
            try:
                got.append(federation.sessions[site].reveal(known))
            except PrivacyError:
                continue
    return got


@pytest.mark.parametrize(
    "plain",
    [
        None,
        {},
        [],
        {"site": "s01", "mask_key": "zz", "letter_key": "00" * 32, "groups": [], "signature": ""},
        {"site": "s01", "mask_key": "00" * 31, "letter_key": "00" * 32, "groups": [], "signature": ""},
        {"site": "s01", "mask_key": 3, "letter_key": "00" * 32, "groups": [], "signature": ""},
    ],
)
def test_keys_that_are_none_are_refused(plain: object) -> None:
    with pytest.raises(PrivacyError, match="update the older side"):
        read_advert(plain)


@pytest.mark.parametrize(
    "plain", [None, {}, {"mask_keys": {"a": -1}, "seeds": {}}, {"mask_keys": {"a": True}, "seeds": {}}]
)
def test_shares_that_are_none_are_refused(plain: object) -> None:
    with pytest.raises(PrivacyError, match="not what a site reveals"):
        site_room.read_revealed(plain)
