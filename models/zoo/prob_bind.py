"""ProbMED: every modality says a Gaussian, and those of one patient are bound together.

    Gao, Kim, Lin et al.: ProbMED: A Probabilistic Framework for Medical Multimodal Binding. ICCV 2025
    (arXiv 2509.25711).

    Z_m       N(mean, variance), both linear in what m's network makes of x_m     of modality m
    fused     the product of the Z_m that a case has (`gaussians.product`)
    heads     linear, on the fused mean
    binding   a patient's Z_m and Z_n are alike, those of two patients are not (`gaussians.contrast`)
    surprise  KL(Z_m | N(0, 1)), a little: no variance vanishes

Binding and surprise are pretexts, told apart by their objectives: `contrast` compares the patients of a batch
and so never trains privately, `own` is the surprise. A hospital that holds one modality has no pair to bind,
and still trains its Gaussians by heads and surprise. What `contrast` compares is given in training alone:
how a case is told from others says nothing of the case itself.

Departures: all pairs in place of one drawn at random; overlaps are averaged over features, not multiplied; no
synthetic samples within a modality; no text, and small networks. There is no public code.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from models import gaussians
from models.base import MultiModal
from models.encoders import encoded, vector_encoders
from models.fits import need_image, refuse_segmentation
from models.gaussians import Gaussian
from models.heads import predictions, pretexts_of, vector_heads
from models.masking import Seen
from models.unet import Channels, Dims, Groups, Plan
from protocol.groups import modality_group
from protocol.recipe import Count, Head, Modality

_LARGEST = 6.0  # of a variance's logarithm, both ways


class ProbBind(MultiModal):
    """Networks and Gaussians by modality, their product, linear heads."""

    pretexts = ("own", "contrast")

    def __init__(
        self, modalities: Mapping[str, Modality], heads: Mapping[str, Head], plan: Plan, size: int
    ) -> None:
        """Build Gaussians of `size` features."""
        super().__init__(modalities)
        self.size, self.objectives = size, {name: heads[name].objective.name for name in pretexts_of(heads)}
        self.encoders = vector_encoders(modalities, plan)
        owners = [modality_group(name) for name in modalities]
        self.gaussians = nn.ModuleDict({owner: nn.Linear(plan.channels[-1], 2 * size) for owner in owners})
        self.heads = vector_heads(heads, size)

    def predict(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Return logits, surprises `(B, 1)`, and in training what is compared, `(B, M, 1 + 2 size)`."""
        said, outputs = self.said(seen), dict[str, Tensor]()
        if self.heads:
            outputs |= predictions(self.heads, gaussians.product(said, seen, self.size).mean)
        for name, objective in self.objectives.items():
            if objective == "own":
                outputs[name] = surprises(said, seen)
            elif self.training:
                outputs[name] = gaussians.packed(said, seen, self.size)
        return outputs

    def said(self, seen: Mapping[str, Seen]) -> dict[str, Gaussian]:
        """Return the Gaussian of every modality that anybody has."""
        features = encoded(self.encoders, seen)
        both = {name: self.gaussians[modality_group(name)](x).chunk(2, 1) for name, x in features.items()}
        return {n: Gaussian(mean, spread.clamp(-_LARGEST, _LARGEST)) for n, (mean, spread) in both.items()}


def surprises(said: Mapping[str, Gaussian], seen: Mapping[str, Seen]) -> Tensor:
    """Return the mean surprise over what each case has, `(B, 1)`."""
    first = next(iter(seen.values())).x
    terms = [(seen[name].has, gaussians.surprise(each)) for name, each in said.items()]
    return gaussians.average(terms, first.new_zeros(len(first)))[:, None]


def prob_bind(
    modalities: Mapping[str, Modality],
    heads: Mapping[str, Head],
    *,
    channels: Channels = (16, 32, 64),
    groups: Groups = 8,
    dims: Dims = 2,
    size: Count = 32,
) -> ProbBind:
    """Build it.

    Args:
        modalities: images and tables.
        heads: classifications and survivals, and pretexts: `contrast` binds, `own` is the surprise.
        channels: a level of an image's network, the last the features that Gaussians are made of.
        groups: the most groups of a norm.
        dims: dimensions of the images.
        size: features of a Gaussian.
    """
    need_image(modalities, "prob_bind")
    refuse_segmentation(heads, "prob_bind")
    return ProbBind(modalities, heads, Plan(dims, channels, groups), size)
