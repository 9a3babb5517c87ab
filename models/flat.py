"""A model's parameters as one flat vector a group.

    model, private  ->  layout: who owns which parameter, and where it lies
                        vectors[g]: flat float32 (size,), every parameter of g is a view into it
                        grads[g]:   the same for gradients, allocated when training starts
                        initial:    the private group as the recipe's seed built it

So loading what the server sent is one copy a group, an update is one subtraction, an
optimiser takes one tensor a group, and the model itself never notices. `carry` takes what one model
has learned over to another that shares parameters with it.

Personalisation moves parameters to the group `private`, which never travels: `norm`
(Li et al., FedBN, ICLR 2021), `head` (Arivazhagan et al., FedPer, 2019), or `all`
(one model per site, the baseline).
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from models.base import MultiModal
from protocol.groups import PRIVATE, Layout, layout_of
from protocol.update import Vectors


class Flat:
    """A model whose parameters are views into group vectors; hold the model through this."""

    def __init__(self, model: MultiModal, private: str = "") -> None:
        self.model = model
        named = dict(model.named_parameters())
        triples = [(name, tuple(p.shape), _group(model, name, private)) for name, p in named.items()]
        self.layout: Layout = layout_of(triples)
        device = next(model.parameters()).device
        sizes = {g: self.layout.size(g) for g in self.layout.groups}
        self.vectors: Vectors = {g: torch.empty(size, device=device) for g, size in sizes.items()}
        self._members = {g: [named[s.name] for s in slots] for g, slots in self.layout.groups.items()}
        self.grads: Vectors = {}
        self._grad_views: dict[str, list[Tensor]] = {}
        self._trainable: frozenset[str] | None = None
        self._adopt()
        self.initial: Vectors = {g: self.vectors[g].clone() for g in self.vectors if g == PRIVATE}

    def parameters(self, groups: Collection[str]) -> list[nn.Parameter]:
        """The model's own parameters in `groups`, in layout order."""
        return [p for g in self.layout.groups if g in groups for p in self._members[g]]

    def train_only(self, groups: Collection[str]) -> None:
        """Freeze every group but these; a frozen parameter has no gradient at all."""
        wanted = frozenset(groups)
        if wanted == self._trainable:
            return
        if not self.grads:  # here, so that a server that only stores and exports never pays for them
            self.grads = {g: torch.zeros_like(vector) for g, vector in self.vectors.items()}
            self._grad_views = {g: self._views(self.grads[g], g) for g in self.layout.groups}
        for group, members in self._members.items():
            for parameter, view in zip(members, self._grad_views[group], strict=True):
                parameter.requires_grad_(group in wanted)
                parameter.grad = view if group in wanted else None
        self._trainable = wanted

    def load(self, vectors: Vectors) -> None:
        """Copy `vectors` in; a group that is not given becomes zero.

        What a site does not own it does not see, also when one process plays many sites.
        """
        for group, vector in self.vectors.items():
            if group in vectors:
                vector.copy_(vectors[group])
            else:
                vector.zero_()

    def _views(self, vector: Tensor, group: str) -> list[Tensor]:
        return [vector[s.offset : s.offset + s.size].view(s.shape) for s in self.layout.groups[group]]

    @torch.no_grad()
    def _adopt(self) -> None:
        for group, members in self._members.items():
            for parameter, view in zip(members, self._views(self.vectors[group], group), strict=True):
                view.copy_(parameter)
                parameter.data = view


def carry(vectors: Vectors, layout: Layout, onto: Flat) -> None:
    """Copy into `onto` every parameter that it has in common with `vectors`, laid out as `layout` says.

    In common: of one name and shape in one group. The others keep the values they have.
    """
    for group in vectors.keys() & onto.vectors.keys():
        known = {(slot.name, slot.shape): slot for slot in layout.groups[group]}
        for slot in onto.layout.groups[group]:
            if (before := known.get((slot.name, slot.shape))) is not None:
                part = vectors[group][before.offset : before.offset + before.size]
                onto.vectors[group][slot.offset : slot.offset + slot.size].copy_(part)


def _group(model: MultiModal, name: str, private: str) -> str:
    stays = private == "all" or (private != "" and model.kind_of(name) == private)
    return PRIVATE if stays else model.group_of(name)
