"""What can be wrong with a scan that was taken, in five severities.

    corrupted(images, "ct", "blur", 3, generator)      (B, 1, X, Y[, Z]) -> the same shape

After MedMNIST-C (Di Salvo, Doerrich, Ledig, arXiv 2406.17536), whose corruptions work on pixels in 0 to 1 of
images 224 pixels wide. So a patient's images are first brought to 0 to 1 by their own least and greatest
value, and what is measured in pixels shrinks with the image's side. A volume is corrupted slice by slice,
with one coil shading, one wave and one ghost for all slices of a patient.

`SEVERITIES` is by imaging modality, since scanners fail each in their own way. `xray` are the published
numbers of ChestMNIST-C and `ct` those of Organ{A,C,S}MNIST-C (where only a range is published: even steps
through it). MedMNIST-C has no magnetic resonance: `mr` has that physics' artefacts, with severities of our
own.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

LEVELS = 5
PUBLISHED_SIDE = 224
"""Pixels of an image for which the sizes of kernels are given."""

Corruption = Callable[[Tensor, float, torch.Generator], Tensor]
"""`(x, c, generator)`: images `(B, 1, X, Y)` in 0 to 1, a strength in the corruption's own unit."""


def kind_of(modality: str) -> str:
    """Return the imaging modality of a recipe's modality, by its name: a key of `SEVERITIES`."""
    return {"ct": "ct", "cxr": "xray", "xray": "xray"}.get(modality, "mr")


def corrupted(images: Tensor, kind: str, name: str, severity: int, generator: torch.Generator) -> Tensor:
    """Return one patient's images of one modality, `(B, 1, X, Y[, Z])`, corrupted.

    `severity` is 1 to 5. What `kind` cannot suffer leaves the images as they are.
    """
    if name not in SEVERITIES[kind]:
        return images
    low, high = images.min(), images.max()
    spread = torch.where(high > low, high - low, 1.0)
    strength = SEVERITIES[kind][name][severity - 1]
    found = _in_plane((images - low) / spread, lambda x: CORRUPTIONS[name](x, strength, generator))
    return low + found.clamp(0, 1) * spread


def _in_plane(images: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    if images.dim() == 4:  # noqa: PLR2004 - (B, 1, X, Y)
        return function(images)
    slices = images.movedim(-1, 1)  # (B, Z, 1, X, Y)
    return function(slices.flatten(0, 1)).view(slices.shape).movedim(1, -1)


# -- Noise ---------------------------------------------------------------------------------------


def gaussian(x: Tensor, stddev: float, generator: torch.Generator) -> Tensor:
    """Add white noise."""
    return x + stddev * torch.randn(x.shape, generator=generator)


def speckle(x: Tensor, stddev: float, generator: torch.Generator) -> Tensor:
    """Add noise in proportion to the signal."""
    return x + x * stddev * torch.randn(x.shape, generator=generator)


def impulse(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Turn a share of the pixels into salt (1) or pepper (0), half each."""
    draw = torch.rand(x.shape, generator=generator)
    return torch.where(draw < share, (draw < share / 2).to(x.dtype), x)


def shot(x: Tensor, photons: float, generator: torch.Generator) -> Tensor:
    """Count photons, `photons` at white: the fewer, the worse."""
    return torch.poisson(x * photons, generator=generator) / photons


def rician(x: Tensor, stddev: float, generator: torch.Generator) -> Tensor:
    """Take the magnitude of a signal with complex noise, as a magnetic resonance scanner does."""
    noise = stddev * torch.randn(2, *x.shape, generator=generator)
    return torch.hypot(x + noise[0], noise[1])


# -- Resolution ----------------------------------------------------------------------------------


def blur(x: Tensor, kernel: float, generator: torch.Generator) -> Tensor:  # noqa: ARG001 - a `Corruption`
    """Blur by a Gaussian kernel of `kernel` pixels at the published side, its deviation as torchvision's."""
    scale = x.shape[-1] / PUBLISHED_SIDE
    stddev = (0.3 * ((kernel - 1) / 2 - 1) + 0.8) * scale
    reach = max(1, round((kernel - 1) / 2 * scale))
    places = torch.arange(-reach, reach + 1, dtype=x.dtype)
    line = torch.exp(-((places / stddev) ** 2) / 2)
    line = line / line.sum()
    rows = conv2d(pad(x, (0, 0, reach, reach), "replicate"), line.view(1, 1, -1, 1))
    return conv2d(pad(rows, (reach, reach, 0, 0), "replicate"), line.view(1, 1, 1, -1))


def pixelate(x: Tensor, share: float, generator: torch.Generator) -> Tensor:  # noqa: ARG001 - a `Corruption`
    """Average over the areas of a grid of `share` as many pixels a side, and back."""
    small = [max(1, round(side * share)) for side in x.shape[2:]]
    return interpolate(interpolate(x, small, mode="area"), x.shape[2:], mode="nearest")


def gibbs(x: Tensor, share: float, generator: torch.Generator) -> Tensor:  # noqa: ARG001 - a `Corruption`
    """Leave out the highest spatial frequencies, `share` of the way in from the corner: edges ring."""
    frequency = torch.meshgrid(*(torch.fft.fftfreq(side) for side in x.shape[2:]), indexing="ij")
    kept = torch.hypot(*frequency) <= (1 - share) * math.sqrt(0.5)
    return torch.fft.ifft2(torch.fft.fft2(x) * kept).real


# -- Intensity -----------------------------------------------------------------------------------


def brightness(x: Tensor, factor: float, generator: torch.Generator) -> Tensor:  # noqa: ARG001 - a `Corruption`
    """Multiply."""
    return x * factor


def contrast(x: Tensor, factor: float, generator: torch.Generator) -> Tensor:  # noqa: ARG001 - a `Corruption`
    """Multiply the distance from each image's mean."""
    mean = x.mean((2, 3), keepdim=True)
    return mean + factor * (x - mean)


def gamma(x: Tensor, power: float, generator: torch.Generator) -> Tensor:  # noqa: ARG001 - a `Corruption`
    """Raise to a power."""
    return x**power


# -- Magnetic resonance --------------------------------------------------------------------------


def bias_field(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Shade by exp(a polynomial of degree 2), from exp(-strength) to exp(strength): a coil, near and far."""
    across, down = _places(x)
    terms = torch.stack([across, down, across * down, across**2 - 1 / 3, down**2 - 1 / 3])  # (5, X, Y)
    field = torch.einsum("t,txy->xy", torch.randn(len(terms), generator=generator), terms)
    return x * torch.exp(strength * field / field.abs().max())


def ghost(x: Tensor, share: float, generator: torch.Generator) -> Tensor:  # noqa: ARG001 - a `Corruption`
    """Move a share of the signal by half the field of view: every second line of k-space is off."""
    return (1 - share) * x + share * x.roll(x.shape[2] // 2, 2)


def spike(x: Tensor, amplitude: float, generator: torch.Generator) -> Tensor:
    """Add a plane wave, which is what one bad point of k-space looks like; 4 to 12 periods in the image."""
    across, down = _places(x)
    periods, angle, phase = torch.rand(3, generator=generator) * torch.tensor([8.0, math.pi, 2 * math.pi])
    wave = math.pi * (4 + periods) * (across * angle.cos() + down * angle.sin())
    return x + amplitude * torch.cos(wave + phase)


def _places(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return where each pixel lies between -1 and 1, along each axis, `(X, Y)`."""
    edges = [torch.linspace(-1, 1, side) for side in x.shape[2:]]
    across, down = torch.meshgrid(*edges, indexing="ij")
    return across, down


# -- The tables ----------------------------------------------------------------------------------

CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian": gaussian,
    "speckle": speckle,
    "impulse": impulse,
    "shot": shot,
    "rician": rician,
    "blur": blur,
    "pixelate": pixelate,
    "gibbs": gibbs,
    "brighter": brightness,
    "darker": brightness,
    "more_contrast": contrast,
    "gamma_up": gamma,
    "gamma_down": gamma,
    "bias_field": bias_field,
    "ghost": ghost,
    "spike": spike,
}

SEVERITIES: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "xray": {
        "gaussian": (0.04, 0.08, 0.12, 0.18, 0.26),
        "speckle": (0.05, 0.15, 0.2, 0.35, 0.45),
        "impulse": (0.01, 0.03, 0.06, 0.09, 0.17),
        "shot": (60, 25, 18, 10, 5),
        "blur": (3, 5, 7, 9, 11),
        "pixelate": (0.3, 0.25, 0.2, 0.15, 0.1),
        "gamma_up": (1.1, 1.2, 1.3, 1.4, 1.6),
        "gamma_down": (0.9, 0.8, 0.7, 0.6, 0.4),
    },
    "ct": {
        "gaussian": (0.04, 0.08, 0.12, 0.16, 0.2),
        "speckle": (0.05, 0.1, 0.2, 0.3, 0.4),
        "impulse": (0.01, 0.02, 0.03, 0.05, 0.08),
        "shot": (200, 100, 50, 25, 15),
        "blur": (11, 13, 15, 17, 21),
        "brighter": (1.2, 1.3, 1.4, 1.5, 1.6),
        "darker": (0.8, 0.75, 0.7, 0.65, 0.6),
        "more_contrast": (1.3, 1.4, 1.6, 1.7, 1.8),
        "gamma_up": (1.3, 1.475, 1.65, 1.825, 2.0),
    },
    "mr": {
        "rician": (0.04, 0.08, 0.12, 0.18, 0.26),
        "blur": (11, 13, 15, 17, 21),
        "gibbs": (0.4, 0.5, 0.6, 0.7, 0.8),
        "gamma_up": (1.1, 1.2, 1.3, 1.4, 1.6),
        "gamma_down": (0.9, 0.8, 0.7, 0.6, 0.4),
        "bias_field": (0.2, 0.4, 0.6, 0.8, 1.0),
        "ghost": (0.05, 0.1, 0.15, 0.2, 0.3),
        "spike": (0.05, 0.1, 0.15, 0.2, 0.3),
    },
}
"""Imaging modality -> corruption -> its strength at severity 1 to 5."""
