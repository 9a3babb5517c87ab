"""Modalities that fail: who is told, what is zero, and what is never touched."""

import pytest
import torch
from torch import Tensor

from models import failures
from models.failures import NOISE, changed, declared, holed, noisy, zeroed
from protocol.batch import Batch

NAMES = ("flair", "t1", "t2")
PRESENT = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 1, 0]], dtype=torch.bool)


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def cases(absent: float = torch.nan) -> Batch:
    """Four cases of 40x40; the inputs are not in the order of the columns."""
    images = torch.randn(3, 4, 1, 40, 40, generator=chance()) + 5
    inputs = {
        name: torch.where(PRESENT[:, i, None, None, None], images[i], absent) for i, name in enumerate(NAMES)
    }
    return Batch({name: inputs[name] for name in reversed(NAMES)}, PRESENT, {}, {})


def there(batch: Batch, name: str) -> Tensor:
    return batch.inputs[name][PRESENT[:, NAMES.index(name)]]


def test_declared_hides_and_zeroed_does_not_say_so() -> None:
    told, silent = declared(cases(), NAMES, ("t1",)), zeroed(cases(), NAMES, ("t1",))

    assert told.present.tolist() == (PRESENT & torch.tensor([True, False, True])).tolist()
    assert torch.equal(silent.present, PRESENT)
    assert not there(silent, "t1").any()
    assert torch.equal(there(silent, "flair"), there(cases(), "flair"))


def test_holes_are_each_pixel_s_own_coin() -> None:
    """By the draws, one after the other; r = 1 is entire-missing, r = 0 is nothing."""
    found = holed(cases(), NAMES, ("t1",), 0.75, chance())
    before, draws = there(cases(), "t1").flatten(), torch.rand(3 * 1600, generator=chance())
    wanted = [0.0 if draw < 0.75 else float(x) for draw, x in zip(draws, before, strict=True)]

    assert there(found, "t1").flatten().tolist() == wanted
    assert float((there(found, "t1") == 0).float().mean()) == pytest.approx(0.75, abs=0.02)
    assert torch.equal(there(found, "t2"), there(cases(), "t2"))
    whole = holed(cases(), NAMES, ("t1", "t2"), 1.0, chance())
    assert all(torch.equal(there(whole, n), there(zeroed(cases(), NAMES, ("t1", "t2")), n)) for n in NAMES)
    assert torch.equal(there(holed(cases(), NAMES, ("t1",), 0.0, chance()), "t1"), there(cases(), "t1"))


@pytest.mark.parametrize("level", NOISE)
def test_noise_is_salt_pepper_and_then_white(level: str) -> None:
    """In units of the range; the shares and the deviation are the level's."""
    share, stddev = NOISE[level]
    found, clean = noisy(cases(), NAMES, ("t1",), level, chance()), there(cases(), "t1")
    generator = chance()
    draw = torch.rand(clean.shape, generator=generator)
    white = torch.randn(clean.shape, generator=generator)
    low, high = float(clean.min()), float(clean.max())
    wanted = []
    for x, d, w in zip(
        clean.flatten().tolist(), draw.flatten().tolist(), white.flatten().tolist(), strict=True
    ):
        grain = (high if d < share / 2 else low) if d < share else x
        wanted.append(grain + stddev * w * (high - low))

    torch.testing.assert_close(there(found, "t1").flatten(), torch.tensor(wanted), atol=1e-4, rtol=0)
    assert torch.equal(there(found, "t2"), there(cases(), "t2"))


def _reading(batch: Batch, modalities: object, names: object, change: object) -> Batch:
    """A mutant that changes all rows, absent ones too."""
    inputs = {name: change(x) if name in names else x for name, x in batch.inputs.items()}  # type: ignore[operator]
    return Batch(inputs, batch.present, {}, {})


def _same_whatever_is_absent() -> bool:
    results = [noisy(cases(absent), NAMES, NAMES, "mid", chance()) for absent in (torch.nan, 0.0, 1e6)]
    return all(torch.equal(there(found, n), there(results[0], n)) for found in results for n in NAMES)


def test_absent_contents_are_neither_read_nor_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not by a scan's range; and the data themselves stay as they were."""
    batch = cases()
    found = changed(batch, NAMES, NAMES, torch.zeros_like)

    assert all(found.inputs[n][~PRESENT[:, i]].isnan().all() for i, n in enumerate(NAMES))
    assert torch.equal(there(batch, "t1"), there(cases(), "t1"))
    assert _same_whatever_is_absent()
    monkeypatch.setattr(failures, "changed", _reading)
    assert not _same_whatever_is_absent()
