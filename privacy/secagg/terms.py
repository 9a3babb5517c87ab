"""What all sites of a secure round must agree on.

`Terms` name the round. Their digest is part of every signature, key and letter, so that nothing made for
one round, attempt or roster counts in another. `Advert` is what a site says of itself at the
start; the digest of all adverts (the *view*) is part of every letter and of the signed list of
contributors, so that two sites to whom the coordinator showed different keys cannot go on together.

Threshold: t = floor(share * n) + 1 of the n sites of the roster, share >= 1/2. A coordinator that lies
wants two lists of contributors signed, one to learn a site's b and one to learn its mask key. It
needs t signatures under each, an honest site signs one, and the c sites that collude with it sign
both: it needs 2t <= n + c. So t > (n + c) / 2 stops it: share 1/2 alone against the coordinator,
the default 2/3 also against up to a third of the sites on its side.
"""

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from privacy.keys import Pins, Signer, verified
from privacy.secagg.channel import KEY_BYTES
from protocol.errors import PrivacyError
from protocol.recipe import Secure

ADVERT = "secagg.advert"
_SLACK = 1e-9
"""2/3 of 3 is 2, also where its binary fraction is a little less or more."""


@dataclass(frozen=True)
class Terms:
    """Which round this is and who may take part. `recipe` is the recipe's whole text."""

    run: str
    round: int
    attempt: str
    recipe: str
    roster: tuple[str, ...]
    threshold: int
    fewest: int

    def digest(self) -> bytes:
        """SHA-256 over all of it."""
        return digest("terms", *vars(self).values())


@dataclass(frozen=True)
class Advert:
    """A site's two public keys for one round, the groups it will contribute to, its signature."""

    site: str
    mask_key: bytes
    letter_key: bytes
    groups: tuple[str, ...]
    signature: bytes = b""

    def statement(self, terms: Terms) -> bytes:
        """Return what is signed."""
        return digest(
            "advert",
            terms.digest().hex(),
            self.site,
            self.mask_key.hex(),
            self.letter_key.hex(),
            self.groups,
        )

    def plain(self) -> dict[str, Any]:
        """Write it as JSON holds it."""
        keys = ("mask_key", "letter_key", "signature")
        return {**vars(self), "groups": list(self.groups)} | {key: getattr(self, key).hex() for key in keys}


def terms_of(
    secure: Secure, roster: Iterable[str], *, run: str, number: int, attempt: str, recipe: str
) -> Terms:
    """Return the terms of one round; `PrivacyError` for a roster that cannot be aggregated securely."""
    names = tuple(roster)
    if sorted(set(names)) != list(names) or len(names) < secure.fewest:
        raise PrivacyError(
            f"{len(names)} sites are too few, or not in order: a sum hides at least {secure.fewest}"
        )
    return Terms(run, number, attempt, recipe, names, threshold(secure.threshold, len(names)), secure.fewest)


def threshold(share: float, sites: int) -> int:
    """Return t, the fewest of `sites` that must see a round to its end: more than `share` of them."""
    return math.floor(share * sites + _SLACK) + 1


def read_advert(plain: Any) -> Advert:
    """Read what `Advert.plain` wrote; `PrivacyError` where it is something else."""
    try:
        return Advert(
            site=str(plain["site"]),
            mask_key=_key(plain["mask_key"]),
            letter_key=_key(plain["letter_key"]),
            groups=tuple(str(group) for group in plain["groups"]),
            signature=bytes.fromhex(plain["signature"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PrivacyError(f"not a site's ephemeral keys ({error!r}): update the older side") from error


def signed(advert: Advert, terms: Terms, signer: Signer) -> Advert:
    """Return the advert with the site's signature."""
    return replace(advert, signature=signer.sign(ADVERT, advert.statement(terms)))


def vouch(advert: Advert, terms: Terms, pins: Pins) -> None:
    """Raise `PrivacyError` unless this site belongs to the round and signed this advert for it."""
    if advert.site not in terms.roster:
        raise PrivacyError(f"site '{advert.site}' is not on the roster of this round")
    if not verified(pins.of(advert.site), ADVERT, advert.statement(terms), advert.signature):
        raise PrivacyError(f"ephemeral keys of site '{advert.site}' are not signed by it for this round")


def view_of(terms: Terms, adverts: Mapping[str, Advert]) -> bytes:
    """Return the digest of the terms and of every advert."""
    return digest("view", terms.digest().hex(), *(adverts[site].plain() for site in sorted(adverts)))


def agreement(view: bytes, counted_on: Collection[str], contributed: Collection[str]) -> bytes:
    """Return what a site signs: whose masks are in the sum, and who contributed to it."""
    return digest("agreement", view.hex(), sorted(counted_on), sorted(contributed))


def contributors(
    adverts: Mapping[str, Advert], present: Collection[str], fewest: int
) -> dict[str, list[str]]:
    """Return group -> the sites among `present` that contribute to it; no group of less than `fewest`."""
    groups = sorted({group for site in present for group in adverts[site].groups})
    found = {g: sorted(site for site in present if g in adverts[site].groups) for g in groups}
    return {group: sites for group, sites in found.items() if len(sites) >= fewest}


def pair_info(view: bytes, group: str, one: str, other: str) -> bytes:
    """Name the one use of a pair's mask key."""
    return digest("mask", view.hex(), group, *sorted((one, other)))


def letter_info(view: bytes, sender: str, receiver: str) -> bytes:
    """Name the one use of a pair's letter key, in one direction."""
    return digest("letter", view.hex(), sender, receiver)


def _key(text: str) -> bytes:
    key = bytes.fromhex(text)
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes")
    return key


def digest(*parts: Any) -> bytes:
    """SHA-256 of parts that JSON tells apart."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()
