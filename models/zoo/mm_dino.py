"""MM-DINOv2: one vision transformer for all modalities, taught by itself and by labels.

    Scholz et al.: MM-DINOv2: Adapting Foundation Models for Multi-Modal Medical Image Analysis. MICCAI 2025
    (arXiv 2509.06617; code: github.com/daniel-scholz/mm-dinov2).

    tokens     t_m = patches(x_m) or, where hidden, the mask token; + position + name_m / |name_m|
    encoder    f = blocks(class token, t_1, ..., t_M), 1 + M N tokens; those of an absent m cannot be read
    head       z = cosines of a perceptron's output to prototypes, one a class, over 0.1
    student    two large crops, a block and one whole modality hidden, and two small ones
    teacher    the large crops, nothing hidden
    pretext    z of the class token of a view as the teacher's of the other large crop (DINO),
               z of a hidden patch as the teacher's of that patch (iBOT)
    grade      z of the class token of the whole image: the classification is the pretext's own head

The teacher is the model as the round began (`client.teaching`). The name of a modality belongs to it. The
rest is shared, the prototypes too: hospitals without labels move them as well.

Departures: docs/methods/mm_dino.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.base import MultiModal, drawn
from models.fits import need_image, refuse_tables
from models.heads import pretexts_of
from models.masking import Seen, uniforms, visible, zero_where_absent
from models.tokens import Encoder, Learned, Tokenizer, grid_of, positions
from models.unet import Dims, extended
from models.views import block, crop, one_whole
from protocol.batch import Batch
from protocol.errors import RecipeError
from protocol.groups import modality_group
from protocol.recipe import Count, Head, Modality

_LARGE, _SMALL = (0.5, 1.0), (0.2, 0.5)  # share of an image that a crop shows
_TEMPERATURE = 0.1
_CROPS = 4  # the large ones first
_TAUGHT = tuple((teacher, student) for teacher in (0, 1) for student in range(_CROPS) if teacher != student)


@dataclass(frozen=True)
class DinoPlan:
    """Sizes, see `mm_dino`."""

    dims: int
    patch: int
    size: int
    depth: int
    attention_heads: int
    bottleneck: int


class MMDino(MultiModal):
    """A tokenizer, a transformer and prototypes for all; names by modality."""

    pretexts = ("dino", "koleo")

    def __init__(self, modalities: Mapping[str, Modality], heads: Mapping[str, Head], plan: DinoPlan) -> None:
        """Build as many prototypes as the classification has classes."""
        super().__init__(modalities)
        self.plan = plan
        (self.classification,) = (name for name, head in heads.items() if head.kind == "classification")
        self.objectives = {name: heads[name].objective.name for name in pretexts_of(heads)}
        self.tokenizer = Tokenizer(plan.dims, plan.patch, plan.size)
        self.names = nn.ModuleDict({modality_group(name): Learned(plan.size) for name in modalities})
        self.hidden = Learned(plan.size) if self.objectives else None
        self.encoder = Encoder(plan.size, plan.depth, plan.attention_heads)
        self.head = Prototypes(plan.size, plan.bottleneck, heads[self.classification].classes)

    @property
    def axes(self) -> int:
        """Spatial axes of its images: what reads them is no convolution."""
        return self.plan.dims

    @property
    def told(self) -> tuple[str, ...]:
        """Pretexts whose target a teacher says."""
        return tuple(name for name, objective in self.objectives.items() if objective == "dino")

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return the classification's logits."""
        images, has = self._images(seen)
        return {self.classification: self.head(self._read(images, has)[:, :1])[:, 0]}

    def pretext(self, seen: Mapping[str, Seen], draw: Tensor) -> dict[str, Tensor]:
        """Return, in training, a student's rows `(B, R, K + 1)`; for `koleo` class tokens `(B, 2, size)`."""
        if not (self.objectives and self.training):
            return {}
        images, has = self._images(seen)
        crops, hidden = self._crops(images, draw), self._hidden(images, has, draw)
        read = [self._read(x, has, h) for x, h in zip(crops, [*hidden, None, None], strict=True)]
        outputs: dict[str, Tensor] = {}
        for name, objective in self.objectives.items():
            if objective == "koleo":
                outputs[name] = torch.cat([tokens[:, :1] for tokens in read[:2]], 1)
            else:
                rows = self._rows(read, [student for _, student in _TAUGHT])
                outputs[name] = torch.cat([rows, _weights(hidden, has)[..., None]], 2)
        return outputs

    def tell(self, batch: Batch) -> dict[str, Tensor]:
        """Return a teacher's rows `(B, R, K)`, from the student's large crops with nothing hidden."""
        images, has = self._images(visible(batch, self.modalities))
        read = [self._read(x, has) for x in self._crops(images, drawn(batch))[:2]]
        return dict.fromkeys(self.told, self._rows(read, [teacher for teacher, _ in _TAUGHT]))

    def _rows(self, read: list[Tensor], views: list[int]) -> Tensor:
        """Return what the head says of the class tokens of `views`, then of both large crops' patches."""
        whole = [self.head(tokens[:, :1]) for tokens in read]
        patches = [self.head(tokens[:, 1:]) for tokens in read[:2]]
        return torch.cat([*(whole[view] for view in views), *patches], 1)

    def _read(self, images: Tensor, has: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Encode `(B, M, X, Y[, Z])`, patches `hidden` bool `(B, M, N)`: `(B, 1 + M N, size)`."""
        grid = grid_of(images, self.plan.patch)
        place = positions(grid, self.plan.size).to(images).expand(len(images), -1, -1)  # (B, N, size)
        tokens = [place] * len(self.modalities)
        for m, name in enumerate(self.modalities):
            if has[:, m].any():
                patches = self.tokenizer(images[:, m : m + 1])
                if hidden is not None and self.hidden is not None:
                    patches = torch.where(hidden[:, m, :, None], self.hidden(*place.shape[:2]), patches)
                named = functional.normalize(self.names[modality_group(name)](*place.shape[:2]), dim=2)
                tokens[m] = place + zero_where_absent(patches + named, has[:, m])
        readable = has[..., None].expand(-1, -1, place.shape[1])
        return self.encoder(torch.cat(tokens, 1), readable.flatten(1))[-1]

    def _images(self, seen: Mapping[str, Seen]) -> tuple[Tensor, Tensor]:
        for each in seen.values():
            if each.x.ndim != self.plan.dims + 2:
                raise RecipeError(
                    f"model.dims: {self.plan.dims}, but the images have {each.x.ndim - 2} dimensions"
                )
        images = torch.cat([extended(each.x, self.plan.patch) for each in seen.values()], 1)
        return images, torch.stack([each.has for each in seen.values()], 1)

    def _crops(self, images: Tensor, draw: Tensor) -> list[Tensor]:
        grid = grid_of(images, self.plan.patch)
        large, small = (
            tuple(max(1, n // by) * self.plan.patch for n in grid) for by in (1, 2)
        )  # as many voxels as the image along each axis, and half
        numbers = uniforms(draw, _CROPS, 1 + self.plan.dims).unbind(1)
        return [crop(images, n, _LARGE, large) for n in numbers[:2]] + [
            crop(images, n, _SMALL, small) for n in numbers[2:]
        ]

    def _hidden(self, images: Tensor, has: Tensor, draw: Tensor) -> list[Tensor]:
        """Return what the student does not see of each large crop, bool `(B, M, N)`."""
        grid, shape = grid_of(images, self.plan.patch), 2 + 2 * self.plan.dims
        before = _CROPS * (1 + self.plan.dims)  # other numbers than the crops'
        numbers = uniforms(draw, before + 2 * (shape + has.shape[1]))[:, before:].chunk(2, 1)
        return [
            has[..., None] & (block(n[:, :shape], grid)[:, None] | one_whole(has, n[:, shape:])[..., None])
            for n in numbers
        ]


class Prototypes(nn.Module):
    """Three layers to `bottleneck` features, and their cosines to a prototype of each class over 0.1."""

    def __init__(self, size: int, bottleneck: int, classes: int) -> None:
        """Build for tokens of `size` features."""
        super().__init__()
        self.perceptron = nn.Sequential(
            nn.Linear(size, 2 * size),
            nn.GELU(),
            nn.Linear(2 * size, 2 * size),
            nn.GELU(),
            nn.Linear(2 * size, bottleneck),
        )
        self.classes = Learned(classes * bottleneck)
        self.shape = (classes, bottleneck)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits `(B, L, classes)` of tokens `(B, L, size)`."""
        prototypes = functional.normalize(self.classes(len(tokens), 1).view(-1, *self.shape), dim=2)
        features = functional.normalize(self.perceptron(tokens), dim=2)
        return features @ prototypes.transpose(1, 2) / _TEMPERATURE


def _weights(hidden: list[Tensor], has: Tensor) -> Tensor:
    """Return how much each row counts, `(B, R)`: views alike, hidden patches alike, the rest not."""
    views = has.any(1, keepdim=True).float().expand(-1, len(_TAUGHT)) / len(_TAUGHT)
    flat = [each.flatten(1).float() for each in hidden]
    return torch.cat([views, *(h / h.sum(1, keepdim=True).clamp(min=1) / len(flat) for h in flat)], 1)


def mm_dino(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    dims: Dims = 2,
    patch: Count = 8,
    size: Count = 96,
    depth: Count = 4,
    attention_heads: Count = 4,
    bottleneck: Count = 32,
) -> MMDino:
    """Build it.

    Args:
        modalities: images alone.
        heads: one classification of two classes or more, and pretexts: `dino` learns, `koleo` spreads.
        dims: dimensions of the images.
        patch: side of a patch in voxels.
        size: features of a token.
        depth: blocks of the encoder.
        attention_heads: of every block.
        bottleneck: features that are compared with prototypes.
    """
    need_image(modalities, "mm_dino")
    refuse_tables(modalities, "mm_dino")
    _need_one_classification(heads)
    return MMDino(modalities, heads, DinoPlan(dims, patch, size, depth, attention_heads, bottleneck))


def _need_one_classification(heads: Mapping[str, Head]) -> None:
    found = {name: head for name, head in heads.items() if head.kind != "pretext"}
    if len(found) != 1 or any(h.kind != "classification" or h.classes == 1 for h in found.values()):
        raise RecipeError(
            "heads: 'mm_dino' has one classification with classes: 2 or more, each a prototype, beside "
            f"pretexts; found {', '.join(found) or 'none'}"
        )
