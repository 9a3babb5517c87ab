"""Requests prove that both keys are held; memberships carry the coordinator's word and nobody else's."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy import membership
from privacy.certificates import NodeKey, node_key
from privacy.keys import Signer, make_signer
from privacy.membership import (
    LASTS,
    Membership,
    Request,
    instant,
    pack_membership,
    pack_request,
    read_membership,
    read_request,
)
from protocol.errors import TrustError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Keys:
    """A site's two keys and the coordinator's."""

    def __init__(self, folder: Path) -> None:
        self.site: Signer = make_signer(folder / "site.key")
        self.auth: NodeKey = node_key(folder / "auth.key")
        self.coordinator: Signer = make_signer(folder / "coordinator.key")

    @property
    def request(self) -> Request:
        return Request(
            "brain", "north", self.coordinator.public.hex(), self.site.public.hex(), self.auth.public
        )

    @property
    def membership(self) -> Membership:
        key = self.site.public.hex()
        dates = instant(NOW), instant(NOW), instant(NOW + LASTS)
        return Membership("brain", "north", key, self.auth.public, *dates, {"north": key, "south": "ab" * 32})


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("other"))


def test_a_request_is_read_as_it_was_written(keys: Keys) -> None:
    assert read_request(pack_request(keys.request, keys.site, keys.auth)) == keys.request


def test_a_membership_is_read_as_it_was_written_and_knows_its_time(keys: Keys) -> None:
    found = read_membership(pack_membership(keys.membership, keys.coordinator), keys.coordinator.public)
    assert found == keys.membership
    second = timedelta(seconds=1)
    assert [found.holds(NOW + LASTS * n - second * k) for n in (0, 1) for k in (0, 1)] == [
        True,
        False,
        False,
        True,
    ]


def _forged(keys: Keys, other: Keys) -> list[bytes]:
    """Return requests with a key that their sender does not hold."""
    return [
        pack_request(keys.request, other.site, keys.auth),
        pack_request(keys.request, keys.site, other.auth),
    ]


def test_nobody_asks_with_a_key_that_another_holds(keys: Keys, other: Keys) -> None:
    for forged in _forged(keys, other):
        with pytest.raises(TrustError, match="is not signed by the site's"):
            read_request(forged)


@pytest.mark.parametrize("check", ["verified", "node_verified"])
def test_a_reader_that_checks_one_key_only_is_caught(
    keys: Keys, other: Keys, monkeypatch: pytest.MonkeyPatch, check: str
) -> None:
    monkeypatch.setattr(membership, check, lambda *_: True)
    with pytest.raises(pytest.fail.Exception):
        test_nobody_asks_with_a_key_that_another_holds(keys, other)


def test_a_membership_of_another_coordinator_is_refused(keys: Keys, other: Keys) -> None:
    with pytest.raises(TrustError, match="signature of the coordinator"):
        read_membership(pack_membership(keys.membership, other.coordinator), keys.coordinator.public)


def test_a_request_is_no_membership_and_a_signature_not_the_other_s(keys: Keys) -> None:
    with pytest.raises(TrustError, match="no membership of ours"):
        read_membership(pack_request(keys.request, keys.site, keys.auth), keys.coordinator.public)


CHANGES: dict[str, Any] = {
    "federation": "heart",
    "site": "south",
    "coordinator": "cd" * 32,
    "key": "cd" * 32,
    "auth": "ecdsa-sha2-nistp384 AAAA",
    "issued": "2030-01-01T00:00:00+00:00",
    "not_before": "2020-01-01T00:00:00+00:00",
    "not_after": "2099-01-01T00:00:00+00:00",
    "sites": {"north": "cd" * 32},
    "new": 1,
}


def _changed(data: bytes, key: str) -> bytes:
    return json.dumps(json.loads(data) | {key: CHANGES[key]}).encode()


@pytest.mark.parametrize("key", CHANGES)
def test_no_field_can_be_changed_and_none_added(keys: Keys, key: str) -> None:
    request = pack_request(keys.request, keys.site, keys.auth)
    signed = pack_membership(keys.membership, keys.coordinator)
    with pytest.raises(TrustError):
        read_request(_changed(request, key))
    with pytest.raises(TrustError):
        read_membership(_changed(signed, key), keys.coordinator.public)


@pytest.mark.parametrize("ask", [True, False])
@given(place=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_changes_nothing(keys: Keys, ask: bool, place: int, flip: int) -> None:  # noqa: FBT001
    """Nothing: a blank between two keys, or the case of a signature's digit."""
    asked = pack_request(keys.request, keys.site, keys.auth)
    data = bytearray(asked if ask else pack_membership(keys.membership, keys.coordinator))
    data[place % len(data)] ^= flip
    try:
        found = read_request(bytes(data)) if ask else read_membership(bytes(data), keys.coordinator.public)
    except TrustError:
        return
    assert found == (keys.request if ask else keys.membership)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"signatures": 3}',
        b'{"signatures": {"key": "no hex"}}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
    ids=["nothing", "list", "empty", "number", "words", "no text", "deep"],
)
@pytest.mark.parametrize("read", [read_request, lambda data: read_membership(data, bytes(32))])
def test_what_is_no_such_file_is_refused(data: bytes, read: Callable[[bytes], object]) -> None:
    with pytest.raises(TrustError, match="of ours"):
        read(data)


def test_a_time_without_a_zone_is_none(keys: Keys) -> None:
    data = json.loads(pack_membership(keys.membership, keys.coordinator)) | {"issued": "2026-03-01T12:00:00"}
    with pytest.raises(TrustError, match=r"issued: expected .* a time in UTC"):
        read_membership(json.dumps(data).encode(), keys.coordinator.public)


def test_the_fingerprint_is_that_of_what_is_asked(keys: Keys, other: Keys) -> None:
    keys.request.require(keys.request.fingerprint.lower())
    with pytest.raises(TrustError, match="not this request's fingerprint"):
        other.request.require(keys.request.fingerprint)
