"""Gradient inversion: a patient's scan, rebuilt from what the site sends.

    Geiping, Bauermeister, Droege, Moeller: Inverting Gradients - How easy is it to break privacy
    in federated learning? NeurIPS 2020.

    x* = argmin over x of  1 - cos(gradient(x), what was released) + smooth * total variation(x)

The case is the adversary's best: one patient, one step, so that the update is minus the rate times
one gradient; the parameters and the label known; and the scan's normalisation known too (mean 0,
standard deviation 1), since a network with normalising layers tells no scale. The victim is made up.

A reconstruction is judged by its peak signal-to-noise ratio over the scan's own range,

    PSNR = 10 log10(range^2 / mean squared error)      30 dB: a mean error of 3 % of the range

beside that of the hospital's mean scan, which an adversary may guess without any attack.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from client.sampling import seeded
from client.site import Site
from models.objectives import case_losses, total_loss
from privacy.dpsgd import PrivateGradient
from privacy.noise import SecureGenerator
from protocol.batch import Batch
from protocol.recipe import Recipe
from sim.attacks.hospital import cases, hospital

PATIENTS = 16
"""Who the mean scan is the mean of; the first is the victim."""
STEPS = 400
SMOOTH = 1e-4
RATE = 0.1

Images = dict[str, Tensor]
"""Modality -> `(1, ...)`, what the adversary believes that it looks like."""
Watch = Callable[[], object]
"""Called after every step of the attack."""


@dataclass(frozen=True)
class Rebuilt:
    """Decibels of the reconstruction and of the mean scan, over all modalities together."""

    psnr: float
    mean_psnr: float


def measure(
    recipe: Recipe, noise_multiplier: float | None, seed: int, steps: int = STEPS, watch: Watch = lambda: None
) -> Rebuilt:
    """Attack one step of the recipe's own model; `noise_multiplier` None is training without privacy."""
    site = hospital(recipe, cases(recipe, PATIENTS, seed))
    victim = site.cohort.cases.map(lambda x: x[:1])
    groups = list(site.flat.vectors)
    site.flat.train_only(groups)
    site.flat.model.train()
    released = (
        plainly(site, victim) if noise_multiplier is None else privately(site, victim, noise_multiplier)
    )
    guess = rebuild(site, released, victim, seed=seed, steps=steps, watch=watch)
    mean = {name: x.mean(0, keepdim=True) for name, x in site.cohort.cases.inputs.items()}
    return Rebuilt(psnr(guess, victim.inputs), psnr(mean, victim.inputs))


def plainly(site: Site, victim: Batch) -> list[Tensor]:
    """Return the gradient that an undefended step on one patient lets out, a tensor a parameter."""
    return [g.detach() for g in _gradient(site, victim)]


def privately(site: Site, victim: Batch, noise_multiplier: float) -> list[Tensor]:
    """Return the same of a private step."""
    recipe, parameters = site.recipe, list(site.flat.model.parameters())
    bounds = recipe.privacy.clip_norm, noise_multiplier, 1.0
    gradient = PrivateGradient(site.flat.model, parameters, *bounds, SecureGenerator(), recipe.privacy.mode)
    with closing(gradient):
        gradient(victim, lambda outputs, batch: case_losses(outputs, batch, recipe.heads, site.objectives))
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]


def rebuild(
    site: Site, released: list[Tensor], victim: Batch, *, seed: int, steps: int, watch: Watch = lambda: None
) -> Images:
    """Return the images whose gradient points where `released` does; of `victim` only labels are read."""
    generator = seeded(seed, "inversion")
    guess = {
        name: torch.randn(x.shape, generator=generator).requires_grad_() for name, x in victim.inputs.items()
    }
    optimiser = torch.optim.Adam(guess.values(), RATE)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        found = _gradient(site, replace(victim, inputs=guess))
        loss = _angle(found, released) + SMOOTH * sum(map(_roughness, guess.values()))
        pulls = torch.autograd.grad(loss, list(guess.values()))
        for image, pull in zip(guess.values(), pulls, strict=True):
            image.grad = pull
        optimiser.step()
        decay.step()
        watch()
    return {name: _normalised(image.detach()) for name, image in guess.items()}


def psnr(guess: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> float:
    """Return decibels over all modalities together; each error in units of its modality's range."""
    errors = [
        ((guess[name] - x) / (x.max() - x.min()).clamp(min=1e-6)).square().flatten()
        for name, x in truth.items()
    ]
    return -10 * math.log10(max(float(torch.cat(errors).mean()), 1e-12))


def _gradient(site: Site, batch: Batch) -> tuple[Tensor, ...]:
    parameters = list(site.flat.model.parameters())
    loss = total_loss(site.flat.model(batch), batch, site.recipe.heads, site.objectives)
    return torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True)


def _angle(found: tuple[Tensor, ...], released: list[Tensor]) -> Tensor:
    """One minus the cosine between two gradients as whole vectors."""
    product = sum((f * r).sum() for f, r in zip(found, released, strict=True))
    lengths = [torch.stack([t.square().sum() for t in tensors]).sum() for tensors in (found, released)]
    return 1 - product / (lengths[0] * lengths[1]).clamp(min=1e-24).sqrt()


def _roughness(image: Tensor) -> Tensor:
    """Total variation: the mean absolute step between neighbours along every axis of space."""
    axes = range(2, image.ndim)
    return sum((image.diff(dim=axis).abs().mean() for axis in axes), torch.zeros(()))


def _normalised(image: Tensor) -> Tensor:
    return (image - image.mean()) / image.std().clamp(min=1e-6) if image.ndim > 2 else image  # noqa: PLR2004 - a table
