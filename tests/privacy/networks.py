"""Small models that have each trait a row's gradient could stumble over."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from protocol.batch import Batch

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class Plain(nn.Module):
    """One image through convolution, GroupNorm, and a linear layer."""

    def __init__(self, dims: int = 2) -> None:
        super().__init__()
        self.modalities = ("a", "b")
        self.convolution = CONVOLUTION[dims](1, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = torch.where(_rows(batch.present[:, 0], batch.inputs["a"]), batch.inputs["a"], 0)
        return {"grade": self.head(torch.relu(self.norm(self.convolution(x))).flatten(2).mean(2))}


class Everything(nn.Module):
    """Two images and a table: shared convolutions, strides, groups, transposes, two heads."""

    def __init__(self, dims: int = 2, *, transposed: bool = True) -> None:
        super().__init__()
        self.modalities = ("a", "b", "table")
        convolution = CONVOLUTION[dims]
        self.first = nn.ModuleDict({name: convolution(1, 4, 3, stride=2, padding=1) for name in "ab"})
        self.norms = nn.ModuleDict({name: nn.GroupNorm(2, 4) for name in "ab"})
        self.shared = convolution(4, 4, 3, padding=1, bias=False, groups=2)
        self.up = TRANSPOSED[dims](4, 4, 2, 2) if transposed else nn.Upsample(scale_factor=2)
        self.mask = convolution(4, 2, 1)
        self.table = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4))
        self.grade = nn.Linear(4, 3)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = []
        for column, name in enumerate("ab"):
            has = batch.present[:, column]
            if has.any():  # an encoder that no row needs does not run
                x = torch.where(_rows(has, batch.inputs[name]), batch.inputs[name], 0)
                x = self.first[name](x)
                for _ in range(2):  # weights used twice a modality, four times a forward
                    x = torch.relu(self.norms[name](self.shared(x)))
                features.append(torch.where(_rows(has, x), x, 0))
        fused = sum(features[1:], features[0])
        has = batch.present[:, 2]
        table = torch.where(_rows(has, batch.inputs["table"]), batch.inputs["table"], 0)
        table = torch.where(has[:, None], self.table(table), 0)
        return {"mask": self.mask(self.up(fused)), "grade": self.grade(fused.flatten(2).mean(2) + table)}


def cases(rows: int, dims: int = 2, size: int = 8, seed: int = 0) -> Batch:
    """Make `rows` cases with everything present: images `a`, `b`, a table, a mask and a grade."""
    generator = torch.Generator().manual_seed(seed)
    space = (size,) * dims
    inputs = {name: torch.randn(rows, 1, *space, generator=generator) for name in "ab"}
    inputs["table"] = torch.randn(rows, 5, generator=generator)
    targets = {
        "mask": (torch.rand(rows, 2, *space, generator=generator) < 0.4).float(),
        "grade": torch.randint(3, (rows,), generator=generator),
    }
    labelled = {head: torch.ones(rows, dtype=torch.bool) for head in targets}
    return Batch(inputs, torch.ones(rows, 3, dtype=torch.bool), targets, labelled)


def losses(outputs: dict[str, Tensor], batch: Batch) -> Tensor:
    """Cross-entropy of the grade and of the mask, each case's own."""
    total = functional.cross_entropy(outputs["grade"], batch.targets["grade"], reduction="none")
    if "mask" in outputs:
        voxels = functional.binary_cross_entropy_with_logits(
            outputs["mask"], batch.targets["mask"], reduction="none"
        )
        total = total + voxels.flatten(1).mean(1)
    return total


def built(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a model whose parameters are always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make()


def _rows(has: Tensor, like: Tensor) -> Tensor:
    return has.view(-1, *[1] * (like.ndim - 1))
