"""Randomness that nobody can predict or repeat.

Privacy lasts as long as its noise is secret. A generator that a seed steers (torch's,
numpy's) hands the noise to whoever chose the seed: the server that wrote the recipe could
subtract it. So the noise and the sampling of patients come from here: a key from the
operating system, AES-256 in counter mode as the stream, and no way to set either.

Gaussians are Box and Muller's (1958), two from two uniforms, in float64: a uniform has 52
random bits and lies in (0, 1], so the largest value is 8.49 standard deviations, beyond
which an ideal Gaussian has 2e-17 of its mass.
"""

import math
import os

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from torch import Tensor

_CHUNK = 1 << 15
"""Numbers made at a time: a quarter of a mebibyte, so that every pass stays in cache."""
_BLOCK = 16
_GRID_BITS = 20
_MANTISSA = (1 << 52) - 1
_ONE = 0x3FF << 52
"""The bits of 1.0; with a random mantissa, a uniform of [1, 2)."""


class SecureGenerator:
    """A stream of secret random numbers; two of them never agree. CPU tensors, any device to fill."""

    def __init__(self) -> None:
        self._zeros = bytes(8 * _CHUNK)
        self._stream = bytearray(8 * _CHUNK + _BLOCK)
        self._process = 0
        self._cipher: CipherContext | None = None

    def normal_(self, tensor: Tensor, std: float) -> Tensor:
        """Fill `tensor` (any shape, layout, device, float dtype) with Gaussians of mean 0."""
        target = tensor.detach()
        direct = target.is_contiguous() and target.device.type == "cpu"
        flat = target.view(-1) if direct else torch.empty(target.numel(), dtype=target.dtype)
        for start in range(0, len(flat), _CHUNK):
            self._fill(flat[start : start + _CHUNK], std)
        if not direct:
            target.copy_(flat.view(target.shape))
        return tensor

    def uniform(self, n: int) -> Tensor:
        """Return `(n,)` float64 uniforms of [0, 1), 52 bits each."""
        parts = [self._one_to_two(min(_CHUNK, n - start)) - 1 for start in range(0, n, _CHUNK)]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)

    def poisson_sample(self, n: int, rate: float) -> Tensor:
        """Return the indices of those of `n` that an independent coin of chance `rate` took."""
        return (self.uniform(n) < rate).nonzero().view(-1)

    def randint(self, high: int, n: int) -> Tensor:
        """Return `(n,)` int64, uniform on 0 to `high - 1` without the bias of a plain remainder."""
        kept = torch.empty(0, dtype=torch.int64)
        # 63-bit words from the largest multiple of `high` on would favour small results.
        limit = (1 << 63) // high * high - 1
        while len(kept) < n:
            words = self._words(min(_CHUNK, n - len(kept))).bitwise_and_((1 << 63) - 1)
            kept = torch.cat([kept, words[words <= limit] % high])
        return kept

    def _fill(self, part: Tensor, std: float) -> None:
        half = (len(part) + 1) // 2
        uniforms = self._one_to_two(2 * half)
        # 2 - u lies in (0, 1]: the logarithm is always finite.
        radius = (2 - uniforms[:half]).log_().mul_(-2).sqrt_().mul_(std)
        angle = uniforms[half:].mul_(2 * math.pi)
        part[:half] = angle.cos().mul_(radius)
        part[half:] = angle.sin_().mul_(radius)[: len(part) - half]

    def _one_to_two(self, n: int) -> Tensor:
        return self._words(n).bitwise_and_(_MANTISSA).bitwise_or_(_ONE).view(torch.float64)

    def _words(self, n: int) -> Tensor:
        """Return `(n <= _CHUNK,)` int64 of the stream, valid until the next call."""
        stream = memoryview(self._stream)[: 8 * n + _BLOCK]
        self._encryptor().update_into(memoryview(self._zeros)[: 8 * n], stream)
        return torch.frombuffer(self._stream, dtype=torch.int64, count=n)

    def _encryptor(self) -> CipherContext:
        # A forked child must not go on with its parent's stream: the same noise twice is no noise.
        if self._cipher is None or self._process != os.getpid():
            self._process = os.getpid()
            self._cipher = Cipher(AES256(os.urandom(32)), CTR(os.urandom(16))).encryptor()
        return self._cipher


def on_grid(total: Tensor, noise_stddev: float) -> Tensor:
    """Round a noised float64 sum in place to a grid that depends on the noise alone.

    The low bits of a sum of floats tell its addends apart (Mironov: On Significance of the Least
    Significant Bits for Differential Privacy. CCS 2012); those of a grid point do not.
    """
    if not noise_stddev:
        return total
    step = 2.0 ** (math.floor(math.log2(noise_stddev)) - _GRID_BITS)
    return total.div_(step).round_().mul_(step)
