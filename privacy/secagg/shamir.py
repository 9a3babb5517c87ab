"""A secret in shares: any `threshold` of them give it back, fewer say nothing.

Shamir: How to Share a Secret, Communications of the ACM 22(11), 1979. The secret is the value at 0
of a random polynomial of degree threshold - 1 over a prime field; holder h has its value at h:

    f(x) = secret + a_1 x + ... + a_(t-1) x^(t-1)    mod P
    secret = sum over h of f(h) * product over k != h of k / (k - h)    mod P

The field is that of the Mersenne prime 2^521 - 1: it holds 32 bytes in one element, for any
number of holders, and needs no tables. Shares of different secrets are found out, since a random
element of the field is as short as a secret with a chance of 2^-265. Secrets here are few (one key,
and one seed a group), so Python's integers are fast enough.
"""

import secrets
from collections.abc import Iterable, Mapping

from protocol.errors import PrivacyError

P = 2**521 - 1
SECRET_BYTES = 32


def split(secret: bytes, threshold: int, holders: Iterable[int]) -> dict[int, int]:
    """Return holder -> share; `holders` are different numbers >= 1, at least `threshold` of them."""
    if len(secret) != SECRET_BYTES:
        raise PrivacyError(f"a secret has {SECRET_BYTES} bytes, not {len(secret)}")
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(P) for _ in range(threshold - 1))]
    return {holder: _value(coefficients, holder) for holder in holders}


def combine(shares: Mapping[int, int], threshold: int) -> bytes:
    """Return the secret of any `threshold` shares; `PrivacyError` where they are too few or of no secret."""
    if len(shares) < threshold:
        raise PrivacyError(f"{len(shares)} shares of a secret that needs {threshold}")
    used = sorted(shares)[:threshold]
    value = sum(shares[holder] * _weight(holder, used) for holder in used) % P
    try:
        return value.to_bytes(SECRET_BYTES, "big")
    except OverflowError:
        raise PrivacyError("shares do not belong to one secret: a site sent a wrong one") from None


def _value(coefficients: list[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):  # Horner
        value = (value * x + coefficient) % P
    return value


def _weight(holder: int, used: list[int]) -> int:
    above, below = 1, 1
    for other in used:
        if other != holder:
            above, below = above * other % P, below * (other - holder) % P
    return above * pow(below, -1, P) % P
