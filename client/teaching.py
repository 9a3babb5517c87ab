"""What a site is taught in a round: the global model's answers on all that each case has.

The teacher is a copy of the network as it stands when training starts, which is what the server sent;
it learns nothing and is forgotten with the round. It sees a case as the step does (mirrored, if it is),
with every modality that the case has, and the student what `modality_dropout` leaves. Under privacy its
answer on a case follows from that case and from what the server knew already.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from client.site import Site
from models.distillation import joined, taught, teachable
from models.objectives import Objective
from protocol.batch import Batch


@dataclass(frozen=True)
class Lesson:
    """The objectives of a round, and who teaches: nobody, where the strategy does not ask for it."""

    objectives: Mapping[str, Objective]
    teacher: nn.Module | None = None
    heads: tuple[str, ...] = ()

    def taught(self, batch: Batch, present: Tensor) -> Batch:
        """Return `batch` with targets `joined`: the teacher sees the modalities `present`, bool `(B, M)`."""
        if self.teacher is None:
            return batch
        with torch.no_grad():
            said = self.teacher(batch.seeing(present))
        answers = {head: joined(said[head], batch.targets[head]) for head in self.heads}
        return replace(batch, targets={**batch.targets, **answers})


def lesson(site: Site) -> Lesson:
    """Begin a round of `site`, whose network holds what the server sent."""
    teach, heads = site.local.teach, teachable(site.recipe.heads)
    if teach is None or not heads:
        return Lesson(site.objectives)
    objectives = {
        head: taught(site.objectives[head], site.recipe.heads[head], teach.weight, teach.temperature)
        for head in heads
    }
    return Lesson({**site.objectives, **objectives}, deepcopy(site.flat.model).eval(), heads)
