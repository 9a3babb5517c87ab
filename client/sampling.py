"""Which cases a step sees.

Without privacy: shuffled passes, each epoch a permutation that follows from (recipe seed,
site, epoch) alone. Nothing has to be stored to resume, and two engines agree.

With privacy: every patient by an independent coin (Poisson), or each in the one step of an
epoch that is its slot (`privacy.ftrl`), and of a drawn patient one case, from a generator that
no recipe reaches (`privacy.noise`).
"""

import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from privacy.noise import SecureGenerator
from protocol.recipe import Training


def seeded(*parts: object) -> torch.Generator:
    """Return a generator whose seed follows from `parts`, whatever else has been drawn."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def steps_a_round(training: Training, cases: int) -> int:
    """Optimiser steps of one round over `cases` training cases."""
    return training.steps or training.epochs * math.ceil(cases / training.batch)


def shuffled(rows: Tensor, training: Training, seed: tuple[object, ...], number: int) -> Iterator[Tensor]:
    """Yield the batches of round `number`: a window of an endless walk over epochs."""
    an_epoch = math.ceil(len(rows) / training.batch)
    steps = steps_a_round(training, len(rows))
    current, order = -1, rows
    for step in range((number - 1) * steps, number * steps):
        epoch, place = divmod(step, an_epoch)
        if epoch != current:
            current, order = epoch, rows[torch.randperm(len(rows), generator=seeded(*seed, "order", epoch))]
        yield order[place * training.batch : (place + 1) * training.batch]


def poisson(cases_of: list[Tensor], rate: float, steps: int, generator: SecureGenerator) -> Iterator[Tensor]:
    """Yield `steps` batches of at most one case of each patient; `cases_of[p]` are p's rows."""
    for _ in range(steps):
        yield _one_case_each(cases_of, generator.poisson_sample(len(cases_of), rate), generator)


def in_turn(
    cases_of: list[Tensor], slots: Tensor, steps: int, epochs: int, generator: SecureGenerator
) -> Iterator[Tensor]:
    """Yield `epochs` of `steps` batches; patient `p` has one case in batch `slots[p]` of each epoch."""
    for step in range(epochs * steps):
        yield _one_case_each(cases_of, (slots == step % steps).nonzero().view(-1), generator)


def _one_case_each(cases_of: list[Tensor], patients: Tensor, generator: SecureGenerator) -> Tensor:
    rows = [cases_of[p][generator.randint(len(cases_of[p]), 1)] for p in patients.tolist()]
    return torch.cat(rows) if rows else torch.empty(0, dtype=torch.long)
