"""Membership inference: was this patient trained on?

    Carlini, Chien, Nasr, Song, Terzis, Tramer: Membership Inference Attacks From First
    Principles. IEEE S&P 2022 (LiRA, online).

    1. train many models, each on half of the patients, every patient in half of the models
    2. a patient's confidence under a model: phi = -log(e^loss - 1), the logit of p = e^-loss
    3. for a target model and a patient, by the other models: mean phi with and without the patient
    4. score = log N(phi; with) - log N(phi; without), its standard deviations shared by all patients

Each model is the target once. Reported is how many members are found while at most 1 % of the
others are mistaken for members: an attack that finds a few patients for certain is a breach, and an
average accuracy would hide it.

The patients are made up and their labels are coins, so all that a model can learn is who they are; it
trains long on few of them. With and without privacy everything but the gradient is equal. The
adversary sees the final parameters, and knows everything else but who took part.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from client.sampling import seeded
from client.site import Site
from client.spending import planned
from client.training import plain, private, trained, walk
from protocol.batch import Batch
from protocol.recipe import Recipe, Training
from protocol.update import Vectors
from sim.attacks.hospital import cases, hospital, treating

FALSE = 0.01
"""Share of non-members that may be mistaken for members."""
BY_HEART = Training(steps=100, batch=16, optimizer="adam", rate=0.01)
"""Far more passes over few patients than a recipe would make."""

_LEAST_LOSS = 1e-7

Watch = Callable[[], object]
"""Called after every model."""


@dataclass(frozen=True)
class Found:
    """Share of the members found, over `members` pairs of a model and a patient it was trained on."""

    found: float
    members: int
    others: int


def measure(
    recipe: Recipe,
    seed: int,
    *,
    models: int = 8,
    patients: int = 64,
    training: Training = BY_HEART,
    watch: Watch = lambda: None,
) -> Found:
    """Attack `models` models of the recipe, trained with the recipe's privacy, or without."""
    recipe = replace(recipe, training=training, rounds=1)
    site = hospital(recipe, cases(recipe, patients, seed))
    start = {group: vector.clone() for group, vector in site.flat.vectors.items()}
    member = halves(models, patients, seed)
    phi = torch.stack([confidences(site, start, row, watch) for row in member])
    score = likelihood_ratios(phi, member)
    inside, outside = score[member], score[~member]
    return Found(found_at(inside, outside), len(inside), len(outside))


def halves(models: int, patients: int, seed: int) -> Tensor:
    """Return who is in which training set, bool `(models, patients)`; neighbouring models are opposites."""
    generator = seeded(seed, "halves")
    drawn = torch.rand(models // 2, patients, generator=generator).argsort(1) < patients // 2
    return torch.stack([drawn, ~drawn], 1).flatten(0, 1)


def confidences(site: Site, start: Vectors, member: Tensor, watch: Watch = lambda: None) -> Tensor:
    """Train from `start` on the members, and return phi of every patient, `(patients,)`."""
    everybody = site.cohort.cases
    site.flat.load(start)
    learner = treating(site, everybody.map(lambda x: x[member]))
    within = learner.recipe.privacy.epsilon is not None
    walk(
        learner,
        trained(learner),
        private(learner, planned(learner)) if within else plain(learner, 1),
        _untouched,
    )
    site.flat.model.eval()
    with torch.inference_mode():
        losses = _losses(site, everybody).double().clamp(min=_LEAST_LOSS)
    watch()
    return -losses.expm1().log()


def likelihood_ratios(phi: Tensor, member: Tensor) -> Tensor:
    """Return LiRA's score of every model's every patient, `(models, patients)`."""
    scores = []
    for target in range(len(phi)):
        others = torch.arange(len(phi)) != target
        mean_in, spread_in = _normal(phi[others], member[others])
        mean_out, spread_out = _normal(phi[others], ~member[others])
        scores.append(_log(phi[target], mean_in, spread_in) - _log(phi[target], mean_out, spread_out))
    return torch.stack(scores)


def found_at(members: Tensor, others: Tensor, false: float = FALSE) -> float:
    """Return the share of `members` scored above all but a share `false` of `others`."""
    allowed = int(false * len(others))
    threshold = others.sort(descending=True).values[allowed]
    return float((members > threshold).double().mean())


def _untouched(group: str, grad: Tensor, here: Tensor) -> None:
    """Correct nothing, as plain FedAvg does."""


def _losses(site: Site, batch: Batch) -> Tensor:
    outputs = site.flat.model(batch)
    losses = [
        head.weight * site.objectives[name].function(outputs[name], batch.targets[name])
        for name, head in site.recipe.heads.items()
        if name in outputs  # some pretexts are said in training alone
    ]
    return torch.stack(losses).sum(0)


def _normal(phi: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Each patient's mean over the chosen models, and one standard deviation for all."""
    counts = chosen.sum(0)
    mean = (phi * chosen).sum(0) / counts
    squares = ((phi - mean).square() * chosen).sum() / (counts - 1).clamp(min=1).sum()
    return mean, squares.sqrt().clamp(min=_LEAST_LOSS)


def _log(x: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    return -((x - mean) / spread).square() / 2 - spread.log()
