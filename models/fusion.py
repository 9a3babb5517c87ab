"""From one tensor a modality to one tensor a case, for every subset that a case may have.

    masked_mean   of what is present, the average
    Joined        a linear layer over what is present, side by side

The masked mean has no parameters, does not care how many modalities there are or in which
order, and is the modality itself where a case has one (HeMIS: Havaei et al., MICCAI 2016).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from models.masking import Seen, rows, zero_where_absent
from protocol.groups import modality_group


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


class Joined(nn.Module):
    """A linear layer over concatenated modalities, taken apart so that each part has an owner.

        W [x_1; ...; x_M]  =  W_1 x_1 + ... + W_M x_M

    Of a case that has the subset S, the sum runs over S and is scaled by M / |S|, so that what follows
    sees numbers of one size. With all modalities it is the layer over their concatenation.
    """

    def __init__(self, modalities: Iterable[str], part: Callable[[], nn.Module]) -> None:
        """Build a `part` for each modality, owned by it where no module around it has another owner."""
        super().__init__()
        self.parts = nn.ModuleDict({modality_group(name): part() for name in modalities})

    def forward(
        self, features: Mapping[str, Tensor], seen: Mapping[str, Seen], shape: Sequence[int]
    ) -> Tensor:
        """Return a tensor of `shape` `(B, ...)`; `features` leave out what nobody has."""
        mapped = {name: self.parts[modality_group(name)](x) for name, x in features.items()}
        return masked_mean(mapped, seen, shape) * len(self.parts)
