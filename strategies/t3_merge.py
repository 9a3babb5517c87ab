"""T3: at the moment of use, each site merges the common model and its own.

T^3: Test-Time Model Merging for Medical Vision-Language Models (code: github.com/Razaimam45/TCube).

The two share their beginning, since a site's own model is the common one after the site's local steps
of a round. For a case x on which they predict p (common) and q (own):

    JS(p, q)  = KL(p | m) / 2 + KL(q | m) / 2,    m = (p + q) / 2        in [0, ln 2]
    lambda(x) = least + (most - least) sigmoid(gamma (JS - threshold))
    theta(x)  = lambda(x) theta_common + (1 - lambda(x)) theta_own

Where they agree the site's own precision is kept, where they do not the common model has its say. It
needs no label and no training. The paper's threshold is 0, and then lambda stays in [0.5, 0.586] for
its gamma of 0.5; a larger gamma and a threshold make it decide.

To compare with: one lambda for all cases (`least` = `most`), and the more certain model more
(`by: entropy`, as in DaWin: Oh et al., ICLR 2025).

At the server this is FedAvg. Nothing else travels, and no epsilon is spent: what a site keeps is what
it has trained for the others.
"""

from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from protocol.errors import RecipeError
from protocol.recipe import NotNegative
from protocol.typed import Rule, one_of
from protocol.update import Vectors
from strategies.base import Finished, Local, Memory, Merge, Strategy, initial
from strategies.fedavg import average

Part = Annotated[float, Rule("in [0, 1]", lambda value: 0 <= value <= 1)]


def t3_merge(
    *,
    gamma: NotNegative = 0.5,
    threshold: NotNegative = 0.0,
    least: Part = 0.0,
    most: Part = 1.0,
    by: Annotated[str, one_of("divergence", "entropy")] = "divergence",
    each: Annotated[str, one_of("case", "batch", "logits")] = "case",
) -> Strategy:
    """FedAvg, and a merge of the common and the site's own model wherever the site predicts.

    Args:
        gamma: how sharply lambda follows the disagreement.
        threshold: the disagreement, in nats, at which lambda is midway.
        least: lambda at its least, 0 being the site's own model.
        most: lambda at its most, 1 being the common model.
        by: what lambda follows.
        each: `case` by case, one model for each mini-batch by its mean lambda (cheaper, and then a
            case's prediction depends on its companions), or logits merged in place of parameters.
    """
    if least > most:
        raise RecipeError(f"strategy.least: expected at most strategy.most ({most:g}), found {least:g}")
    measure = {"divergence": jensen_shannon, "entropy": certainty_of_first}[by]
    rule = partial(coefficient, gamma=gamma, threshold=threshold, least=least, most=most)
    return Strategy(initial, average, local=Local(finish=_finish, merge=Merge(measure, rule, each)))


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return the divergence of log-probabilities `(..., K)`, in nats: `(...)`."""
    middle = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0))
    both = log_p.exp() * (log_p - middle) + log_q.exp() * (log_q - middle)
    return both.sum(-1).clamp(min=0) / 2


def certainty_of_first(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return how much less entropy p has than q, of log-probabilities `(..., K)`, in nats: `(...)`."""
    return (log_p.exp() * log_p).sum(-1) - (log_q.exp() * log_q).sum(-1)


def coefficient(measured: Tensor, *, gamma: float, threshold: float, least: float, most: float) -> Tensor:
    """Return lambda of each case, `(B,)`, from what was measured of it."""
    return least + (most - least) * torch.sigmoid(gamma * (measured - threshold))


def _finish(  # noqa: PLR0917 - the hook's signature
    start: Vectors, here: Vectors, received: Memory, memory: Memory, steps: float, rate: float
) -> Finished:
    del start, received, memory, steps, rate
    return {}, {"personal": {group: vector.clone() for group, vector in here.items()}}
