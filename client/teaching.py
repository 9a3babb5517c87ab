"""What a site is taught in a round: the global model's answers on all that each case has.

A strategy may ask for it (`strategies.modality_distillation`), and a model's pretext (`models.zoo.mm_dino`).

The teacher is a copy of the network as it stands when training starts, which is what the server sent;
it learns nothing and is forgotten with the round. It sees a case as the step does (mirrored, if it is),
with every modality that the case has, and the student what `modality_dropout` leaves. Under privacy its
answer on a case follows from that case and from what the server knew already.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from client.site import Site
from models.base import MultiModal
from models.distillation import joined, taught, teachable
from models.objectives import Objective
from protocol.batch import Batch


@dataclass(frozen=True)
class Lesson:
    """The objectives of a round, and who teaches: nobody, where neither strategy nor model asks for it.

    `heads` are those whose targets are `joined`; a pretext's target is what the teacher tells.
    """

    objectives: Mapping[str, Objective]
    teacher: MultiModal | None = None
    heads: tuple[str, ...] = ()

    def taught(self, batch: Batch, present: Tensor) -> Batch:
        """Return `batch` with what is taught: the teacher sees the modalities `present`, bool `(B, M)`."""
        if self.teacher is None:
            return batch
        whole = batch.seeing(present)
        with torch.no_grad():
            said = self.teacher(whole) if self.heads else {}
            told = self.teacher.tell(whole)
        answers = {head: joined(said[head], batch.targets[head]) for head in self.heads}
        return replace(batch, targets={**batch.targets, **answers, **told})


def lesson(site: Site) -> Lesson:
    """Begin a round of `site`, whose network holds what the server sent."""
    model, teach, heads = site.flat.model, site.local.teach, site.recipe.heads
    learned: dict[str, Objective] = {}
    if teach is not None:
        learned = {
            head: taught(site.objectives[head], heads[head], teach.weight, teach.temperature)
            for head in teachable(heads)
        }
    if not learned and not model.told:
        return Lesson(site.objectives)
    return Lesson({**site.objectives, **learned}, deepcopy(model).eval(), tuple(learned))
