"""Noise split over the sites: each adds a share, and only their sum carries all of it.

    Kairouz, Liu, Steinke: The Distributed Discrete Gaussian Mechanism for Federated Learning with
    Secure Aggregation. ICML 2021. What differs: the shares are Gaussians, rounded; see below.

Site i has s[i], the sum of its drawn patients' clipped gradients. Add or remove one patient and it moves by
at most C = clip_norm, over all groups as one vector. The site sends, masked,

    r[i] = round((s[i] + Normal(0, sigma^2 / K)) / step)          sigma = noise_multiplier * C

and the coordinator sees the sum of r[i] over the contributors, and nothing else. With K honest ones:

    against the coordinator, with the contributors that are not honest on its side, and against every site,
    which sees the model and knows its own share, the sum of s carries Normal(0, sigma^2) at least

so the round is one Gaussian mechanism on a Poisson sample, as if one trusted party had added the noise.
Every share that is not needed makes it better. What dropouts can cost is settled beforehand: a group of fewer
than `secure.fewest` contributors is never unmasked, and K is below that. Against somebody who knows all other
shares a site has its own share alone, a noise multiplier smaller by sqrt(K) (`accounting.alone`).

Rounding comes after the noise, at each site for itself, so the sum of r is not the rounded sum. It tells
no more: given Y = sum of (s[i] + noise[i]), the fractions that rounding drops are uniform up to a factor
1 +- eta whatever the s, so the sum of r is a random function of Y that no patient influences. For n
contributors, in units of a step (Poisson summation over the n - 1 fractions that are free):

    eta <= 4 (n - 1) exp(-2 pi^2 (2^10)^2 / (K n))                below 1e-85 for K <= 100, n <= 1,000

which a billion parameters and a million rounds leave far below any delta. A coarse step would not: the
tests compute the divergence of rounded shares exactly and see it.

s itself is a sum of float32, within the 1e-5 of clip_norm that every private step is held to.

All of it holds for one step a round and the plain sum. Noise in each of several local steps, or
an optimiser that is not linear, is another mechanism: recipes that ask for it are refused.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from privacy.noise import SecureGenerator
from privacy.secagg.fixed import Floats, require_possible, scaled
from privacy.secagg.masks import Words
from protocol.recipe import Recipe

FINENESS = 1 << 10
"""Units of the integers in one standard deviation of the sum's noise."""
_BOUND = 1 << 20
"""The largest |s / step|: a thousand sites do not overflow 32 bits, and 1,000 sigma is no gradient."""
_CHUNK = 1 << 15


@dataclass(frozen=True)
class Split:
    """The integers that stand for noised sums of clipped gradients: see the module.

    `noise_stddev` is sigma, `shares` K; `move` makes an update of a mean gradient: minus the
    learning rate; `cases` is the most patients that one site may count.
    """

    noise_stddev: float
    shares: int
    move: float
    cases: int

    @property
    def share(self) -> float:
        """Stddev of the noise that one site adds."""
        return self.noise_stddev / math.sqrt(self.shares)

    @property
    def step(self) -> float:
        """What one unit of r is in s."""
        return self.noise_stddev / FINENESS

    def encode(self, total: Tensor, generator: SecureGenerator) -> Tensor:
        """Return r `(size,)` int32 of the clipped sum s `(size,)`, float32 or float64, finite."""
        words = torch.empty(len(total), dtype=torch.int32)
        for start in range(0, len(total), _CHUNK):
            part = total[start : start + _CHUNK].double().div(self.step).clamp_(-_BOUND, _BOUND)
            part += generator.normal_(torch.empty_like(part), self.share / self.step)
            words[start : start + _CHUNK] = part.round_()
        return words

    def decode(self, words: Words, count: int, sites: int) -> Floats:
        """Return the update that the sum `words` `(size,)` of `sites` sites stands for, in its memory.

        `count`: the sum of their patients. Raises `PrivacyError` where no such sum is possible.
        """
        require_possible(count, sites, self.cases)
        return scaled(words, self.move * self.step / count)


def split_of(recipe: Recipe) -> Split | None:
    """Return how the recipe splits its noise; None where every site adds all of its own."""
    secure, privacy = recipe.secure, recipe.privacy
    if secure.noise_over is None:
        return None
    # `load_recipe` lets no such recipe through without both: all sites must mean the same noise.
    noise, rate = cast("float", privacy.noise_multiplier), cast("float", privacy.sampling_rate)
    return Split(noise * privacy.clip_norm, secure.noise_over, -recipe.training.rate / rate, secure.cases)
