"""How a site becomes a member: it asks with its public keys, the coordinator signs them.

    request      site -> coordinator   federation, site, its two public keys; signed by both private keys,
                                       so nobody can ask with a key that another holds
    membership   coordinator -> site   the same keys, from when to when, and who else is a member;
                                       signed by the coordinator

Both are small JSON files that may travel by mail: they hold no secret, and a changed byte is noticed. What
they cannot show is *who* sent the first one. So people compare fingerprints by telephone: the site that of
the coordinator's kit (`privacy.kit`), the coordinator that of the site's request.

A membership names the other members' keys because sites seal letters for each other in secure
aggregation, and a key that came from anywhere else could be the coordinator's own.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

from privacy.certificates import NodeKey, node_verified
from privacy.heads import canonical
from privacy.keys import Signer, fingerprint, same_fingerprint, verified
from protocol.errors import RecipeError, TrustError
from protocol.recipe import Hex, Title
from protocol.typed import Rule, record

LASTS, SLACK = timedelta(days=365), timedelta(hours=1)
"""A membership holds for a year, and from an hour before: a hospital's clock may run behind."""
_MOST_BYTES = 1 << 20
_ASKED, _SIGNED = "membership request", "membership"


def _is_instant(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).utcoffset() == timedelta(0)
    except ValueError:
        return False


Instant = Annotated[str, Rule("that is a time in UTC, such as 2026-01-31T12:00:00+00:00", _is_instant)]


@dataclass(frozen=True)
class Request:
    """What a site asks to be known by; keys in hexadecimal, `auth` as OpenSSH writes it."""

    federation: Title
    site: Title
    coordinator: Hex
    key: Hex
    auth: str

    @property
    def fingerprint(self) -> str:
        """What the site reads out and the coordinator compares."""
        return fingerprint(_message(self))

    def require(self, heard: str) -> None:
        """Raise TrustError unless `heard` is the request's fingerprint."""
        if not same_fingerprint(heard, _message(self)):
            raise TrustError(
                "that is not this request's fingerprint: it was mistyped, or the request is not from "
                f"'{self.site}'. If it was typed rightly, do not sign it; have it sent again"
            )


@dataclass(frozen=True)
class Membership:
    """What the coordinator vouches for: these are `site`'s keys from `not_before` until `not_after`.

    `sites`: signing keys of all members when it was `issued`, this site's own among them.
    """

    federation: Title
    site: Title
    key: Hex
    auth: str
    issued: Instant
    not_before: Instant
    not_after: Instant
    sites: Mapping[Title, Hex]

    def until(self) -> datetime:
        """Return when it ends."""
        return datetime.fromisoformat(self.not_after)

    def holds(self, now: datetime) -> bool:
        """Say whether it is valid at `now`."""
        return datetime.fromisoformat(self.not_before) <= now < self.until()


D = TypeVar("D", Request, Membership)


def instant(when: datetime) -> str:
    """Write a time as these files do, whole seconds of UTC."""
    return when.astimezone(UTC).isoformat(timespec="seconds")


def pack_request(request: Request, key: Signer, auth: NodeKey) -> bytes:
    """Write a request with the signatures that show that both keys are held here."""
    message = _message(request)
    proofs = {"key": key.sign(_ASKED, message).hex(), "auth": auth.sign(_ASKED, message).hex()}
    return _pack(request, proofs)


def read_request(data: bytes) -> Request:
    """Read a request; TrustError unless whoever wrote it holds both private keys."""
    request, proofs = _read(data, Request, "request")
    message = _message(request)
    if not verified(bytes.fromhex(request.key), _ASKED, message, proofs.get("key", b"")):
        raise TrustError("this request is not signed by the site's signing key: have it sent again")
    if not node_verified(request.auth, _ASKED, message, proofs.get("auth", b"")):
        raise TrustError("this request is not signed by the site's node key: have it sent again")
    return request


def pack_membership(membership: Membership, coordinator: Signer) -> bytes:
    """Write a membership with the coordinator's signature."""
    signature = coordinator.sign(_SIGNED, _message(membership)).hex()
    return _pack(membership, {"coordinator": signature})


def read_membership(data: bytes, coordinator: bytes) -> Membership:
    """Read a membership; TrustError unless it is signed by `coordinator`, a public key."""
    membership, proofs = _read(data, Membership, "membership")
    if not verified(coordinator, _SIGNED, _message(membership), proofs.get("coordinator", b"")):
        raise TrustError(
            "this membership does not carry the signature of the coordinator whose kit was joined: "
            "ask the coordinator for it again"
        )
    return membership


def _plain(document: Request | Membership) -> dict[str, Any]:
    return {key: dict(item) if isinstance(item, Mapping) else item for key, item in vars(document).items()}


def _message(document: Request | Membership) -> bytes:
    return canonical(_plain(document)).encode()


def _pack(document: Request | Membership, signatures: Mapping[str, str]) -> bytes:
    return json.dumps(_plain(document) | {"signatures": dict(signatures)}, indent=1).encode()


def _read(data: bytes, kind: type[D], what: str) -> tuple[D, dict[str, bytes]]:
    try:
        plain = json.loads(data[:_MOST_BYTES])
        signatures = {str(who): bytes.fromhex(text) for who, text in plain.pop("signatures").items()}
        return record(plain, kind, ""), signatures
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, RecipeError) as error:
        raise TrustError(f"this file is no {what} of ours ({error}): have it sent again") from error
