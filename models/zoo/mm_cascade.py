"""3MT: modalities read one after the other by a few tokens.

    Liu, Yuan, Li, Gu, Ourselin et al.: Cascaded Multi-Modal Mixing Transformers for Alzheimer's Disease
    Classification with Incomplete Data. NeuroImage 2023 (arXiv 2210.00255).

    z_0    a few learned tokens
    z_m    CMT_m(z_{m-1}, f_m): cross-attention to the modality's features f_m, self-attention, perceptron
           z_{m-1} where a case lacks modality m: the step is skipped, in training as in use
    y_m    head(the first token of z_m); the last one is the prediction, all are trained

The order is the recipe's. An image's features are the places of a small convolutional network's last map,
a table's one token. A features' network and its CMT belong to the modality, z_0 is shared.

There is no public code; where the abstract leaves a choice it is ours. One layer a head for all exits
instead of one an exit, so that each has an owner: the sites with the label. Dropping modalities at random
is `training.modality_dropout`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.base import MultiModal
from models.encoders import Strided, images_of, table_encoders
from models.fits import need_image, refuse_segmentation
from models.heads import predictions, vector_heads
from models.masking import Seen, rows
from models.tokens import CrossBlock, Learned, positions
from models.unet import Channels, Dims, Groups, Plan
from protocol.groups import modality_group
from protocol.recipe import Count, Head, Modality


class MMCascade(MultiModal):
    """Features and a cascade step for each modality, one layer a head."""

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        heads: Mapping[str, Head],
        plan: Plan,
        attention_heads: int,
        tokens: int,
    ) -> None:
        """Build with `tokens` of `plan.channels[-1]` features."""
        super().__init__(modalities)
        self.tokens, self.size = tokens, plan.channels[-1]
        images = {modality_group(name): Strided(plan) for name in images_of(modalities)}
        self.features = nn.ModuleDict(images | dict(table_encoders(modalities, self.size).items()))
        self.first = nn.ModuleList(Learned(self.size) for _ in range(tokens))
        owners = [modality_group(name) for name in modalities]
        self.steps = nn.ModuleDict({owner: CrossBlock(self.size, attention_heads) for owner in owners})
        self.heads = vector_heads(heads, self.size)

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits; in training also those of the earlier exits, `head+1` the first."""
        cases = len(next(iter(seen.values())).x)
        state = torch.cat([learned(cases, 1) for learned in self.first], 1)  # (B, tokens, D)
        states: list[Tensor] = []
        for name, each in seen.items():
            if each.anybody:
                state = self._step(state, name, each)
            states.append(state)
        outputs = predictions(self.heads, states[-1][:, 0])
        if self.training:
            for place, earlier in enumerate(states[:-1], 1):
                found = predictions(self.heads, earlier[:, 0])
                outputs |= {f"{head}+{place}": logits for head, logits in found.items()}
        return outputs

    def _step(self, state: Tensor, name: str, each: Seen) -> Tensor:
        owner = modality_group(name)
        features = self.features[owner](each.x)
        if features.ndim > 2:  # noqa: PLR2004 - a map (B, D, x, y[, z]), not a table's (B, D)
            place = positions(tuple(features.shape[2:]), self.size).to(features)
            features = features.flatten(2).transpose(1, 2) + place
        else:
            features = features[:, None]
        after = self.steps[owner](state, features)
        return after if each.everybody else torch.where(rows(each.has, after), after, state)


def mm_cascade(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (16, 32, 64),
    groups: Groups = 8,
    dims: Dims = 2,
    attention_heads: Count = 2,
    tokens: Count = 2,
) -> MMCascade:
    """Build it.

    Args:
        modalities: images and tables, read in this order.
        heads: classifications and survivals.
        channels: a level of an image's network, the last the features of a token.
        groups: the most groups of a norm.
        dims: dimensions of the images.
        attention_heads: of every attention.
        tokens: how many read; the first predicts.
    """
    need_image(modalities, "mm_cascade")
    refuse_segmentation(heads, "mm_cascade")
    return MMCascade(modalities, heads, Plan(dims, channels, groups), attention_heads, tokens)
