"""Gradient inversion: a patient's scan, rebuilt from what the site sends.

    Geiping, Bauermeister, Droege, Moeller: Inverting Gradients - How easy is it to break privacy
    in federated learning? NeurIPS 2020.

    x* = argmin over x of  1 - cos(gradient(x), what was released)

Written as a sum of squares, since 1 - cos(a, b) is half of |a/|a| - b/|b||^2, it is solved by damped
Gauss-Newton steps (`least_squares`), which go on where a descent by the gradient alone has stopped: in a
model of three images and a table 38 dB instead of 24.

The case is the adversary's best: one patient, one step, so that the update is minus the rate times
one gradient; the label known; the scan's normalisation known (mean 0, standard deviation 1), since a
network with normalising layers tells no scale; and how smooth scans are, so that it searches smooth
ones alone (`hospital.scan_of`). The adversary is the coordinator, so the parameters are its choice:
it raises every norm's shift until no ReLU closes (Boenisch et al., EuroS&P 2023, choose parameters for
linear layers). The network is then nearly linear, and the scan is found from one start or another,
which on untrained parameters it is not. No site can tell such parameters from trained ones.
The victim is made up.

A reconstruction is judged by its peak signal-to-noise ratio over the scan's own range,

    PSNR = 10 log10(range^2 / mean squared error)      30 dB: a mean error of 3 % of the range

beside that of the hospital's mean scan, which an adversary may guess without any attack.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn.attention import SDPBackend, sdpa_kernel

from client.sampling import seeded
from client.site import Site
from client.teaching import Lesson
from models.base import MultiModal
from models.objectives import case_losses, total_loss
from privacy.dpsgd import PrivateGradient
from privacy.noise import SecureGenerator
from protocol.batch import Batch
from protocol.recipe import Recipe
from sim.attacks.hospital import cases, guess_of, hospital, scan_of
from sim.attacks.least_squares import nearest

PATIENTS = 16
"""Who the mean scan is the mean of; the first is the victim."""
STARTS = 2
STEPS = 15
"""Of Gauss-Newton, at most, from each start."""
OPEN = 4.0
"""Shift of every norm, in standard deviations of what it normalises."""

Images = Mapping[str, Tensor]
"""Modality -> `(1, ...)`, what the adversary believes that it looks like."""
Watch = Callable[[], object]
"""Called after every start of the attack."""


@dataclass(frozen=True)
class Rebuilt:
    """Decibels of the reconstruction and of the mean scan, over all modalities together."""

    psnr: float
    mean_psnr: float


def measure(
    recipe: Recipe,
    noise_multiplier: float | None,
    seed: int,
    *,
    starts: int = STARTS,
    steps: int = STEPS,
    watch: Watch = lambda: None,
) -> Rebuilt:
    """Attack one step of the recipe's own model; `noise_multiplier` None is training without privacy."""
    site = hospital(recipe, cases(recipe, PATIENTS, seed))
    victim = site.cohort.cases.map(lambda x: x[:1])
    site.flat.train_only(list(site.flat.vectors))
    site.flat.model.train()
    leave_open(site.flat.model)
    released = (
        plainly(site, victim) if noise_multiplier is None else privately(site, victim, noise_multiplier)
    )
    guess = rebuild(site, released, victim, seed=seed, starts=starts, steps=steps, watch=watch)
    mean = {name: x.mean(0, keepdim=True) for name, x in site.cohort.cases.inputs.items()}
    return Rebuilt(psnr(guess, victim.inputs), psnr(mean, victim.inputs))


@torch.no_grad()
def leave_open(model: nn.Module) -> None:
    """Choose the norms' shifts as the adversary does."""
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.bias.fill_(OPEN)


def plainly(site: Site, victim: Batch) -> list[Tensor]:
    """Return the gradient that an undefended step on one patient lets out, a tensor a parameter."""
    return [g.detach() for g in _gradient(site.flat.model, site, victim)]


def privately(site: Site, victim: Batch, noise_multiplier: float) -> list[Tensor]:
    """Return the same of a private step."""
    recipe, parameters = site.recipe, list(site.flat.model.parameters())
    bounds = recipe.privacy.clip_norm, noise_multiplier, 1.0
    victim = _taught(site.flat.model, site, victim)
    gradient = PrivateGradient(site.flat.model, parameters, *bounds, SecureGenerator(), recipe.privacy.mode)
    with closing(gradient):
        gradient(victim, lambda outputs, batch: case_losses(outputs, batch, recipe.heads, site.objectives))
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]


def rebuild(
    site: Site,
    released: Sequence[Tensor],
    victim: Batch,
    *,
    seed: int,
    starts: int = STARTS,
    steps: int = STEPS,
    watch: Watch = lambda: None,
) -> Images:
    """Return the images whose gradient points where `released` does; of `victim` only labels are read."""
    generator = seeded(seed, "inversion")
    found: list[tuple[float, Images]] = []
    for _ in range(starts):
        guess = {name: guess_of(x, generator).double() for name, x in victim.inputs.items()}
        found.append(_descend(site, released, victim, guess, steps))
        watch()
    return min(found, key=lambda each: each[0])[1]


def _descend(
    site: Site, released: Sequence[Tensor], victim: Batch, guess: Images, steps: int
) -> tuple[float, Images]:
    """Change `guess` until its gradient is the nearest thereabouts: the angle left, and the images.

    The angle is one minus the cosine, mean over parameters and the whole: as one vector the last layer
    drowns the others, one by one they lose their proportions.
    """
    model = copy.deepcopy(site.flat.model).double()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    aim = {n: g.double() for n, g in zip(parameters, released, strict=True) if g.any()}
    targets = {name: t.double() if t.is_floating_point() else t for name, t in victim.targets.items()}
    sizes = [each.numel() for each in guess.values()]

    def images(values: Tensor) -> dict[str, Tensor]:
        parts = zip(guess.items(), values.split(sizes), strict=True)
        return {name: scan_of(p.view_as(x), victim.inputs[name].shape) for (name, x), p in parts}

    def gap(values: Tensor) -> Tensor:
        batch = replace(victim, inputs=images(values), targets=targets)
        found = grad(partial(_loss, model, site, batch))(parameters)
        return _directions([found[name] for name in aim]) - _directions(list(aim.values()))

    start = torch.cat([each.flatten() for each in guess.values()])
    with sdpa_kernel(SDPBackend.MATH):  # the other kinds of attention have one derivative only
        end, left = nearest(gap, start, steps)
    return left, {name: image.float() for name, image in images(end).items()}


def psnr(guess: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> float:
    """Return decibels over all modalities together; each error in units of its modality's range."""
    errors = [
        ((guess[name] - x) / (x.max() - x.min()).clamp(min=1e-6)).square().flatten()
        for name, x in truth.items()
    ]
    return -10 * math.log10(max(float(torch.cat(errors).mean()), 1e-12))


def _taught(model: MultiModal, site: Site, batch: Batch) -> Batch:
    """Return what a round's first step is taught: its model is still its teacher."""
    return Lesson(site.objectives, model).taught(batch, batch.present)


def _gradient(model: MultiModal, site: Site, batch: Batch) -> tuple[Tensor, ...]:
    loss = total_loss(model(batch), _taught(model, site, batch), site.recipe.heads, site.objectives)
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)


def _loss(model: MultiModal, site: Site, batch: Batch, parameters: dict[str, Tensor]) -> Tensor:
    outputs = functional_call(model, parameters, (batch,))
    return total_loss(outputs, _taught(model, site, batch), site.recipe.heads, site.objectives)


def _directions(gradient: Sequence[Tensor]) -> Tensor:
    """Return each parameter's gradient and all as one, at length 1, as one vector of length 1."""
    parts = [each.flatten() for each in gradient]
    parts.append(torch.cat(parts))
    return torch.cat([part / part.norm().clamp(min=1e-30) for part in parts]) / math.sqrt(len(parts))
