"""Letters: read by their receiver, in their round, unchanged, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.secagg.channel import agree, derive, new_key, public_of, seal, unseal
from protocol.errors import PrivacyError

KEY = bytes(range(32))


def test_both_sides_compute_one_secret_and_nobody_else() -> None:
    one, other, third = new_key(), new_key(), new_key()
    assert agree(one, public_of(other)) == agree(other, public_of(one))
    assert agree(one, public_of(other)) != agree(one, public_of(third))


@pytest.mark.parametrize("public", [bytes(32), b"\x01" + bytes(31), b"", bytes(31)])
def test_a_key_that_gives_no_secret_is_refused(public: bytes) -> None:
    with pytest.raises(PrivacyError, match="ephemeral key"):
        agree(new_key(), public)


def test_a_derived_key_is_for_one_use() -> None:
    assert derive(KEY, b"one") == derive(KEY, b"one") != derive(KEY, b"two")


@given(st.binary(max_size=50), st.data())
def test_a_letter_is_opened_as_sealed_or_not_at_all(text: bytes, data: st.DataObject) -> None:
    sealed = seal(KEY, text, b"context")
    assert unseal(KEY, sealed, b"context") == text
    place, flip = data.draw(st.integers(0, len(sealed) - 1)), data.draw(st.integers(1, 255))
    changed = bytearray(sealed)
    changed[place] ^= flip
    cut = data.draw(st.integers(0, len(sealed) - 1))
    for key, letter, context in (
        (KEY, bytes(changed), b"context"),
        (KEY, sealed[:cut], b"context"),
        (KEY, sealed, b"another"),
        (KEY[::-1], sealed, b"context"),
    ):
        with pytest.raises(PrivacyError, match="cannot be opened"):
            unseal(key, letter, context)
