"""The pyramid of attention: its sizes, and that it is what its parts are elsewhere."""

import pytest
import torch
from torch import Tensor

from models.tokens import Attention, as_map
from models.transformers import Efficient, MixTransformer, Overlapping, Stages, as_tokens
from models.unet import Plan

PLAN = Plan(2, (8,), 2)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("dims", "stride", "shape", "expected"),
    [
        (2, 4, (64, 32), [(16, 8), (8, 4), (4, 2)]),
        (2, 2, (8, 16), [(4, 8), (2, 4), (1, 2)]),
        (2, 1, (4, 4), [(4, 4), (2, 2), (1, 1)]),
        (3, 2, (8, 8, 16), [(4, 4, 8), (2, 2, 4), (1, 1, 2)]),
    ],
)
def test_each_stage_is_half_the_one_before(
    dims: int, stride: int, shape: tuple[int, ...], expected: list[tuple[int, ...]]
) -> None:
    stages = Stages(Plan(dims, (4, 6, 8), 2), (1, 2, 4), stride)
    maps = MixTransformer(stages)(normal(2, 1, *shape))
    assert [tuple(each.shape) for each in maps] == [
        (2, width, *space) for width, space in zip(stages.plan.channels, expected, strict=True)
    ]
    assert all(side % stages.multiple == 0 for side in shape)


@pytest.mark.parametrize(("stride", "kernel"), [(4, 7), (2, 3)])
def test_patches_overlap_as_in_the_paper(stride: int, kernel: int) -> None:
    assert Overlapping(PLAN, 1, 4, stride)[0].kernel_size == (kernel, kernel)


def test_tokens_and_maps_undo_each_other() -> None:
    x = normal(2, 3, 4, 5)
    assert torch.equal(as_map(as_tokens(x), (4, 5)), x)


def test_attention_that_gathers_nothing_is_attention() -> None:
    layer, x = Efficient(PLAN, 8, 2, 1), normal(2, 8, 4, 4)
    plain = Attention(8, 2)
    plain.load_state_dict(layer.attention.state_dict())
    tokens = as_tokens(x)
    expected = plain(tokens, tokens, torch.ones(2, 16, dtype=torch.bool))
    torch.testing.assert_close(as_tokens(layer(x)), expected)


def test_attention_reads_one_place_for_each_patch() -> None:
    """Reduction 2 in two dimensions: a quarter of the keys."""
    layer, read = Efficient(PLAN, 8, 2, 2), []
    layer.attention.key_value.register_forward_hook(lambda *given: read.append(given[1][0].shape))
    layer(normal(2, 8, 4, 4))
    assert read == [(2, 4, 8)]
