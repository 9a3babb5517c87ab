"""A batch of cases as a model sees it, whatever the kinds of modality.

Modalities are kept apart by name, because an image and a table do not stack. Row `i`
of every tensor is case `i`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """`B` cases over the recipe's `M` modalities.

    `inputs`    modality -> float32 `(B, 1, X, Y[, Z])` for images, `(B, F)` for tables;
                what stands in an absent modality's place is unspecified (may be NaN)
    `present`   bool `(B, M)`, columns in the recipe's order
    `targets`   head -> `(B, C, X, Y[, Z])` float32 {0,1} for segmentation, `(B,)` int64
                class for classification, `(B, 2)` float32 (time, event) for survival,
                `(B, 0)` for a pretext, whose target is the input, or what a teacher says in a step
    `labelled`  head -> bool `(B,)`, False where the case lacks that label
    `draw`      int64 `(B,)`, a number a case from which follows all that a model does by chance in
                a step, such as what it masks; None counts as zeros
    """

    inputs: Mapping[str, Tensor]
    present: Tensor
    targets: Mapping[str, Tensor]
    labelled: Mapping[str, Tensor]
    draw: Tensor | None = None

    def __len__(self) -> int:
        """Number of cases."""
        return self.present.shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """Apply `function` to every tensor: indexing rows, moving to a device."""
        return Batch(
            {name: function(x) for name, x in self.inputs.items()},
            function(self.present),
            {name: function(y) for name, y in self.targets.items()},
            {name: function(has) for name, has in self.labelled.items()},
            None if self.draw is None else function(self.draw),
        )

    def seeing(self, present: Tensor) -> "Batch":
        """The same cases with only the modalities in `present` `(B, M)`."""
        return replace(self, present=present)
