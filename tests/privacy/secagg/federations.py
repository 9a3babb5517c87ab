"""A few sites and a coordinator in memory, and rounds in which sites die where they are told to.

`play` takes an honest coordinator through the five steps. `last[site]` is the last step that a site
takes: 0 none, 1 advertise, ... 5 reveal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.keys import Pins, Signer
from privacy.secagg.coordinator import CoordinatorSession
from privacy.secagg.masks import Words
from privacy.secagg.site import SiteSession
from privacy.secagg.terms import Terms

SIZE = 5
ALL = 5


def names(number: int) -> list[str]:
    """Site names in order."""
    return [f"s{index:02}" for index in range(number)]


@dataclass
class Sites:
    """Sessions of some sites under the same terms, and what each would contribute."""

    terms: Terms
    pins: Pins
    signers: Mapping[str, Signer]
    owned: Mapping[str, Sequence[str]]
    values: Mapping[str, Mapping[str, Words]]
    counts: Mapping[str, Mapping[str, int]]
    sessions: dict[str, SiteSession]

    def again(self, **changes: object) -> "Sites":
        """The same sites in another round or attempt."""
        terms = replace(self.terms, **changes)  # type: ignore[arg-type]
        return replace(self, terms=terms, sessions=_sessions(terms, self.signers, self.pins, self.owned))


def sites(
    number: int, threshold: int, fewest: int = 3, owned: Mapping[str, Sequence[str]] | None = None
) -> Sites:
    """`number` sites with random values; each owns `shared` unless `owned` says otherwise."""
    roster = names(number)
    signers = {site: Signer(Ed25519PrivateKey.generate()) for site in roster}
    pins = Pins(bytes(32), {site: signer.public for site, signer in signers.items()})
    terms = Terms("run", 1, "first", "recipe text", tuple(roster), threshold, fewest)
    groups = {site: ["shared"] for site in roster} | dict(owned or {})
    rng = np.random.default_rng(number)
    values = {s: {g: rng.integers(0, 2**32, SIZE, np.uint32) for g in groups[s]} for s in roster}
    counts = {s: {g: int(rng.integers(1, 1000)) for g in groups[s]} for s in roster}
    return Sites(terms, pins, signers, groups, values, counts, _sessions(terms, signers, pins, groups))


def _sessions(
    terms: Terms, signers: Mapping[str, Signer], pins: Pins, owned: Mapping[str, Sequence[str]]
) -> dict[str, SiteSession]:
    return {site: SiteSession(site, terms, signers[site], pins, owned[site]) for site in terms.roster}


def contribution(
    federation: Sites, site: str, groups: Sequence[str]
) -> tuple[dict[str, int], dict[str, Words]]:
    """Masked counts and vectors of one site."""
    vectors = {group: federation.values[site][group].copy() for group in groups}
    counts = federation.sessions[site].mask({g: federation.counts[site][g] for g in groups}, vectors)
    return counts, vectors


def begun(federation: Sites, last: Mapping[str, int]) -> CoordinatorSession:
    """The coordinator after `advertise` and `share`."""
    coordinator = CoordinatorSession(federation.terms, federation.pins)
    for site, session in federation.sessions.items():
        if last.get(site, ALL) >= 1:
            coordinator.admit(site, session.advertise())
    adverts = list(coordinator.adverts.values())
    for site in coordinator.adverts:
        if last.get(site, ALL) >= 2:
            coordinator.post(site, federation.sessions[site].share(adverts))
    return coordinator


def contributed(
    federation: Sites, coordinator: CoordinatorSession, last: Mapping[str, int]
) -> dict[str, Words]:
    """The sums after `contribute`."""
    sums: dict[str, Words] = {}
    for site in coordinator.adverts:
        if last.get(site, ALL) < 3:
            continue
        groups = federation.sessions[site].accept(coordinator.inbox(site))
        assert groups == coordinator.groups(site)
        counts, vectors = contribution(federation, site, groups)
        for group, words in vectors.items():
            sums[group] = sums[group] + words if group in sums else words
        coordinator.count(site, counts)
    return sums


def play(federation: Sites, last: Mapping[str, int] | None = None) -> dict[str, tuple[int, Words]]:
    """Group -> (sum of counts, sum of values) of a round; `PrivacyError` where it cannot end."""
    last = last or {}
    coordinator = begun(federation, last)
    sums = contributed(federation, coordinator, last)
    for site in coordinator.contributed:
        if last.get(site, ALL) >= 4:
            coordinator.sign(site, federation.sessions[site].agree(coordinator.contributed))
    signatures = coordinator.signatures
    revealed = {
        site: federation.sessions[site].reveal(signatures) for site in signatures if last.get(site, ALL) >= 5
    }
    return {group: (count, sums[group]) for group, count, _ in coordinator.unmask(revealed, sums)}


def expected(federation: Sites, last: Mapping[str, int] | None = None) -> dict[str, tuple[int, Words]] | None:
    """The same by plain sums, or None where a step has fewer sites than the threshold."""
    last = last or {}
    steps = {site: last.get(site, ALL) for site in federation.sessions}
    if any(sum(step >= n for step in steps.values()) < federation.terms.threshold for n in (1, 2, 3, 4, 5)):
        return None
    here = [site for site, step in steps.items() if step >= 3]
    found: dict[str, tuple[int, Words]] = {}
    for group in sorted({g for site in here for g in federation.owned[site]}):
        owners = [site for site in here if group in federation.owned[site]]
        if len(owners) >= federation.terms.fewest:
            total = sum(federation.values[site][group].astype(object) for site in owners)
            words = np.array([value % 2**32 for value in total], np.uint32)
            found[group] = (sum(federation.counts[site][group] for site in owners), words)
    return found


def same(one: Mapping[str, tuple[int, Words]] | None, other: Mapping[str, tuple[int, Words]] | None) -> bool:
    """Equal to the last bit."""
    if one is None or other is None:
        return one is other
    return one.keys() == other.keys() and all(
        one[g][0] == other[g][0] and np.array_equal(one[g][1], other[g][1]) for g in one
    )
