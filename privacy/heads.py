"""Where a site's books stand, seen by two.

A chain of entries, each hashed with the hash before it, is fixed as a whole by its *head*: how
many entries, and the last one's hash. Whoever has seen head (n, h) knows the chain again: it has
an entry n, and that entry's hash is h. A chain that is shorter is an older copy or was cut, one
with another hash was rewritten.

    site          signs the heads of its ledger and its audit log, with every reply
    coordinator   countersigns what it has seen, and hands it back with the next task
    site          finds both heads in its own books, or somebody has turned them back

Neither side can do this alone: a hospital that restores an old backup restores its own memory of
the heads with it, and a coordinator cannot make up a head that the site has not signed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from privacy.keys import Signer, verified

BOOKS = ("ledger", "audit")
_MOST = 2**53
_SIGNED, _COUNTERSIGNED = "site's heads", "witnessed heads"


@dataclass(frozen=True)
class Head:
    """Entries of a chain and the hash of the last, in hex; an empty chain's is (0, "")."""

    counter: int = 0
    hash: str = ""


Heads = Mapping[str, Head]
"""Book, one of `BOOKS` -> its head."""


def chained(before: str, entry: str) -> str:
    """Return the hash of `entry` after the one whose hash is `before`."""
    return sha256(f"{before}\n{entry}".encode()).hexdigest()


def canonical(plain: Any) -> str:
    """Return the one JSON text that stands for `plain`."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def sign(key: Signer, site: str, heads: Heads) -> dict[str, Any]:
    """Return the site's signed word on its heads, as plain data."""
    return _word(key, _SIGNED, site, heads)


def countersign(key: Signer, site: str, heads: Heads) -> dict[str, Any]:
    """Return the coordinator's word that it has seen `heads` of `site`."""
    return _word(key, _COUNTERSIGNED, site, heads)


def signed(public: bytes, site: str, word: Any) -> Heads | None:
    """Return the heads that `sign` wrote for `site`; None for anything else."""
    return _heads(public, _SIGNED, site, word)


def countersigned(public: bytes, site: str, word: Any) -> Heads | None:
    """Return the heads that `countersign` wrote for `site`; None for anything else."""
    return _heads(public, _COUNTERSIGNED, site, word)


def plain(heads: Heads) -> dict[str, tuple[int, str]]:
    """Write heads as JSON can."""
    return {book: (heads[book].counter, heads[book].hash) for book in BOOKS}


def from_plain(found: Mapping[str, Any]) -> Heads:
    """Read what `plain` wrote; KeyError, TypeError or ValueError where it is none."""
    return {book: _head(*found[book]) for book in BOOKS}


def _head(counter: Any, digest: Any) -> Head:
    if type(counter) is not int or not 0 <= counter < _MOST or type(digest) is not str:
        raise ValueError(counter, digest)
    return Head(counter, digest)


def _word(key: Signer, purpose: str, site: str, heads: Heads) -> dict[str, Any]:
    return plain(heads) | {"signature": key.sign(purpose, _message(site, heads)).hex()}


def _heads(public: bytes, purpose: str, site: str, word: Any) -> Heads | None:
    try:
        heads, signature = from_plain(word), bytes.fromhex(word["signature"])
    except (KeyError, TypeError, ValueError):
        return None
    return heads if verified(public, purpose, _message(site, heads), signature) else None


def _message(site: str, heads: Heads) -> bytes:
    return canonical([site, plain(heads)]).encode()
