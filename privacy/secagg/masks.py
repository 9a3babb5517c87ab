"""Masks: streams of random 32-bit numbers, made and added in one pass.

A stream is AES-256 in counter mode under a key that is used for this one stream, counter from
zero (NIST SP 800-38A). Its first block masks the count, the blocks after it the vector, so that
a masked vector has the size of the plain one.

One chunk of the vector takes all its streams before the next chunk is touched: keystream and sum stay in
the processor's cache, and memory is passed once, whatever the number of streams. A counter can start
anywhere, so every thread takes a span of the vector: both AES and the addition let others run.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

import numpy as np
import torch
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


Change = tuple[bytes, Callable[..., Any]]
"""A stream's key, and `np.add` or `np.subtract`."""


def shift(count: int, words: Words, plus: Iterable[bytes], minus: Iterable[bytes]) -> int:
    """Add the streams of the keys `plus`, subtract those of `minus`, modulo 2^32.

    `words` `(size,)` is changed in place, by as many threads as torch has; the shifted count is returned.
    """
    changes = [(key, np.add) for key in plus] + [(key, np.subtract) for key in minus]
    for key, change in changes:
        first = np.frombuffer(_stream(key, 0).update(_ZEROS[:_BLOCK]), np.uint32)[0]
        count = int(change(np.uint64(count), np.uint64(first))) % MODULUS
    chunks = -(-words.size // _CHUNK)
    span = -(-chunks // torch.get_num_threads()) * _CHUNK
    if words.size <= span:
        _shift_span(words, 0, changes)
        return count
    starts = range(0, words.size, span)
    parts = [words[start : start + span] for start in starts]
    with ThreadPoolExecutor(len(starts)) as pool:
        list(pool.map(_shift_span, parts, starts, repeat(changes)))
    return count


def _shift_span(words: Words, first: int, changes: Sequence[Change]) -> None:
    """Shift `words`, which the whole vector holds from `first` on, a multiple of the chunk."""
    streams = [(_stream(key, 1 + first * _WORD // _BLOCK), change) for key, change in changes]
    buffer = bytearray(len(_ZEROS) + _BLOCK)
    numbers, zeros = np.frombuffer(buffer, np.uint32), memoryview(_ZEROS)
    for start in range(0, words.size, _CHUNK):
        part = words[start : start + _CHUNK]
        for stream, change in streams:
            stream.update_into(zeros[: _WORD * part.size], buffer)
            change(part, numbers[: part.size], out=part)


def _stream(key: bytes, block: int) -> CipherContext:
    return Cipher(AES256(key), CTR(block.to_bytes(_BLOCK, "big"))).encryptor()
