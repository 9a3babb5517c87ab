"""One site in one secure round: five steps, each of them once, in order.

Whatever the coordinator sends, the site checks for itself: that keys are signed by the sites that its own
file names, that letters come from the view it has, that enough sites stand behind one list of contributors.
A step that fails ends the session: nothing follows it, and the secrets are of no further use.

The secrets live in this object alone. A site that crashes forgets them, cannot go on in the
round, and the others take its masks away (if it had not contributed) or its b (if it had).
"""

import json
import os
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from privacy.keys import Pins, Signer, verified
from privacy.secagg import channel, shamir
from privacy.secagg.masks import Words, shift
from privacy.secagg.terms import (
    Advert,
    Terms,
    agreement,
    contributors,
    letter_info,
    pair_info,
    signed,
    view_of,
    vouch,
)
from protocol.errors import PrivacyError

AGREEMENT = "secagg.agreement"

_STEPS = ("advertise", "share", "accept", "mask", "agree", "reveal", "")


@dataclass(frozen=True)
class Letter:
    """What one site trusts another with: a share of its mask key, and of its b for each group."""

    mask_key: int
    seeds: Mapping[str, int]


@dataclass(frozen=True)
class Revealed:
    """What a site gives the coordinator in the end; no site stands in both.

    `mask_keys`   site that vanished -> a share of its mask key
    `seeds`       site that contributed -> group -> a share of its b
    """

    mask_keys: Mapping[str, int]
    seeds: Mapping[str, Mapping[str, int]]

    def plain(self) -> dict[str, Any]:
        """Write it as JSON holds it."""
        return {
            "mask_keys": dict(self.mask_keys),
            "seeds": {site: dict(shares) for site, shares in self.seeds.items()},
        }


def read_revealed(plain: Any) -> Revealed:
    """Read what `Revealed.plain` wrote; `PrivacyError` where it is something else."""
    try:
        return Revealed(
            _shares(plain["mask_keys"]), {str(s): _shares(each) for s, each in plain["seeds"].items()}
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise PrivacyError(
            f"not what a site reveals ({type(error).__name__}): update the older side"
        ) from error


class SiteSession:
    """The steps of `site` under `terms`; `groups` are those that it can contribute to."""

    def __init__(self, site: str, terms: Terms, signer: Signer, pins: Pins, groups: Collection[str]) -> None:
        if site not in terms.roster:
            raise PrivacyError(f"site '{site}' is not on the roster of this round")
        self.terms = terms
        self._site = site
        self._signer = signer
        self._pins = pins
        self._mask_key = channel.new_key()
        self._letter_key = channel.new_key()
        self._seeds = {group: os.urandom(shamir.SECRET_BYTES) for group in sorted(groups)}
        self._adverts: dict[str, Advert] = {}
        self._view = b""
        self._letters: dict[str, Letter] = {}
        self._contributed: tuple[str, ...] = ()
        self._next = _STEPS[0]

    def advertise(self) -> Advert:
        """Return this site's signed public keys."""
        with self._step("advertise"):
            keys = (channel.public_of(self._mask_key), channel.public_of(self._letter_key))
            advert = signed(Advert(self._site, *keys, tuple(self._seeds)), self.terms, self._signer)
            self._adverts = {self._site: advert}
            return advert

    def share(self, adverts: Collection[Advert]) -> dict[str, bytes]:
        """Return peer -> sealed letter with its shares of this site's secrets."""
        with self._step("share"):
            mine, self._adverts = self._adverts[self._site], self._checked(adverts)
            if self._adverts.get(self._site) != mine:
                raise PrivacyError("this site's own keys are not among those that all sites are shown")
            self._view = view_of(self.terms, self._adverts)
            letters = self._split()
            self._letters = {self._site: letters.pop(self._site)}
            return {peer: self._seal(peer, letter) for peer, letter in letters.items()}

    def accept(self, letters: Mapping[str, bytes]) -> list[str]:
        """Read the letters of all sites whose masks are counted on; return the groups to contribute to."""
        with self._step("accept"):
            present = {self._site, *letters}
            self._require(present <= self._adverts.keys(), "a letter is from a site that showed no keys")
            self._require(len(present) >= self.terms.threshold, "letters are of too few sites")
            self._letters |= {peer: self._unseal(peer, sealed) for peer, sealed in letters.items()}
            sums = contributors(self._adverts, present, self.terms.fewest)
            return [group for group, sites in sums.items() if self._site in sites]

    def mask(self, counts: Mapping[str, int], vectors: Mapping[str, Words]) -> dict[str, int]:
        """Mask the vectors `(size,)` in place and return the masked counts.

        Both hold exactly the groups that `accept` returned, as integers modulo 2^32.
        """
        with self._step("mask"):
            sums = contributors(self._adverts, self._letters, self.terms.fewest)
            mine = {group for group, sites in sums.items() if self._site in sites}
            self._require(set(vectors) == set(counts) == mine, "other groups than agreed")
            secrets = {peer: self._secret(peer) for peer in self._letters if peer != self._site}
            return {
                group: self._masked(group, counts[group], vectors[group], sums[group], secrets)
                for group in mine
            }

    def agree(self, contributed: Collection[str]) -> bytes:
        """Return the signature under the list of contributors: the only list this site will ever sign."""
        with self._step("agree"):
            self._require(len(set(contributed)) == len(contributed), "a contributor is named twice")
            self._require(set(contributed) <= self._letters.keys(), "a contributor shared no secrets")
            self._require(self._site in contributed, "this site contributed and is not listed")
            self._require(len(contributed) >= self.terms.threshold, "contributors are too few")
            self._contributed = tuple(sorted(contributed))
            return self._signer.sign(AGREEMENT, self._agreed())

    def reveal(self, signatures: Mapping[str, bytes]) -> Revealed:
        """Return shares once `threshold` contributors have signed the list that this site signed."""
        with self._step("reveal"):
            self._require(signatures.keys() <= set(self._contributed), "a signature is of no contributor")
            for site, signature in signatures.items():
                valid = verified(self._pins.of(site), AGREEMENT, self._agreed(), signature)
                self._require(valid, f"site '{site}' did not sign this list of contributors")
            self._require(len(signatures) >= self.terms.threshold, "signatures are too few")
            return self._revealed()

    @contextmanager
    def _step(self, name: str) -> Generator[None]:
        if self._next != name:
            raise PrivacyError(
                f"'{name}' of round {self.terms.round} is out of turn: each step is taken once, in order"
            )
        self._next = ""  # nothing follows a step that fails
        yield
        self._next = _STEPS[_STEPS.index(name) + 1]

    def _require(self, holds: bool, otherwise: str) -> None:  # noqa: FBT001 - a condition is its only sense
        if not holds:
            raise PrivacyError(f"round {self.terms.round} is not aggregated: {otherwise}")

    def _checked(self, adverts: Collection[Advert]) -> dict[str, Advert]:
        for advert in adverts:
            vouch(advert, self.terms, self._pins)
        found = {advert.site: advert for advert in adverts}
        self._require(len(found) == len(adverts), "a site shows two pairs of keys")
        self._require(len(found) >= self.terms.threshold, "keys are of too few sites")
        keys = [key for advert in adverts for key in (advert.mask_key, advert.letter_key)]
        self._require(len(set(keys)) == len(keys), "two sites show one key")
        return found

    def _split(self) -> dict[str, Letter]:
        numbers = {site: self.terms.roster.index(site) + 1 for site in self._adverts}
        t = self.terms.threshold
        keys = shamir.split(self._mask_key, t, numbers.values())
        seeds = {group: shamir.split(seed, t, numbers.values()) for group, seed in self._seeds.items()}
        return {site: Letter(keys[n], {g: of[n] for g, of in seeds.items()}) for site, n in numbers.items()}

    def _letter_secret(self, peer: str) -> bytes:
        return channel.agree(self._letter_key, self._adverts[peer].letter_key)

    def _seal(self, peer: str, letter: Letter) -> bytes:
        info = letter_info(self._view, self._site, peer)
        return channel.seal(channel.derive(self._letter_secret(peer), info), _written(letter), info)

    def _unseal(self, peer: str, sealed: bytes) -> Letter:
        info = letter_info(self._view, peer, self._site)
        letter = _read(channel.unseal(channel.derive(self._letter_secret(peer), info), sealed, info))
        self._require(set(letter.seeds) == set(self._adverts[peer].groups), "a letter is of other groups")
        return letter

    def _secret(self, peer: str) -> bytes:
        return channel.agree(self._mask_key, self._adverts[peer].mask_key)

    def _masked(
        self, group: str, count: int, words: Words, sites: list[str], secrets: Mapping[str, bytes]
    ) -> int:
        streams = {
            peer: channel.derive(secrets[peer], pair_info(self._view, group, self._site, peer))
            for peer in sites
            if peer != self._site
        }
        later = [key for peer, key in streams.items() if peer > self._site]
        earlier = [key for peer, key in streams.items() if peer < self._site]
        return shift(count, words, [self._seeds[group], *later], earlier)

    def _agreed(self) -> bytes:
        return agreement(self._view, self._letters.keys(), self._contributed)

    def _revealed(self) -> Revealed:
        sums = contributors(self._adverts, self._contributed, self.terms.fewest)
        gone = self._letters.keys() - set(self._contributed)
        seeds = {
            site: {g: self._letters[site].seeds[g] for g, sites in sums.items() if site in sites}
            for site in self._contributed
        }
        return Revealed({site: self._letters[site].mask_key for site in sorted(gone)}, seeds)


def _written(letter: Letter) -> bytes:
    return json.dumps([letter.mask_key, dict(letter.seeds)]).encode()


def _read(text: bytes) -> Letter:
    try:
        mask_key, seeds = json.loads(text)
        return Letter(_share(mask_key), _shares(seeds))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise PrivacyError("a letter is not of this version: update the older side") from error


def _shares(plain: Any) -> dict[str, int]:
    return {str(name): _share(value) for name, value in plain.items()}


def _share(value: Any) -> int:
    if type(value) is not int or not 0 <= value < shamir.P:
        raise ValueError("not a share")
    return value
