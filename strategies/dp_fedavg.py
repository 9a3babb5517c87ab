"""DP-FedAvg with adaptive clipping: hides a whole *site*, from those who see the models.

McMahan, Ramage, Talwar, Zhang: Learning Differentially Private Recurrent Language Models, ICLR 2018.
Andrew, Thakkar, McMahan, Ramaswamy: Differentially Private Learning with Adaptive Clipping,
NeurIPS 2021. With m sites in the round, m_g of which own group g:

    u_i   = delta_i * min(1, C / |delta_i|)                      |.| over all groups of the update
    x[g] <- x[g] + (sum of u_i[g] + Normal(0, (z_u C)^2)) / m_g
    b_i   = 1 if |delta_i| <= C else 0                           was C enough for site i?
    share = 1/2 + (sum of (b_i - 1/2) + Normal(0, count_noise^2)) / m
    C    <- C exp(-clip_rate (share - quantile))                 C follows a quantile of the norms

    z_u   = (z^-2 - (2 count_noise)^-2)^(-1/2)                   sum and count together: one Gaussian
                                                                 mechanism of noise multiplier z
What is promised, and what is not:

    unit        one site. Nothing here is about patients: for those, set `privacy.epsilon`, which
                holds at the site, whatever the strategy.
    adjacency   the site's update replaced by zeros. Who takes part and who owns which group is
                known to all, so the denominators m and m_g may be.
    from whom   whoever sees models: the other sites, and who is given the result. Not the
                coordinator, who sees every update before the noise is added.
    amplified   by nothing: the coordinator picks the roster.

With ten sites the noise of a useful epsilon drowns the sum, hundreds of times over; this
strategy is for federations of hundreds. The recipe must say `unit: site`, so that nobody who
reads it mistakes the guarantee. Every site weighs the same, since a weight by cases has no bound.
"""

import math
from collections.abc import Iterable
from typing import Annotated

import torch
from torch import Tensor

from privacy.noise import SecureGenerator, on_grid
from protocol.recipe import Inside, NotNegative, Positive
from protocol.typed import one_of
from protocol.update import Update, Vectors
from strategies.base import Promise, State, Strategy, initial
from strategies.owners import OwnerSums

CLIP_NORM, OF_ALL = "clip_norm", "all"
"""Where the state remembers C: `memory[CLIP_NORM][OF_ALL]`, `(1,)`."""


def dp_fedavg(
    *,
    unit: Annotated[str, one_of("site")],
    noise_multiplier: NotNegative,
    delta: Inside = 1e-3,
    clip_norm: Positive = 0.1,
    quantile: Inside = 0.5,
    clip_rate: NotNegative = 0.2,
    count_noise: Positive = 2.0,
) -> Strategy:
    """Average clipped updates under noise; noise_multiplier 0 adds none and promises nothing.

    Raises:
        ValueError: if the count's noise alone would spend more than the whole noise multiplier.
    """
    of_sums = _of_sums(noise_multiplier, count_noise)
    generator = SecureGenerator()

    def init(parameters: Vectors) -> State:
        state = initial(parameters)
        state.memory[CLIP_NORM] = {OF_ALL: torch.tensor([clip_norm])}
        return state

    def step(state: State, updates: Iterable[Update]) -> State:
        bound = float(state.memory[CLIP_NORM][OF_ALL])
        sums, within, sites = OwnerSums(state.spare["deltas"]), 0.0, 0
        for update in updates:
            owned = {group: min(count, 1) for group, count in update.counts.items()}
            norm = _norm(update, owned)
            sums.add(update.deltas, owned, bound / max(norm, bound))
            if any(owned.values()):
                within += 0.5 if norm <= bound else -0.5
                sites += 1
        for group, mean in sums.means():
            stddev = of_sums * bound / sums.weights[group]
            state.parameters[group].add_(_noised(mean, stddev, generator))
        if sites:
            count_stddev = count_noise if noise_multiplier else 0.0
            within += float(generator.normal_(torch.empty(1, dtype=torch.float64), count_stddev))
            share = 0.5 + within / sites
            state.memory[CLIP_NORM][OF_ALL].mul_(math.exp(-clip_rate * (share - quantile)))
        return state

    return Strategy(init, step, promise=Promise(unit, ADJACENCY, noise_multiplier, delta))


ADJACENCY = "one site's update replaced by zeros"


def _of_sums(noise_multiplier: float, count_noise: float) -> float:
    if not noise_multiplier:
        return 0.0
    if 2 * count_noise <= noise_multiplier:
        raise ValueError(f"count_noise must be more than half of noise_multiplier {noise_multiplier:g}")
    return (noise_multiplier**-2 - (2 * count_noise) ** -2) ** -0.5


def _norm(update: Update, owned: dict[str, int]) -> float:
    # In double precision: a norm that rounds down would be a sensitivity that rounds up.
    return math.sqrt(sum(float(v.double().square().sum()) for g, v in update.deltas.items() if owned[g]))


def _noised(mean: Tensor, stddev: float, generator: SecureGenerator) -> Tensor:
    noise = generator.normal_(torch.empty(mean.shape, dtype=torch.float64), stddev)
    return on_grid(noise.add_(mean), stddev)
