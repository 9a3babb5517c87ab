"""What becomes of a scan, pixel by pixel."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models import corruptions
from models.corruptions import CORRUPTIONS, LEVELS, SEVERITIES, corrupted, kind_of

SIDES = (7, 6)
PIXELS = [(i, j) for i in range(SIDES[0]) for j in range(SIDES[1])]


def chance(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image() -> Tensor:
    return torch.rand(1, 1, *SIDES, generator=chance(0))


def drawn(*shape: int, kind: Callable[..., Tensor] = torch.randn) -> Tensor:
    """The numbers that a corruption draws first."""
    return kind(*shape, generator=chance())


def pixelwise(rule: Callable[[float, int, int], float]) -> Tensor:
    """An image from a rule for each pixel."""
    x = image()
    return torch.tensor([[[[rule(float(x[0, 0, i, j]), i, j) for j in range(6)] for i in range(7)]]])


def _gaussian() -> Tensor:
    noise = drawn(1, 1, *SIDES)[0, 0]
    return pixelwise(lambda x, i, j: x + 0.2 * float(noise[i, j]))


def _speckle() -> Tensor:
    noise = drawn(1, 1, *SIDES)[0, 0]
    return pixelwise(lambda x, i, j: x + x * 0.2 * float(noise[i, j]))


def _impulse() -> Tensor:
    draw = drawn(1, 1, *SIDES, kind=torch.rand)[0, 0]
    return pixelwise(lambda x, i, j: x if draw[i, j] >= 0.2 else float(draw[i, j] < 0.1))


def _rician() -> Tensor:
    noise = drawn(2, 1, 1, *SIDES)[:, 0, 0]
    return pixelwise(lambda x, i, j: math.hypot(x + 0.2 * float(noise[0, i, j]), 0.2 * float(noise[1, i, j])))


def _contrast() -> Tensor:
    mean = sum(float(image()[0, 0, i, j]) for i, j in PIXELS) / len(PIXELS)
    return pixelwise(lambda x, i, j: mean + 0.2 * (x - mean))


def _ghost() -> Tensor:
    x = image()[0, 0]
    return pixelwise(lambda here, i, j: 0.8 * here + 0.2 * float(x[(i - 3) % 7, j]))


def _gibbs() -> Tensor:
    """The discrete Fourier sum, term by term, without the corners of frequency space."""
    x = image()[0, 0].double()
    kept = [
        (u, v) for u in range(-3, 4) for v in range(-3, 3) if math.hypot(u / 7, v / 6) <= 0.8 * math.sqrt(0.5)
    ]

    def term(u: int, v: int) -> complex:
        angles = {(i, j): -2 * math.pi * (u * i / 7 + v * j / 6) for i, j in PIXELS}
        return sum(float(x[p]) * complex(math.cos(a), math.sin(a)) for p, a in angles.items())

    terms = {(u, v): term(u, v) for u, v in kept}

    def back(_: float, i: int, j: int) -> float:
        angles = {(u, v): 2 * math.pi * (u * i / 7 + v * j / 6) for u, v in kept}
        return sum((terms[k] * complex(math.cos(a), math.sin(a))).real for k, a in angles.items()) / 42

    return pixelwise(back)


ORACLES = {
    "gaussian": _gaussian,
    "speckle": _speckle,
    "impulse": _impulse,
    "rician": _rician,
    "brighter": lambda: pixelwise(lambda x, i, j: x * 0.2),
    "more_contrast": _contrast,
    "gamma_up": lambda: pixelwise(lambda x, i, j: x**0.2),
    "ghost": _ghost,
    "gibbs": _gibbs,
}


@pytest.mark.parametrize("name", ORACLES)
def test_each_pixel_is_what_the_definition_says(name: str) -> None:
    torch.testing.assert_close(CORRUPTIONS[name](image(), 0.2, chance()), ORACLES[name](), atol=1e-5, rtol=0)


def test_photons_are_counted() -> None:
    """Whole multiples of one photon, with the mean and the variance of Poisson's law."""
    grey = torch.full((1, 1, 200, 200), 0.4)
    counts = CORRUPTIONS["shot"](grey, 25.0, chance()) * 25

    torch.testing.assert_close(counts, counts.round(), atol=1e-4, rtol=0)
    assert float(counts.mean()) == pytest.approx(10, abs=0.1)
    assert float(counts.var()) == pytest.approx(10, abs=0.3)


def test_blur_is_the_published_kernel_at_the_published_side() -> None:
    """A point becomes the normalised Gaussian of torchvision's deviation; at half the side, half."""
    point = torch.zeros(1, 1, 224, 224)
    point[..., 100, 100] = 1
    found = CORRUPTIONS["blur"](point, 5, chance())[0, 0]
    line = [math.exp(-((t / 1.1) ** 2) / 2) for t in range(-2, 3)]
    total = sum(line)

    for i in range(-3, 4):
        for j in range(-3, 4):
            wanted = line[i + 2] * line[j + 2] / total**2 if max(abs(i), abs(j)) <= 2 else 0.0
            assert float(found[100 + i, 100 + j]) == pytest.approx(wanted, abs=1e-6)
    small = CORRUPTIONS["blur"](point[..., ::2, ::2], 5, chance())[0, 0]
    assert float(small[50, 51] / small[50, 50]) == pytest.approx(math.exp(-((1 / 0.55) ** 2) / 2), abs=1e-5)


def test_pixelate_is_the_mean_of_blocks() -> None:
    x = torch.rand(1, 1, 8, 8, generator=chance(0))
    found = CORRUPTIONS["pixelate"](x, 0.25, chance())[0, 0]

    for i in range(8):
        for j in range(8):
            block = x[0, 0, i // 4 * 4 : i // 4 * 4 + 4, j // 4 * 4 : j // 4 * 4 + 4]
            assert float(found[i, j]) == pytest.approx(float(block.mean()), abs=1e-6)


def test_a_bias_field_stays_within_its_strength_and_is_smooth() -> None:
    """It reaches exp(c) or exp(-c) somewhere, and its logarithm has no third differences."""
    field = CORRUPTIONS["bias_field"](torch.ones(1, 1, 20, 16), 0.6, chance())[0, 0].double().log()

    assert float(field.abs().max()) == pytest.approx(0.6, abs=1e-5)
    for axis in (0, 1):
        assert float(field.diff(n=3, dim=axis).abs().max()) < 1e-5


def test_a_spike_is_one_point_of_k_space() -> None:
    """Nearly all of what is added lies at two opposite frequencies and their neighbours."""
    wave = CORRUPTIONS["spike"](torch.zeros(1, 1, 64, 64), 0.3, chance())
    power = torch.fft.fft2(wave)[0, 0].abs().square()

    assert float(wave.abs().max()) == pytest.approx(0.3, abs=1e-2)
    assert float(power.flatten().topk(18).values.sum() / power.sum()) > 0.8


KINDS = [(kind, name) for kind in SEVERITIES for name in SEVERITIES[kind]]


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_a_worse_severity_is_worse(kind: str, name: str) -> None:
    """The distance from the clean images grows, they stay in their range, equal draws are equal images."""
    scans = 300 + 9 * torch.randn(2, 1, 120, 120, generator=chance(1)).cumsum(2).cumsum(3)
    found = [corrupted(scans, kind, name, severity, chance()) for severity in range(1, LEVELS + 1)]
    distances = [float((each - scans).square().mean()) for each in found]

    assert distances == sorted(distances)
    assert distances[0] > 0
    assert all(scans.min() <= each.min() and each.max() <= scans.max() for each in found)
    assert torch.equal(found[2], corrupted(scans, kind, name, 3, chance()))


@pytest.mark.parametrize("name", SEVERITIES["mr"])
def test_a_volume_is_its_slices(name: str) -> None:
    """A volume of one slice is that slice, and slices do not leak into each other."""
    volume = torch.rand(2, 1, 16, 16, 3, generator=chance(1))
    one = corrupted(volume[..., :1], "mr", name, 4, chance())
    flat = corrupted(volume[..., 0], "mr", name, 4, chance())
    torch.testing.assert_close(one[..., 0], flat)

    strength = SEVERITIES["mr"][name][3]
    if name != "rician":  # whose noise is drawn for all slices at once
        whole = corruptions._in_plane(volume, lambda x: CORRUPTIONS[name](x, strength, chance()))
        alone = CORRUPTIONS[name](volume[..., 2], strength, chance())
        torch.testing.assert_close(whole[..., 2], alone)


def test_what_a_kind_cannot_suffer_does_nothing() -> None:
    scans = torch.rand(1, 1, 8, 8)

    assert corrupted(scans, "ct", "ghost", 5, chance()) is scans
    assert {kind_of(name) for name in ("t1", "t1c", "t2", "flair")} == {"mr"}
    assert (kind_of("ct"), kind_of("cxr")) == ("ct", "xray")


def test_a_flat_image_stays_finite() -> None:
    flat = torch.full((1, 1, 8, 8), 3.0)

    for kind, name in KINDS:
        assert corrupted(flat, kind, name, 5, chance()).isfinite().all()


def test_the_tables_are_whole() -> None:
    """Five strengths each, of corruptions that exist, and every corruption is somebody's."""
    used = {name for table in SEVERITIES.values() for name in table}

    assert used == set(CORRUPTIONS)
    assert all(len(levels) == LEVELS for table in SEVERITIES.values() for levels in table.values())
