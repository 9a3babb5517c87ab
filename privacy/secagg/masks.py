"""Masks: streams of random 32-bit numbers, made and added in one pass.

A stream is AES-256 in counter mode under a key that is used for this one stream, counter from
zero (NIST SP 800-38A). Its first block masks the count, the blocks after it the vector, so that
a masked vector has the size of the plain one.

One chunk of the vector takes all its streams before the next chunk is touched: keystream and sum stay in
the processor's cache, and memory is passed once, whatever the number of streams.
"""

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

MODULUS = 2**32

Words = NDArray[np.uint32]

_BLOCK = 16
_WORD = 4
_CHUNK = 1 << 15
"""Words added at a time."""
_ZEROS = bytes(_WORD * _CHUNK)


def shift(count: int, words: Words, plus: Iterable[bytes], minus: Iterable[bytes]) -> int:
    """Add the streams of the keys `plus`, subtract those of `minus`, modulo 2^32.

    `words` `(size,)` is changed in place; the shifted count is returned.
    """
    streams = [(_stream(key), np.add) for key in plus] + [(_stream(key), np.subtract) for key in minus]
    buffer = bytearray(len(_ZEROS) + _BLOCK)
    numbers = np.frombuffer(buffer, np.uint32)
    zeros = memoryview(_ZEROS)
    for stream, change in streams:
        stream.update_into(zeros[:_BLOCK], buffer)
        count = int(change(np.uint64(count), np.uint64(numbers[0]))) % MODULUS
    for start in range(0, words.size, _CHUNK):
        part = words[start : start + _CHUNK]
        for stream, change in streams:
            stream.update_into(zeros[: _WORD * part.size], buffer)
            change(part, numbers[: part.size], out=part)
    return count


def _stream(key: bytes) -> CipherContext:
    return Cipher(AES256(key), CTR(bytes(_BLOCK))).encryptor()
