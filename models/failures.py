"""A modality that fails after all: gone, full of holes, or noisy.

Liao et al., "Benchmarking Multi-modal Semantic Segmentation under Sensor Failures", arXiv 2503.18445. Of
the modalities that a case has, some fail:

    declared   entire-missing, and the model is told: `present` says so           ours
    zeroed     entire-missing, and it is not: all values are 0, `present` stays   EMM there
    holed      random-missing: each value is 0 with chance r                      RMM there, r in `RATES`
    noisy      every image at once: salt and pepper, then white noise             NM there, `NOISE`

`zeroed` is `holed` at r = 1. What a case never had stays absent and declared in all of them: a site knows
what it did not acquire. 0 is 0 as the model reads it. Noise is in units of a patient's own range of values,
as salt and pepper are its ends, and is not cut off. `modalities` name the columns of `present`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from models.corruptions import gaussian, impulse
from protocol.batch import Batch

RATES = (0.25, 0.5, 0.75)
NOISE: Mapping[str, tuple[float, float]] = {"low": (0.05, 0.1), "mid": (0.1, 0.2), "high": (0.2, 0.5)}
"""Level -> share of salt and pepper, standard deviation of the noise."""


def declared(cases: Batch, modalities: Sequence[str], lost: Collection[str]) -> Batch:
    """Return the cases without `lost`, and saying so."""
    kept = torch.tensor([name not in lost for name in modalities])
    return cases.seeing(cases.present & kept)


def zeroed(cases: Batch, modalities: Sequence[str], lost: Collection[str]) -> Batch:
    """Return the cases with zeros in place of `lost`, which still count as present."""
    return changed(cases, modalities, lost, torch.zeros_like)


def holed(
    cases: Batch, modalities: Sequence[str], lost: Collection[str], rate: float, generator: torch.Generator
) -> Batch:
    """Return the cases with each value of `lost` set to 0 with chance `rate`."""

    def pierce(x: Tensor) -> Tensor:
        return torch.where(torch.rand(x.shape, generator=generator) < rate, 0.0, x)

    return changed(cases, modalities, lost, pierce)


def noisy(
    cases: Batch, modalities: Sequence[str], images: Collection[str], level: str, generator: torch.Generator
) -> Batch:
    """Return one patient's cases with noise in all of `images`."""
    share, stddev = NOISE[level]

    def spoil(x: Tensor) -> Tensor:
        low, high = x.min(), x.max()
        spread = torch.where(high > low, high - low, 1.0)
        grains = impulse((x - low) / spread, share, generator)
        return low + gaussian(grains, stddev, generator) * spread

    return changed(cases, modalities, images, spoil)


def changed(
    cases: Batch, modalities: Sequence[str], names: Collection[str], change: Callable[[Tensor], Tensor]
) -> Batch:
    """Return the cases with `change` applied to those of each modality in `names` that have it.

    Absent contents are neither read nor written.
    """
    inputs = dict(cases.inputs)
    for name, has in zip(modalities, cases.present.unbind(1), strict=True):
        if name in names and has.any():
            inputs[name] = inputs[name].clone()
            inputs[name][has] = change(inputs[name][has])
    return replace(cases, inputs=inputs)
