"""Masks against AES block by block, and against each other."""

import os

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given
from hypothesis import strategies as st

from privacy.secagg import masks
from privacy.secagg.masks import MODULUS, Words, shift

KEYS = st.lists(st.binary(min_size=32, max_size=32), max_size=3)


def _plainly(key: bytes, size: int) -> tuple[int, Words]:
    """The stream from its definition: AES of 0, 1, 2, ...; the first block is the count's."""
    blocks = b"".join(number.to_bytes(16, "big") for number in range(1 + (4 * size + 15) // 16))
    stream = np.frombuffer(Cipher(AES256(key), ECB()).encryptor().update(blocks), np.uint32)
    return int(stream[0]), stream[4 : 4 + size]


@given(KEYS, KEYS, st.integers(0, 300), st.integers(0, MODULUS - 1))
def test_a_shift_is_the_plain_sum(plus: list[bytes], minus: list[bytes], size: int, count: int) -> None:
    words = np.arange(size, dtype=np.uint32) * np.uint32(2**31 + 1)
    wanted, total = words.astype(object), count
    for key in plus:
        first, rest = _plainly(key, size)
        wanted, total = wanted + rest, total + first
    for key in minus:
        first, rest = _plainly(key, size)
        wanted, total = wanted - rest, total - first
    assert shift(count, words, plus, minus) == total % MODULUS
    assert words.tolist() == [value % MODULUS for value in wanted]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", [1, masks._CHUNK - 1, masks._CHUNK, masks._CHUNK + 1, 3 * masks._CHUNK + 7])
def test_chunks_and_threads_leave_no_seam(size: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    key, words = os.urandom(32), np.zeros(size, np.uint32)
    shift(0, words, [key], [])
    assert np.array_equal(words, _plainly(key, size)[1])


def test_what_is_added_can_be_taken_away() -> None:
    keys, words = [os.urandom(32) for _ in range(4)], np.arange(1000, dtype=np.uint32)
    count = shift(7, words, keys[:2], keys[2:])
    assert shift(count, words, keys[2:], keys[:2]) == 7
    assert np.array_equal(words, np.arange(1000))


def test_the_count_and_the_vector_have_masks_of_their_own() -> None:
    words = np.zeros(8, np.uint32)
    count = shift(0, words, [bytes(32)], [])
    assert count not in words.tolist()
    assert len(set(words.tolist())) == 8
