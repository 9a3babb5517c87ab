"""What a cohort looks like, with every patient's share in the answer bounded and noised.

    histogram    how many patients lie in each bin
    moments      count, mean and variance of each column, within stated bounds
    quantiles    from a histogram that was released already: costs nothing more

One patient is one row of bounded length, however many cases it has: the mean over its cases. The
rows are summed, and the sum is noised in proportion to the longest row that there could be
(Dwork, McSherry, Nissim, Smith: Calibrating Noise to Sensitivity in Private Data Analysis. TCC
2006, with Gaussian noise). So each release is one `price(noise_multiplier)` in the same ledger as
training's steps, and composes with them.

Bounds and edges come from outside (a textbook, the recipe), never from the data: a bound that is
the largest value of the cohort tells that value. Sums of several sites may be added: each site's
noise and each site's price stay its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from privacy.accounting import Event
from privacy.noise import SecureGenerator, on_grid
from protocol.errors import PrivacyError


def price(noise_multiplier: float) -> Event:
    """Return what one release costs: every patient takes part, once."""
    return Event(noise_multiplier, 1.0, 1)


@dataclass(frozen=True)
class Moments:
    """Noised sums over patients of columns scaled from `low .. high` to -1 .. 1, all float64 `(F,)`.

    `count`    `()`, noised too
    `first`    sum of x
    `second`   sum of x^2
    """

    low: Tensor
    high: Tensor
    count: Tensor
    first: Tensor
    second: Tensor

    def __add__(self, other: "Moments") -> "Moments":
        """Pool two sites that used the same bounds."""
        if not (torch.equal(self.low, other.low) and torch.equal(self.high, other.high)):
            raise PrivacyError("moments within different bounds do not add: give all sites the same")
        sums = (self.count + other.count, self.first + other.first, self.second + other.second)
        return Moments(self.low, self.high, *sums)

    def mean(self) -> Tensor:
        """Return each column's mean over patients, within its bounds."""
        return (self.low + self.high) / 2 + self._scaled_mean() * self._half()

    def variance(self) -> Tensor:
        """Return each column's variance over all cases, patients weighing the same; >= 0."""
        spread = self.second / self.count.clamp(min=1) - self._scaled_mean().square()
        return spread.clamp(0, 1) * self._half().square()

    def _scaled_mean(self) -> Tensor:
        return (self.first / self.count.clamp(min=1)).clamp(-1, 1)

    def _half(self) -> Tensor:
        return (self.high - self.low) / 2


def moments(  # noqa: PLR0917 - the data, their bounds, their noise
    values: Tensor,
    patient: Tensor,
    low: Sequence[float],
    high: Sequence[float],
    noise_multiplier: float,
    generator: SecureGenerator,
) -> Moments:
    """Sum up `(N, F)` values of cases whose patients are `patient` `(N,)`; NaN counts as mid-range.

    A row is (1, x, x^2), so no longer than sqrt(1 + 2F).
    """
    lows, highs = torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64)
    if lows.shape != values.shape[1:] or highs.shape != lows.shape or not bool((lows < highs).all()):
        raise PrivacyError(f"bounds must be a low < high for each of {values.shape[1]} columns")
    scaled = (values.double() - (lows + highs) / 2) / ((highs - lows) / 2)
    scaled = scaled.nan_to_num(0.0).clamp(-1, 1)
    rows = _one_each(torch.cat([torch.ones(len(scaled), 1), scaled, scaled.square()], 1), patient)
    total = _noised(rows, math.sqrt(1 + 2 * len(lows)), noise_multiplier, generator)
    count, first, second = total.split([1, len(lows), len(lows)])
    return Moments(lows, highs, count[0], first, second)


def histogram(
    values: Tensor,
    patient: Tensor,
    edges: Sequence[float],
    noise_multiplier: float,
    generator: SecureGenerator,
) -> Tensor:
    """Return how many patients lie between neighbouring `edges`, float64 `(len(edges) - 1,)`.

    `values` `(N,)` beyond an edge count in the outermost bin, NaN in none. A patient whose cases
    lie in several bins is shared out over them: a row's entries add up to at most 1.
    """
    bounds = torch.tensor(edges, dtype=torch.float64)
    if len(bounds) < 2 or not bool((bounds[1:] > bounds[:-1]).all()):  # noqa: PLR2004 - a bin has two edges
        raise PrivacyError("edges must be at least two, ascending")
    bins = torch.bucketize(values.double().contiguous(), bounds[1:-1], right=True)
    rows = torch.nn.functional.one_hot(bins, len(bounds) - 1).double()
    rows[values.isnan()] = 0
    return _noised(_one_each(rows, patient), 1.0, noise_multiplier, generator)


def quantiles(counts: Tensor, edges: Sequence[float], shares: Sequence[float]) -> Tensor:
    """Return where `shares` of the patients in a released histogram lie below, float64.

    Inside a bin patients are taken to be spread evenly. Noise can make a count negative: it is
    then taken for none. No patient at all: the middle of the range.
    """
    bounds = torch.tensor(edges, dtype=torch.float64)
    below = torch.cat([torch.zeros(1, dtype=torch.float64), counts.clamp(min=0).cumsum(0)])
    if not below[-1] > 0:
        return torch.full((len(shares),), float(bounds[0] + bounds[-1]) / 2, dtype=torch.float64)
    wanted = torch.tensor(shares, dtype=torch.float64) * below[-1]
    bins = torch.searchsorted(below[1:].contiguous(), wanted).clamp(max=len(counts) - 1)
    inside = (wanted - below[bins]) / (below[bins + 1] - below[bins]).clamp(min=1e-12)
    return bounds[bins] + inside.clamp(0, 1) * (bounds[bins + 1] - bounds[bins])


def _one_each(rows: Tensor, patient: Tensor) -> Tensor:
    """Return the mean row of each patient, `(N, D)` -> `(patients, D)`."""
    _, owner, cases = patient.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(cases), rows.shape[1], dtype=torch.float64).index_add_(0, owner, rows.double())
    return sums / cases[:, None]


def _noised(rows: Tensor, longest: float, noise_multiplier: float, generator: SecureGenerator) -> Tensor:
    stddev = noise_multiplier * longest
    noise = generator.normal_(torch.empty(rows.shape[1], dtype=torch.float64), stddev)
    return on_grid(noise.add_(rows.sum(0)), stddev)
