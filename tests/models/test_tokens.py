"""Patches, positions and attention against plain loops and PyTorch's own."""

import math

import pytest
import torch
from torch import nn

from models.tokens import Attention, Block, Tokenizer, as_map, grid_of, patches, positions
from protocol.errors import RecipeError


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(4, 6), (4, 2, 6)])
def test_patches_are_cut_in_the_order_of_tokens(shape: tuple[int, ...]) -> None:
    """So that a tokenizer is the strided convolution with its rows as kernels."""
    x = normal(2, 1, *shape)
    dims, cut = len(shape), patches(x, 2)
    tokenizer = Tokenizer(dims, 2, 3)
    kernels = tokenizer.linear.weight.view(3, 1, *[2] * dims)
    convolution = {2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}[dims]
    strided = convolution(x, kernels, tokenizer.linear.bias, stride=2)
    torch.testing.assert_close(tokenizer(x), strided.flatten(2).transpose(1, 2))
    assert torch.equal(cut[0, 0], x[(0, 0, *[slice(2)] * dims)].flatten())
    assert torch.equal(as_map(cut, grid_of(x, 2)).flatten(2).transpose(1, 2), cut)


def test_an_image_is_extended_to_whole_patches() -> None:
    x = normal(1, 1, 5, 4)
    assert grid_of(x, 4) == (2, 1)
    assert Tokenizer(2, 4, 8)(x).shape == (1, 2, 8)


def test_positions_are_sines_and_cosines_of_each_axis() -> None:
    table = positions((2, 3), 8)[0]
    for place, (row, column) in enumerate((r, c) for r in range(2) for c in range(3)):
        expected = [
            wave(along / 10_000 ** (k / 2))
            for along in (row, column)
            for wave in (math.sin, math.cos)
            for k in (0, 1)
        ]
        assert table[place].tolist() == pytest.approx(expected, abs=1e-6)
    assert positions((2, 2, 2), 12).shape == (1, 8, 12)
    with pytest.raises(RecipeError, match="multiple of 6"):
        positions((2, 2, 2), 8)


def test_attention_is_pytorch_s() -> None:
    ours, theirs = Attention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    x, context = normal(2, 4, 12), normal(2, 5, 12, seed=1)
    readable = torch.tensor([[True, True, False, True, False], [True] * 5])
    expected, _ = theirs(x, context, context, key_padding_mask=~readable)
    torch.testing.assert_close(ours(x, context, readable), expected, atol=1e-5, rtol=1e-4)


def test_what_may_not_be_read_is_not() -> None:
    block, x = Block(8, 2), normal(1, 3, 8)
    other = x.clone()
    other[0, 2] = 99.0
    hidden = torch.tensor([[True, True, False]])
    assert torch.equal(block(x, hidden)[0, :2], block(other, hidden)[0, :2])
    everything = torch.ones_like(hidden)
    assert not torch.equal(block(x, everything)[0, :2], block(other, everything)[0, :2])


def test_features_must_divide_into_heads() -> None:
    with pytest.raises(RecipeError, match="10 features do not divide into 4"):
        Attention(10, 4)
