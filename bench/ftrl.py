"""From how many epochs on correlated noise beats the secrecy of the draw, at equal epsilon.

    python -m bench.ftrl

What hurts training is the noise in the sum of all steps so far, relative to clip_norm; the figure
is its root mean square over steps (for a whole run, one coordinate). All have the same expected
batch, so their signals are alike. It is computed, not sampled:

    sgd        DP-SGD, Poisson draws, the least noise for the budget (PRV)     noise * sqrt(mean t)
    ftrl       `privacy.ftrl` with p bands, each patient once an epoch         |B| / sqrt(T), B C = sums
    tree       the same without reuse of a node: Kairouz et al.'s binary tree, restarted each epoch
"""

import math
from itertools import accumulate

from privacy.accounting import calibrate
from privacy.ftrl import coefficients, influence

EPSILONS, DELTA = (1.0, 3.0, 8.0), 1e-4


def sgd(epsilon: float, steps: int, epochs: int) -> float:
    """Return DP-SGD's root mean square noise in sums of up to `steps * epochs` steps."""
    total = steps * epochs
    return calibrate(epsilon, DELTA, 1 / steps, total) * math.sqrt((total + 1) / 2)


def ftrl(epsilon: float, steps: int, epochs: int, bands: int) -> float:
    """Return the same of correlated noise."""
    bands, total = min(bands, steps), steps * epochs
    c, inverse = coefficients(bands), [1.0]
    for t in range(1, total):
        inverse.append(-sum(c[k] * inverse[t - k] for k in range(1, min(bands, t + 1))))
    rows = list(accumulate(value**2 for value in accumulate(inverse)))  # |row t of B|^2
    return calibrate(epsilon, DELTA, 1.0, epochs) * influence(bands) * math.sqrt(sum(rows) / total)


def tree(epsilon: float, steps: int, epochs: int) -> float:
    """Return the same of a tree an epoch: a step is in `levels` nodes, a sum is of its 1-bits' nodes."""
    levels, total = max(1, math.ceil(math.log2(steps + 1))), steps * epochs
    whole = steps.bit_count()
    rows = [(t // steps) * whole + (t % steps + 1).bit_count() for t in range(total)]
    return calibrate(epsilon, DELTA, 1.0, epochs) * math.sqrt(levels) * math.sqrt(sum(rows) / total)


def main() -> None:
    """Print a line for each budget, steps an epoch and epochs."""
    print(f"delta {DELTA:g}; noise of a sum / clip norm; bands 8 and as many as an epoch has steps")
    for steps in (4, 16, 64):
        for epsilon in EPSILONS:
            for epochs in (1, 4, 16, 64, 256):
                us = {bands: ftrl(epsilon, steps, epochs, bands) for bands in (8, steps)}
                told = "   ".join(f"ftrl {bands:2} {value:8.1f}" for bands, value in us.items())
                other = sgd(epsilon, steps, epochs)
                best = "ftrl" if min(us.values()) < other else "sgd"
                print(
                    f"epsilon {epsilon:g}   {steps:3} steps x {epochs:3} epochs   sgd {other:8.1f}   {told}"
                    f"   tree {tree(epsilon, steps, epochs):8.1f}   least: {best}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
