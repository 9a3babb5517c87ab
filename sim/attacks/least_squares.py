"""Damped Gauss-Newton: where a vector function of a few numbers is nearest to zero.

    Levenberg 1944; Marquardt: An Algorithm for Least-Squares Estimation of Nonlinear Parameters.
    SIAM 1963.

    step = -(J' J + damping diag(J' J))^-1 J' gap        J: slopes of the gap, here

A step that comes nearer is taken and damping falls; else damping grows and the step is made again. With
tens of numbers and hundreds of thousands of gaps all of the cost is in J, which is had by one forward
derivative a number. (SciPy's methods decompose J itself, and needed twice as many of them here.)
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp, vmap

Gap = Callable[[Tensor], Tensor]
"""`(n,)` -> `(gaps,)`, both float64."""

_DAMPING, _MOST, _EASE, _GROW = 1e-3, 1e6, 5.0, 4.0
_STILL = 1e-2
"""Share of the squared gap that a step must take away for there to be another."""
_AT_ONCE = 16
"""Derivatives held in memory together."""


def nearest(gap: Gap, here: Tensor, steps: int) -> tuple[Tensor, float]:
    """Return the point found from `here` in at most `steps` steps, and half the squared gap left there."""
    found, damping = gap(here), _DAMPING
    for _ in range(steps):
        slopes = _slopes(gap, here)
        normal, pull = slopes @ slopes.T, slopes @ found
        before = float(found @ found)
        while damping < _MOST:
            there = here - torch.linalg.solve(normal + damping * _scale(normal), pull)
            left = gap(there)
            if float(left @ left) < before:
                break
            damping *= _GROW
        else:
            break
        here, found, damping = there, left, damping / _EASE
        if float(found @ found) > (1 - _STILL) * before:
            break
    return here, float(found @ found) / 2


def _slopes(gap: Gap, here: Tensor) -> Tensor:
    """Return the gap's derivative by each number, `(n, gaps)`."""

    def along(way: Tensor) -> Tensor:
        return jvp(gap, (here,), (way,))[1]

    # What a pretext draws follows from the case, and is the same along every direction.
    return vmap(along, chunk_size=_AT_ONCE, randomness="same")(torch.eye(len(here), dtype=here.dtype))


def _scale(normal: Tensor) -> Tensor:
    return normal.diagonal().clamp(min=1e-30).diag()
