"""One linear layer a head on the tables: logistic regression, or Cox's linear hazard.

With one table and one head this is the baseline of FLamby (Ogier du Terrail et al., NeurIPS
Datasets and Benchmarks, 2022) for Fed-Heart-Disease, `Linear(13, 1)`, and for Fed-TCGA-BRCA,
`Linear(39, 1)`: drawn after `torch.manual_seed(seed)`, parameter for parameter. Several tables
stand side by side, zeros where a case lacks one.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.base import MultiModal
from models.fits import refuse_images, refuse_segmentation
from models.heads import predictions, vector_heads
from models.masking import Seen
from protocol.recipe import Head, Modality


class TableLinear(MultiModal):
    """All tables side by side, and a linear layer a head; every parameter is a head's."""

    def __init__(self, modalities: Mapping[str, Modality], heads: Mapping[str, Head]) -> None:
        """Draw nothing but the layers, so that the seed gives what FLamby's gives."""
        super().__init__(modalities)
        self.heads = vector_heads(heads, sum(each.features for each in modalities.values()))

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return head -> logits."""
        return predictions(self.heads, torch.cat([each.x for each in seen.values()], 1))


def table_linear(modalities: Mapping[str, Modality], heads: Mapping[str, Head]) -> TableLinear:
    """Build it; there is nothing to choose."""
    refuse_images(modalities, "table_linear")
    refuse_segmentation(heads, "table_linear")
    return TableLinear(modalities, heads)
