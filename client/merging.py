"""Two models that predict as one: the common one and the site's own (`strategies.t3_merge`).

    p, q      what each predicts of a case
    lambda    the common model's share, from how far p and q are apart, over all heads with probabilities
    predict   with lambda * common + (1 - lambda) * own, parameter by parameter

Three passes in place of one, and a merged network for each case, or for each mini-batch.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.flat import Flat
from models.heads import log_chances
from models.masking import rows
from protocol.batch import Batch
from protocol.recipe import Head
from protocol.update import Vectors
from strategies.base import Merge

Outputs = dict[str, Tensor]


class Merged(nn.Module):
    """Predicts as `merge` says; `flat`'s network is what it predicts with, and is left as last merged.

    `common` and `own` have the same groups; one in which they are equal stays what it is.
    """

    def __init__(
        self, flat: Flat, common: Vectors, own: Vectors, merge: Merge, heads: Mapping[str, Head]
    ) -> None:
        super().__init__()
        self.network = flat.model
        self._flat, self._common, self._own, self._merge, self._heads = flat, common, own, merge, heads

    @torch.no_grad()
    def forward(self, batch: Batch) -> Outputs:
        """Return head -> logits."""
        common, own = self._with(self._common, batch), self._with(self._own, batch)
        share = self.share(common, own)
        if self._merge.each == "logits":
            return {head: _mixed(logits, own[head], share) for head, logits in common.items()}
        if self._merge.each == "batch":
            return self._with(self._merged(float(share.mean())), batch)
        single = [
            self._with(self._merged(part), batch.map(lambda x, row=row: x[row : row + 1]))
            for row, part in enumerate(share.tolist())
        ]
        return {head: torch.cat([each[head] for each in single]) for head in common}

    def share(self, common: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Tensor:
        """Return lambda of each case, `(B,)`, from the logits of both models.

        Where no head has probabilities nothing is apart.
        """
        first = next(iter(common.values()))
        apart = [self._apart(name, logits, own[name]) for name, logits in common.items()]
        known = [each for each in apart if each is not None] or [first.new_zeros(len(first))]
        return self._merge.rule(torch.stack(known).mean(0))

    def _apart(self, name: str, common: Tensor, own: Tensor) -> Tensor | None:
        p, q = (log_chances(self._heads[name], each) for each in (common, own))
        if p is None or q is None:
            return None
        found = self._merge.measure(p, q)
        return found.flatten(1).mean(1) if found.ndim > 1 else found

    def _with(self, vectors: Vectors, batch: Batch) -> Outputs:
        self._flat.load(vectors)
        return self.network(batch)

    def _merged(self, part: float) -> Vectors:
        return {group: own.lerp(self._common[group], part) for group, own in self._own.items()}


def _mixed(common: Tensor, own: Tensor, share: Tensor) -> Tensor:
    return own.lerp(common, rows(share, own))
