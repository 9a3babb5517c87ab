"""Which parameter belongs to whom.

Every parameter belongs to one *group*, named by what a site must have to train it:

    shared             everybody
    modality:flair     sites that hold FLAIR
    head:tumour        sites that hold the label `tumour`
    private            the site alone; never travels

A group travels as one flat float32 vector. The `Layout` says where each parameter lies
in its group's vector, so that a model's parameters can be *views* into these vectors:
loading a group is one copy, an update is one subtraction, and strategies, privacy and
admission see a handful of vectors instead of hundreds of tensors.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SHARED = "shared"
PRIVATE = "private"


def modality_group(modality: str) -> str:
    """Name of the group that only owners of `modality` train."""
    return f"modality:{modality}"


def head_group(head: str) -> str:
    """Name of the group that only owners of the label `head` train."""
    return f"head:{head}"


def kind_of(group: str) -> str:
    """Return `shared`, `modality`, `head` or `private`."""
    return group.partition(":")[0]


ANCHORS = "anchors"
"""Name of a submodule whose group one site teaches, and all others read."""


def taught_by(modality: str) -> str:
    """Name of a submodule of a group that all have, which owners of `modality` teach and all others read."""
    return f"taught_by_{modality}"


@dataclass(frozen=True)
class Slot:
    """Where one parameter lies in its group's vector (offset in elements)."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Groups in order, each a tuple of slots that fill its vector without gaps."""

    groups: Mapping[str, tuple[Slot, ...]]

    def size(self, group: str) -> int:
        """Elements in the group's vector."""
        last = self.groups[group][-1]
        return last.offset + last.size

    def digest(self) -> str:
        """SHA-256 over names, shapes and offsets: two equal digests mean one layout."""
        plain = {g: [[s.name, s.shape, s.offset] for s in slots] for g, slots in self.groups.items()}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def layout_of(parameters: Iterable[tuple[str, tuple[int, ...], str]]) -> Layout:
    """Lay out `(name, shape, group)` triples: groups by name, parameters in given order."""
    slots: dict[str, list[Slot]] = {}
    for name, shape, group in parameters:
        before = slots.setdefault(group, [])
        offset = before[-1].offset + before[-1].size if before else 0
        before.append(Slot(name, tuple(shape), offset))
    return Layout({group: tuple(slots[group]) for group in sorted(slots)})
