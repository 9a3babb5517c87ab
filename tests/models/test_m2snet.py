"""M2SNet: what its subtractions compare, and which of them each level adds up."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.catalogue import build_model
from models.unet import Plan
from models.zoo import m2snet as module
from models.zoo.m2snet import Differences, Subtraction, Summed
from protocol.errors import RecipeError
from tests.models.cases import recipe_for

PLAN = Plan(2, (4, 6, 8, 10), 1)
CONVOLVE = {2: functional.conv2d, 3: functional.conv3d}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(7, 5), (4, 1, 6)])
def test_a_sum_is_a_convolution_with_ones(shape: tuple[int, ...]) -> None:
    x, look = normal(2, 4, *shape), Summed(PLAN, 5)
    expected = CONVOLVE[len(shape)](x, torch.ones(4, 4, *[5] * len(shape)), padding=2)
    torch.testing.assert_close(look(x), torch.relu(look.norm(expected)), atol=1e-4, rtol=1e-4)


def test_sums_have_nothing_to_send_but_their_norms() -> None:
    names = [name for name, _ in Differences(PLAN).sums.named_parameters()]
    assert names == ["0.norm.weight", "0.norm.bias", "1.norm.weight", "1.norm.bias"]


def subtracted(deep: Tensor, fine: Tensor) -> Tensor:
    """What a subtraction's convolution reads."""
    read: list[Tensor] = []
    unit = Subtraction(PLAN)
    unit.unit.register_forward_pre_hook(lambda _, given: read.append(given[0].detach()))
    unit(deep, fine, [Summed(PLAN, window) for window in (3, 5)])
    return read[0]


def test_a_map_less_itself_is_nothing() -> None:
    x = normal(2, 4, 3, 3)
    assert not subtracted(x, x.repeat_interleave(2, 2).repeat_interleave(2, 3)).any()


def difference_from_hand() -> float:
    deep, fine = normal(1, 4, 3, 3), normal(1, 4, 6, 6, seed=1)
    raised = functional.interpolate(deep, scale_factor=2)
    expected = (raised - fine).abs()
    for window in (3, 5):
        sums = [
            functional.conv2d(x, torch.ones(4, 4, window, window), padding=window // 2)
            for x in (raised, fine)
        ]
        one, other = (torch.relu((s - s.mean()) / (s.var(correction=0) + 1e-5).sqrt()) for s in sums)
        expected = expected + (one - other).abs()
    return float((subtracted(deep, fine) - expected).abs().max())


def test_a_subtraction_by_hand() -> None:
    """Voxel by voxel, and by sums over 3 and 5 voxels, each normalised over the case."""
    assert difference_from_hand() < 1e-4


def test_the_mutant_that_looks_at_single_voxels_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "windowed", lambda x, window: x)
    assert difference_from_hand() > 1e-2


class Recorded(nn.Module):
    """Stands for a subtraction: |A - B| of maps that are single numbers."""

    def forward(self, deep: Tensor, fine: Tensor, sums: Sequence[nn.Module]) -> Tensor:
        return (deep - fine).abs()


def test_a_level_adds_up_the_differences_of_every_order() -> None:
    """L1 = S21 + S321 + S4321, L2 = S32 + S432, L3 = S43, with four levels of 1, 2, 4, 8 by hand."""
    differences = Differences(PLAN)
    differences.orders = nn.ModuleList(
        nn.ModuleList(Recorded() for _ in order) for order in differences.orders
    )
    maps = [torch.tensor(number) for number in (1.0, 2.0, 4.0, 8.0)]
    # First order: 1, 2, 4; second: 1, 2; third: 1.
    assert [float(total) for total in differences.totals(maps)] == [1 + 1 + 1, 2 + 2, 4]


def test_one_level_has_nothing_to_subtract() -> None:
    with pytest.raises(RecipeError, match=r"model\.channels: expected two entries or more"):
        build_model(recipe_for("m2snet", channels=(4,)))
