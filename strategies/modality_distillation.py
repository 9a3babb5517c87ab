"""Distillation over modalities: who sees less is taught by who sees all.

Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015; from all modalities to some
of them: Hu et al.: Knowledge Distillation from Multi-modal to Mono-modal Segmentation Networks,
MICCAI 2020.

At a site, a case x that has the modalities S is seen twice in a step:

    teacher   the global model as it came, on all of S          p = softmax(z / T), fixed for the round
    student   the site's model, on what `modality_dropout` leaves of S                q likewise
    loss      objective + weight * T^2 KL(p | q)                the mean over a head's voxels and channels

T^2 keeps the term's gradient of one size whatever T is. At the server this is FedAvg by owner, and nothing
else travels: hospitals that hold everything teach the parameters that all share to do with less, and
hospitals that hold less start from these.
"""

from protocol.recipe import Positive
from strategies.base import Local, Strategy, Teach, initial
from strategies.fedavg import average


def modality_distillation(*, weight: Positive = 1.0, temperature: Positive = 2.0) -> Strategy:
    """FedAvg whose sites also learn, with `weight`, what the global model says of all modalities."""
    return Strategy(initial, average, local=Local(teach=Teach(weight, temperature)))
