"""Shares: any `threshold` of them are the secret, fewer are compatible with every secret."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.secagg import shamir
from privacy.secagg.shamir import P, combine, split
from protocol.errors import PrivacyError

SECRET = st.binary(min_size=32, max_size=32)


@given(st.data(), SECRET, st.integers(1, 12))
def test_any_threshold_of_the_shares_is_the_secret(data: st.DataObject, secret: bytes, least: int) -> None:
    number = data.draw(st.integers(least, 15))
    shares = split(secret, least, range(1, number + 1))
    kept = data.draw(st.lists(st.sampled_from(sorted(shares)), unique=True, min_size=least))
    assert combine({holder: shares[holder] for holder in kept}, least) == secret


@given(SECRET, st.integers(2, 6))
def test_the_secret_is_the_value_at_zero_of_one_polynomial(secret: bytes, least: int) -> None:
    """By Newton's divided differences modulo P, another way than Lagrange's."""
    shares = split(secret, least, range(1, least + 3))
    table = [shares[x] for x in sorted(shares)]
    newton = [table[0]]
    for order in range(1, len(table)):
        table = [(b - a) * pow(order, -1, P) % P for a, b in pairwise(table)]
        newton.append(table[0])
    assert all(value == 0 for value in newton[least:])
    at_zero, product = 0, 1
    for order, value in enumerate(newton):
        at_zero = (at_zero + value * product) % P
        product *= -(order + 1)
    assert at_zero == int.from_bytes(secret, "big")


@given(SECRET, SECRET, st.integers(2, 6))
def test_one_share_too_few_fits_every_secret(secret: bytes, other: bytes, least: int) -> None:
    """For any other secret there is the one missing share that makes it: nothing was learned."""
    shares = split(secret, least, range(1, least))
    missing = least
    # The value at `missing` of the polynomial through (0, other) and the shares.
    points = {0: int.from_bytes(other, "big")} | shares
    value = 0
    for x, y in points.items():
        weight = 1
        for z in points:
            if z != x:
                weight = weight * (missing - z) * pow(x - z, -1, P) % P
        value += y * weight
    assert combine(shares | {missing: value % P}, least) == other


def test_the_mutant_of_a_lower_degree_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = split(bytes(31) + b"\x07", 4, range(1, 6))
    with pytest.raises(PrivacyError, match="wrong one"):
        combine({h: honest[h] for h in (1, 2, 3)}, 3)
    monkeypatch.setattr(shamir.secrets, "randbelow", lambda _: 0)
    broken = split(bytes(31) + b"\x07", 4, range(1, 6))
    assert combine({1: broken[1]}, 1) == bytes(31) + b"\x07"


def test_what_cannot_be_shared_or_combined_is_said() -> None:
    with pytest.raises(PrivacyError, match="32 bytes, not 3"):
        split(b"abc", 2, (1, 2))
    with pytest.raises(PrivacyError, match="1 shares of a secret that needs 2"):
        combine({1: 5}, 2)


def test_the_field_is_prime() -> None:
    """Lucas and Lehmer: 2^p - 1 is prime exactly if this residue is 0."""
    residue = 4
    for _ in range(521 - 2):
        residue = (residue * residue - 2) % P
    assert residue == 0
