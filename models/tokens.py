"""Images as sequences of patches, and transformer blocks over them.

    patches        (B, 1, X, Y[, Z])  ->  (B, N, voxels of a patch)     what a patch holds
    Tokenizer      (B, 1, X, Y[, Z])  ->  (B, N, D)                     what a patch becomes
    Block          (B, L, D)          ->  (B, L, D)                     pre-norm, self-attention
    Encoder        (B, L, D)          ->  (B, 1 + L, D), after each     a class token first, then blocks
    CrossBlock     (B, K, D), (B, L, D)  ->  (B, K, D)        first the one reads the other

Blocks are those of ViT (Dosovitskiy et al., ICLR 2021) without dropout. Who may be read is a mask,
bool `(B, L)`: a token that is hidden or absent gets weight zero, so its content changes nothing.

Every layer is called with one row a case, and every learned vector is a layer, since only what a
layer did can be told apart case by case (`privacy.dpsgd`).
"""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.unet import extended
from protocol.errors import RecipeError

_SPREAD = 0.02  # of a learned vector's first values, as in ViT


def patches(x: Tensor, side: int) -> Tensor:
    """Cut `(B, 1, X, Y[, Z])`, sides a multiple of `side`, into `(B, N, side ** dims)`."""
    dims = x.ndim - 2
    for axis in range(2, x.ndim):
        x = x.unfold(axis, side, side)
    return x.flatten(2 + dims).flatten(1, 1 + dims)  # (B, 1, X/s, Y/s[, Z/s], s * s[* s]), then N


def as_map(tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Lay tokens `(B, N, D)` out as a map `(B, D, *grid)`."""
    # Contiguous: Opacus' rows of a convolution are wrong where its input is strided otherwise.
    return tokens.transpose(1, 2).unflatten(2, grid).contiguous()


def grid_of(x: Tensor, side: int) -> tuple[int, ...]:
    """Return the patches along each axis of images `(B, 1, X, Y[, Z])`."""
    return tuple(-(-size // side) for size in x.shape[2:])


@lru_cache(maxsize=64)
def positions(grid: tuple[int, ...], size: int) -> Tensor:
    """Return fixed embeddings of the places of a grid, `(1, N, size)`: sine and cosine of each axis.

    Of `w = size / (2 axes)` rates 10000^(-i / w) a coordinate each (Vaswani et al., NeurIPS 2017; MAE).
    """
    if size % (2 * len(grid)):
        raise RecipeError(f"model: {size} features cannot hold positions; use a multiple of {2 * len(grid)}")
    width = size // (2 * len(grid))
    rates = 10_000.0 ** (-torch.arange(width) / width)
    waves: list[Tensor] = []
    for axis, length in enumerate(grid):
        angle = torch.arange(length)[:, None] * rates  # (length, w)
        along = [length if each == axis else 1 for each in range(len(grid))]
        wave = torch.cat([angle.sin(), angle.cos()], 1).view(*along, 2 * width)
        waves.append(wave.expand(*grid, 2 * width))
    return torch.cat(waves, -1).flatten(0, -2)[None]


class Learned(nn.Module):
    """One learned vector, the same for every case: a class token, a mask token, a modality's name."""

    def __init__(self, size: int) -> None:
        """Begin near zero."""
        super().__init__()
        self.vector = nn.Linear(1, size, bias=False)  # of the number one
        nn.init.normal_(self.vector.weight, std=_SPREAD)

    def forward(self, cases: int, length: int) -> Tensor:
        """Return `(cases, length, size)`."""
        weight = self.vector.weight
        return self.vector(torch.ones(cases, length, 1, device=weight.device, dtype=weight.dtype))


class Tokenizer(nn.Module):
    """One linear map of each patch; positions are added by whoever needs them."""

    def __init__(self, dims: int, side: int, size: int) -> None:
        """Take patches of `side` voxels along each of `dims` axes to `size` features."""
        super().__init__()
        self.side, self.dims = side, dims
        self.linear = nn.Linear(side**dims, size)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, N, size)`."""
        if x.ndim != self.dims + 2:
            raise RecipeError(f"model.dims: {self.dims}, but the images have {x.ndim - 2} dimensions")
        return self.linear(patches(extended(x, self.side), self.side))


class Attention(nn.Module):
    """Queries from one sequence, keys and values from another (Vaswani et al., NeurIPS 2017)."""

    def __init__(self, size: int, heads: int) -> None:
        """Split `size` features over `heads`."""
        super().__init__()
        if size % heads:
            raise RecipeError(f"model: {size} features do not divide into {heads} attention heads")
        self.heads = heads
        self.query = nn.Linear(size, size)
        self.key_value = nn.Linear(size, 2 * size)
        self.out = nn.Linear(size, size)

    def forward(self, x: Tensor, context: Tensor, readable: Tensor) -> Tensor:
        """Let `x` `(B, K, D)` read `context` `(B, L, D)` where bool `readable` `(B, L)`: `(B, K, D)`.

        Every case must have a readable token.
        """
        query = self.query(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, H, K, D/H)
        key, value = self.key_value(context).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, readable[:, None, None])
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Self-attention, then a perceptron of twice the width; each on what is normalised, added."""

    def __init__(self, size: int, heads: int) -> None:
        """Build for `size` features."""
        super().__init__()
        self.before = nn.LayerNorm(size)
        self.attention = Attention(size, heads)
        self.between = nn.LayerNorm(size)
        self.perceptron = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    def forward(self, x: Tensor, readable: Tensor) -> Tensor:
        """Let every token of `(B, L, D)` read those where bool `readable` `(B, L)`."""
        normal = self.before(x)
        x = x + self.attention(normal, normal, readable)
        return x + self.perceptron(self.between(x))


class Encoder(nn.Module):
    """Transformer blocks over a class token and the tokens of a case."""

    def __init__(self, size: int, depth: int, heads: int) -> None:
        """Build `depth` blocks."""
        super().__init__()
        self.first = Learned(size)
        self.blocks = nn.ModuleList(Block(size, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(size)

    def forward(self, tokens: Tensor, readable: Tensor) -> list[Tensor]:
        """Return what goes into the first block and comes out of each, `(B, 1 + L, D)`, the last normalised.

        `tokens` `(B, L, D)` are read where bool `readable` `(B, L)`; the class token stands before them.
        """
        x = torch.cat([self.first(len(tokens), 1), tokens], 1)
        readable = torch.cat([torch.ones_like(readable[:, :1]), readable], 1)
        states = [x]
        for block in self.blocks:
            states.append(block(states[-1], readable))
        return [*states[:-1], self.norm(states[-1])]


class CrossBlock(nn.Module):
    """Cross-attention, added, then a `Block` of self-attention."""

    def __init__(self, size: int, heads: int) -> None:
        """Build for `size` features."""
        super().__init__()
        self.before = nn.LayerNorm(size)
        self.context = nn.LayerNorm(size)
        self.cross = Attention(size, heads)
        self.block = Block(size, heads)

    def forward(self, x: Tensor, context: Tensor, readable: Tensor | None = None) -> Tensor:
        """Let `x` `(B, K, D)` read `context` `(B, L, D)`, where `readable` `(B, L)` if given; then itself."""
        everything = torch.ones(context.shape[:2], dtype=torch.bool, device=x.device)
        known = everything if readable is None else readable
        x = x + self.cross(self.before(x), self.context(context), known)
        return self.block(x, everything.new_ones(x.shape[:2]))
