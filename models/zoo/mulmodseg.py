"""MulModSeg: one network for every modality, told by text which one it sees and what to outline.

    Li, Zhu, et al.: MulModSeg: Enhancing Unpaired Multi-Modal Medical Image Segmentation with
    Modality-Conditioned Text Embedding and Alternating Training. WACV 2025
    (code: github.com/ChengyinLee/MulModSeg_2024).

    t_m,k   ReLU(linear(text of "a m imaging of a h k"))              class k of head h
    g       linear(mean over space of the deepest map)
    theta   controller([g; t_m,k]): the 153 numbers of three layers 8 -> 8 -> 8 -> 1
    logits  layers with theta, on 8 features of the decoder

The paper's scans are unpaired, a CT or an MR. Here every modality that a case has goes through the network
by itself and logits are averaged, so a case may have one or all. All is shared but the controller, which
belongs to its head.

Departures: words are hashed (`models.texts`), where the paper has CLIP's embeddings; GroupNorm throughout.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.base import MultiModal
from models.fits import need_outlines
from models.fusion import masked_mean
from models.masking import Seen
from models.texts import embedded
from models.unet import (
    CONVOLUTION,
    Channels,
    Decoder,
    Dims,
    Encoder,
    Groups,
    Plan,
    cropped,
    norm,
    padded,
    pooled,
)
from protocol.groups import head_group
from protocol.recipe import Count, Head, Modality

_WIDTH = 8
_SHAPES = ((_WIDTH, _WIDTH), (_WIDTH, _WIDTH), (1, _WIDTH), (_WIDTH, 1), (_WIDTH, 1), (1, 1))
"""Of the three layers' weights, then biases."""
_SIZES = tuple(outputs * inputs for outputs, inputs in _SHAPES)
PER_CLASS = sum(_SIZES)
_TEXT = 64


class MulModSeg(MultiModal):
    """A shared U-Net whose last layers are written by text and image."""

    def __init__(
        self, modalities: Mapping[str, Modality], heads: Mapping[str, Head], plan: Plan, size: int
    ) -> None:
        """Build with codes of `size` features for text and image each."""
        super().__init__(modalities)
        self.plan, first, last = plan, plan.channels[0], plan.channels[-1]
        self._classes = {name: head.classes for name, head in heads.items()}
        self.encoder, self.decoder = Encoder(plan, 1), Decoder(plan)
        self.task = nn.Sequential(nn.Linear(_TEXT, size), nn.ReLU())
        self.deepest = nn.Sequential(norm(last, plan.groups), nn.ReLU())
        self.image = nn.Linear(last, size)
        layer = CONVOLUTION[plan.dims](first, _WIDTH, 1)
        self.features = nn.Sequential(norm(first, plan.groups), nn.ReLU(), layer)
        groups = [head_group(name) for name in heads]
        self.controllers = nn.ModuleDict({group: nn.Linear(2 * size, PER_CLASS) for group in groups})

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits."""
        image = next(iter(seen.values())).x
        # One is run even where nobody has any: zeros that nothing trains could not be trained with.
        wanted = [name for name, each in seen.items() if each.anybody] or [self.modalities[0]]
        single = {name: self._of_one(name, seen[name].x) for name in wanted}
        return {
            head: masked_mean(
                {name: logits[head] for name, logits in single.items()},
                seen,
                (len(image), classes, *image.shape[2:]),
            )
            for head, classes in self._classes.items()
        }

    def _of_one(self, modality: str, image: Tensor) -> dict[str, Tensor]:
        """Return head -> logits from one modality's images."""
        levels = self.encoder(padded(image, self.plan))
        features = cropped(self.features(self.decoder(levels)), image)
        code = self.image(pooled(self.deepest(levels[-1])))
        return {
            head: written(self._theta(head, classes, modality, code), features)
            for head, classes in self._classes.items()
        }

    def _theta(self, head: str, classes: int, modality: str, code: Tensor) -> Tensor:
        texts = [embedded(prompt(modality, head, number), _TEXT) for number in range(classes)]
        task = self.task(torch.stack(texts).to(code).expand(len(code), -1, -1))  # (B, K, S)
        both = torch.cat([code[:, None].expand_as(task), task], 2)
        return self.controllers[head_group(head)](both)


def prompt(modality: str, head: str, number: int) -> str:
    """What the network is told: the modality, and class `number` of a head."""
    return f"a {modality} imaging of a {head} class{number}"


def written(theta: Tensor, features: Tensor) -> Tensor:
    """Run three layers of parameters `theta` `(B, K, 153)` on `(B, 8, X, Y[, Z])`: `(B, K, X, Y[, Z])`."""
    parts = [
        part.unflatten(2, shape) for part, shape in zip(theta.split(_SIZES, 2), _SHAPES, strict=True)
    ]  # each (B, K, outputs, inputs)
    x = features.flatten(2)[:, None]  # (B, 1, 8, N)
    for layer, (weight, bias) in enumerate(zip(parts[:3], parts[3:], strict=True)):
        x = weight @ (x if not layer else x.relu()) + bias
    return x.squeeze(2).unflatten(2, features.shape[2:])


def mulmodseg(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (8, 16, 32),
    size: Count = 32,
    groups: Groups = 8,
    dims: Dims = 2,
) -> MulModSeg:
    """Build it.

    Args:
        modalities: images alone; their names are what the network is told.
        heads: segmentations; so are theirs.
        channels: a level from the finest.
        size: features of a text's and of an image's code; the paper's are 256.
        groups: the most groups of a norm.
        dims: dimensions of the images.
    """
    need_outlines(modalities, heads, "mulmodseg")
    return MulModSeg(modalities, heads, Plan(dims, channels, groups), size)
