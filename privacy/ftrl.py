"""Noise that takes part of itself back: many rounds without trust in a secret draw of patients.

    Kairouz, McMahan, Song, Thakkar, Thakurta, Xu: Practical and Private (Deep) Learning Without
    Sampling or Shuffling. ICML 2021.                                    DP-FTRL, noise in a tree
    Denisov, McMahan, Rush, Smith, Thakurta: Improved Differential Privacy for SGD via Optimal
    Private Linear Operators on Adaptive Streams. NeurIPS 2022.          any lower triangular C
    Kalinin, Lampert: Banded Square Root Matrix Factorization for Differentially Private Model
    Training. NeurIPS 2024.                                              the C used here

What training needs is not a single step's sum g_t but the sum of all steps so far. So step t
releases g_t + n_t whose noises nearly cancel in such sums:

    n_t = z_t - c_1 n_(t-1) - ... - c_(p-1) n_(t-p+1)         z_t independent Gaussians
    c_0 = 1,  c_k = c_(k-1) (1 - 1 / 2k)                      the square root of summation, p bands

With C the banded matrix of these c, C (g + n) = C g + z: to see the released steps is to see the
rows of C g under independent noise (also if later g depend on earlier releases: Denisov et al.,
theorem 2.1). Who takes part when decides what that costs:

    slots    an epoch has b steps; each patient is drawn into one of them, once, and takes part in
             that step of every epoch. Others do not move when one patient comes or goes.
    p <= b   a patient's columns of C then do not overlap: k epochs move C g by at most
             clip_norm * sqrt(k) * |c|, and do for a patient in the first slot

So one epoch is one Gaussian event at rate 1, with z_t = Normal(0, noise_multiplier * clip_norm *
|c|): exact, whatever the number of rounds, as long as a round is whole epochs. A round that is
taken twice is paid twice. Nothing is claimed from the secrecy of the slots.

The last p - 1 noises and the slots survive a round at the site, in a file that only its owner may
read, and never leave: whoever has them can subtract the noise.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from privacy.noise import SecureGenerator
from protocol.errors import PrivacyError


def coefficients(bands: int) -> list[float]:
    """Return c_0 .. c_(bands-1)."""
    return list(accumulate(range(1, bands), lambda c, k: c * (1 - 1 / (2 * k)), initial=1.0))


def influence(bands: int) -> float:
    """Return |c|: how far a patient of clip norm 1 moves the rows of C g in one epoch."""
    return math.sqrt(sum(c * c for c in coefficients(bands)))


class CorrelatedNoise:
    """The noises n_t of a row of `size` numbers, asked for piece by piece, row after row.

    Takes `SecureGenerator`'s place in a private gradient: `std` is that of z_t.
    """

    def __init__(self, bands: int, size: int, generator: SecureGenerator, past: Tensor | None = None) -> None:
        """Go on after `past`, `(at most bands - 1, size)` float32, newest first."""
        self._weights = coefficients(bands)[1:]
        self._rows = deque(() if past is None else past, maxlen=bands - 1)
        self._generator = generator
        self._row = torch.empty(size)
        self._place = 0

    def normal_(self, tensor: Tensor, std: float) -> Tensor:
        """Fill the contiguous `tensor` with the next numbers of the current row."""
        here = slice(self._place, self._place + tensor.numel())
        noise = self._generator.normal_(torch.empty(tensor.numel(), dtype=torch.float64), std)
        for weight, row in zip(self._weights, self._rows, strict=False):
            noise.sub_(row[here], alpha=weight)
        # As it is remembered, so it is released: what is taken back later is exactly what was added.
        self._row[here] = noise
        tensor.copy_(self._row[here].view(tensor.shape))
        self._place = here.stop
        if self._place == len(self._row):
            self._rows.appendleft(self._row.clone())
            self._place = 0
        return tensor

    def past(self) -> Tensor:
        """Return the last rows, newest first: what the next round needs."""
        return torch.stack(tuple(self._rows)) if self._rows else self._row.new_empty(0, len(self._row))


@dataclass(frozen=True)
class Stream:
    """A site's correlated noise and its patients' slots, `(patients,)`."""

    noise: CorrelatedNoise
    slots: Tensor
    influence: float

    def memory(self) -> dict[str, Tensor]:
        """Return what must survive the round, and must not leave."""
        return {"past": self.noise.past(), "slots": self.slots}


def stream(memory: Mapping[str, Tensor], patients: int, steps: int, size: int, most_bands: int) -> Stream:
    """Go on from `memory`, or begin where it is empty: epochs of `steps` steps, `size` parameters.

    Raises:
        PrivacyError: if the memory is another cohort's or another model's.
    """
    generator, bands = SecureGenerator(), min(most_bands, steps)
    slots = memory.get("slots", None)
    past = memory.get("past", None)
    if slots is None or past is None:
        slots, past = generator.randint(steps, patients), torch.empty(0, size)
    if slots.shape != (patients,) or past.shape[1:] != (size,) or int(slots.max()) >= steps:
        raise PrivacyError(
            "patients or parameters are not those of the run's earlier rounds, whose noise is still to be "
            "taken back: start a new run"
        )
    return Stream(CorrelatedNoise(bands, size, generator, past), slots, influence(bands))
