"""From float32 to integers modulo 2^32 and back: the sum of integers is exact.

A site with w cases sends the pair (w, q) where q stands for w * x. With n sites in the round,
values clipped to [-c, c] and w at most `cases`:

    levels = floor((2^31 - 1) / n)
    q      = round(x * w / cases * levels / c)            |q| <= levels
    mean   = (sum of q) * c * cases / levels / (sum of w)

Overflow bound: |sum of q| <= n * levels <= 2^31 - 1, so a sum modulo 2^32 is the sum. Step: one unit of
q is c / levels of x * w / cases, and rounding moves the mean by at most
n / 2 * c * cases / levels / (sum of w). Ten sites of 200 cases, c = 1 and `cases` 10,000: a
step of 4.7e-9, an error of at most 1.2e-7.

Both ways work in place: an int32 is as wide as a float32.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.secagg.masks import MODULUS, Words
from protocol.errors import PrivacyError

Floats = NDArray[np.float32]

_HALF = MODULUS // 2
_CHUNK = 1 << 14


@dataclass(frozen=True)
class Grid:
    """The integers that stand for values: see the module.

    `clip_value` is c; `cases` is the most one site may count; `sites` the most that are summed.
    """

    clip_value: float
    cases: int
    sites: int

    @property
    def levels(self) -> int:
        """The largest |q|."""
        return (_HALF - 1) // self.sites

    def step(self, count: int) -> float:
        """Return what one unit of a sum is in the mean over `count` cases."""
        return self.clip_value * self.cases / self.levels / count

    def encode(self, values: Floats, count: int) -> tuple[Words, int]:
        """Return (q of `count` * values in the memory of `values`, how many values were clipped).

        Raises `PrivacyError` for NaN and Inf, which no sum would show, and for a count that is
        not in 1 to `cases`.
        """
        require_countable(count, self.cases)
        integers, clipped = values.view(np.int32), 0
        bound = self.levels * (count / self.cases)
        scale = bound / self.clip_value
        for start in range(0, values.size, _CHUNK):
            # In float64: rounded to float32, the bound itself would lie above the most that may be summed.
            scaled = np.multiply(values[start : start + _CHUNK], scale, dtype=np.float64)
            largest = np.abs(scaled).max()
            if not np.isfinite(largest):
                raise PrivacyError("the update holds NaN or Inf: look at loss, rate and data")
            if largest > bound:
                clipped += int((np.abs(scaled) > bound).sum())
                np.clip(scaled, -bound, bound, out=scaled)
            integers[start : start + _CHUNK] = np.rint(scaled, out=scaled)
        return values.view(np.uint32), clipped

    def decode(self, words: Words, count: int, sites: int) -> Floats:
        """Return the mean that the sum `words` of `sites` sites stands for, in the memory of `words`.

        `count`: the sum of their counts. Raises `PrivacyError` where no such sum is possible.
        """
        require_possible(count, sites, self.cases)
        return scaled(words, self.step(count))


def require_countable(count: int, cases: int) -> None:
    """Raise `PrivacyError` for a count of one site that is not in 1 to `cases`."""
    if not 1 <= count <= cases:
        raise PrivacyError(f"{count} cases are not in 1 to {cases}: raise secure.cases")


def require_possible(count: int, sites: int, cases: int) -> None:
    """Raise `PrivacyError` where `sites` counts of 1 to `cases` have no such sum.

    Masks that were not all taken away leave random numbers.
    """
    if not sites <= count <= sites * cases:
        raise PrivacyError(f"a sum of {count} cases over {sites} sites cannot be: a site masked otherwise")


def scaled(words: Words, step: float) -> Floats:
    """Return `step` times the integers, signed, that `words` `(size,)` hold, in the memory of `words`."""
    values, integers = words.view(np.float32), words.view(np.int32)
    for start in range(0, words.size, _CHUNK):
        values[start : start + _CHUNK] = integers[start : start + _CHUNK] * step
    return values
