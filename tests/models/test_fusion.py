"""A layer over what is present, side by side."""

import pytest
import torch
from torch import Tensor, nn

from models.fusion import Joined
from models.masking import Seen

NAMES = ("a", "b", "c")


def features() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(2, 4, generator=generator) for name in NAMES}


def seen(*held: tuple[bool, bool]) -> dict[str, Seen]:
    """Who of two cases has each modality."""
    return {
        name: Seen(torch.zeros(2, 1), torch.tensor(has), any(has), all(has))
        for name, has in zip(NAMES, held, strict=True)
    }


def concatenated(joined: Joined, given: list[Tensor]) -> Tensor:
    """The plain layer over all modalities at once."""
    parts = [part for part in joined.parts.values() if isinstance(part, nn.Linear)]
    weight, bias = torch.cat([part.weight for part in parts], 1), sum(part.bias for part in parts)
    return nn.functional.linear(torch.cat(given, 1), weight, bias)


def test_with_all_modalities_it_is_the_layer_over_their_concatenation() -> None:
    joined, given = Joined(NAMES, lambda: nn.Linear(4, 5)), features()
    whole = seen(*[(True, True)] * 3)
    torch.testing.assert_close(joined(given, whole, (2, 5)), concatenated(joined, [*given.values()]))


def test_of_a_subset_it_is_the_sum_over_the_subset_scaled_up() -> None:
    joined, given = Joined(NAMES, lambda: nn.Linear(4, 5)), features()
    some = joined(given, seen((True, False), (True, True), (False, False)), (2, 5))
    first = sum(joined.parts[f"modality:{name}"](given[name])[0] for name in "ab") * 3 / 2
    second = joined.parts["modality:b"](given["b"])[1] * 3
    torch.testing.assert_close(some, torch.stack([first, second]))


def test_of_nothing_it_is_zeros() -> None:
    joined = Joined(NAMES, lambda: nn.Linear(4, 5))
    assert torch.equal(joined({}, seen(*[(False, False)] * 3), (2, 5)), torch.zeros(2, 5))


@pytest.mark.parametrize("absent", [0.0, 7.0])
def test_the_mutant_that_joins_zeros_in_an_absent_one_s_place_is_another_function(absent: float) -> None:
    """Its bias would speak for a modality that nobody has taken."""
    joined, given = Joined(NAMES, lambda: nn.Linear(4, 5)), features()
    some = joined(given, seen((True, True), (True, True), (False, False)), (2, 5))
    filled = [given["a"], given["b"], torch.full((2, 4), absent)]
    assert not torch.allclose(some, concatenated(joined, filled))
