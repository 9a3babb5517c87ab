"""The coordinator in one secure round: passes keys and letters on, adds up, takes masks away.

It holds one sum, whatever the number of sites. What the sites check it need not check again; it looks
only at what one broken site could spoil for all the others.
"""

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property

from privacy.keys import Pins, verified
from privacy.secagg import channel, shamir
from privacy.secagg.masks import MODULUS, Words, shift
from privacy.secagg.site import AGREEMENT, Revealed
from privacy.secagg.terms import Advert, Terms, agreement, contributors, pair_info, view_of, vouch
from protocol.errors import PrivacyError


class CoordinatorSession:
    """The steps of one round under `terms`: who is left after each, and the sum."""

    def __init__(self, terms: Terms, pins: Pins) -> None:
        self.terms = terms
        self._pins = pins
        self.adverts: dict[str, Advert] = {}
        self._letters: dict[str, Mapping[str, bytes]] = {}
        self.contributed: list[str] = []
        self.counts: dict[str, int] = {}
        self._signatures: dict[str, bytes] = {}

    def admit(self, site: str, advert: Advert) -> None:
        """Take a site's keys; `PrivacyError` where it did not sign them."""
        if advert.site != site:
            raise PrivacyError(f"site '{site}' sent the keys of another")
        vouch(advert, self.terms, self._pins)
        self.adverts[site] = advert

    def post(self, sender: str, letters: Mapping[str, bytes]) -> None:
        """Take a site's letters; `PrivacyError` where it did not write to every other."""
        if set(letters) != self.adverts.keys() - {sender}:
            raise PrivacyError(f"site '{sender}' did not write to every other site")
        self._letters[sender] = letters

    def inbox(self, receiver: str) -> dict[str, bytes]:
        """Return sender -> the letter to `receiver`, of every site that wrote."""
        return {sender: each[receiver] for sender, each in self._letters.items() if sender != receiver}

    def groups(self, site: str) -> list[str]:
        """Return the groups that `site` is to contribute to."""
        sums = contributors(self.adverts, self._letters, self.terms.fewest)
        return [group for group, sites in sums.items() if site in sites]

    def count(self, site: str, counts: Mapping[str, int]) -> None:
        """Note that the masked vectors of `site` were added, and add its masked counts."""
        self.contributed.append(site)
        for group, count in counts.items():
            self.counts[group] = (self.counts.get(group, 0) + count) % MODULUS

    def sign(self, site: str, signature: bytes) -> None:
        """Take a site's signature under the list of contributors; `PrivacyError` where it is none."""
        statement = agreement(self._view, self._letters.keys(), self.contributed)
        if not verified(self._pins.of(site), AGREEMENT, statement, signature):
            raise PrivacyError(f"site '{site}' signed another list of contributors")
        self._signatures[site] = signature

    @cached_property
    def _view(self) -> bytes:
        return view_of(self.terms, self.adverts)

    @property
    def signatures(self) -> dict[str, bytes]:
        """The signatures so far: site -> signature."""
        return dict(self._signatures)

    def unmask(
        self, revealed: Mapping[str, Revealed], vectors: Mapping[str, Words]
    ) -> Iterator[tuple[str, int, int]]:
        """Take the masks away, in place, and yield (group, sum of counts, number of contributors).

        `vectors`: group -> sum of what came, `(size,)`; groups of fewer than `fewest`
        contributors stay masked and are not yielded.
        """
        keys = {site: self._mask_key(site, revealed) for site in self._letters.keys() - set(self.contributed)}
        counted_on = contributors(self.adverts, self._letters, self.terms.fewest)
        for group, sites in contributors(self.adverts, self.contributed, self.terms.fewest).items():
            seeds = [self._seed(site, group, revealed) for site in sites]
            plus, minus = self._orphans(group, sites, counted_on[group], keys)
            yield group, shift(self.counts[group], vectors[group], plus, [*seeds, *minus]), len(sites)

    def _orphans(
        self, group: str, here: Collection[str], counted_on: Collection[str], keys: Mapping[str, bytes]
    ) -> tuple[list[bytes], list[bytes]]:
        """Return the streams, to add and to subtract, that those here share with those that vanished."""
        plus: list[bytes] = []
        minus: list[bytes] = []
        for gone in keys.keys() & set(counted_on):
            for site in here:
                secret = channel.agree(keys[gone], self.adverts[site].mask_key)
                stream = channel.derive(secret, pair_info(self._view, group, site, gone))
                (minus if site < gone else plus).append(stream)
        return plus, minus

    def _mask_key(self, site: str, revealed: Mapping[str, Revealed]) -> bytes:
        return self._whole({holder: each.mask_keys.get(site) for holder, each in revealed.items()})

    def _seed(self, site: str, group: str, revealed: Mapping[str, Revealed]) -> bytes:
        return self._whole({holder: each.seeds.get(site, {}).get(group) for holder, each in revealed.items()})

    def _whole(self, shares: Mapping[str, int | None]) -> bytes:
        numbers = {self.terms.roster.index(h) + 1: share for h, share in shares.items() if share is not None}
        return shamir.combine(numbers, self.terms.threshold)
