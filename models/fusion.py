"""From one tensor a modality to one tensor a case, for every subset that a case may have.

The masked mean: of what is present, the average. It has no parameters, does not care how
many modalities there are or in which order, and is the modality itself where a case has
one (HeMIS: Havaei et al., MICCAI 2016).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from models.masking import Seen, rows, zero_where_absent


def masked_mean(features: Mapping[str, Tensor], seen: Mapping[str, Seen], shape: Sequence[int]) -> Tensor:
    """Average tensors of `shape` `(B, ...)` over the modalities that each case has.

    `features` may leave out a modality that nobody has. A case that has none gets zeros.
    """
    if not features:
        return next(iter(seen.values())).x.new_zeros(shape)
    counted = [x if seen[n].everybody else zero_where_absent(x, seen[n].has) for n, x in features.items()]
    total = sum(counted[1:], counted[0])
    if all(seen[name].everybody for name in features):
        return total / len(counted)
    count = torch.stack([seen[name].has for name in features]).sum(0).clamp(min=1)
    return total / rows(count, total)
