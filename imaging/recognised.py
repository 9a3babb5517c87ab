"""Stacks, and what each was taken for: what ingest and prediction both begin with."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from imaging.dicom import read_header
from imaging.modality import Modality, Rules, classify
from imaging.series import Stack
from imaging.volume import Vector

PARALLEL = 1 - 1e-3
"""The least cosine of two directions that are one."""


@dataclass(frozen=True)
class Series:
    """One scan's files, the header of one of them, and what it was taken for."""

    stack: Stack
    header: Dataset
    modality: Modality


def recognised(
    stacks: Sequence[Stack], rules: Rules | None = None, header_of: Callable[[Path], Dataset] = read_header
) -> Iterator[Series]:
    """Yield each stack with what it was taken for; how a series is sliced speaks for all of its stacks."""
    by_uid: defaultdict[str, list[Stack]] = defaultdict(list)
    for stack in stacks:
        by_uid[stack.series].append(stack)
    for series in by_uid.values():
        slices, turned = sum(len(stack.frames) for stack in series), _orientations(series)
        for stack in series:
            header = header_of(stack.frames[0].path)
            yield Series(stack, header, classify(header, slices=slices, orientations=turned, rules=rules))


def _orientations(stacks: Sequence[Stack]) -> int:
    """Count the directions, no two of them parallel, in which a series was sliced."""
    normals: list[Vector] = []
    for stack in stacks:
        normal = stack.frames[0].normal
        if all(abs(normal @ other) < PARALLEL for other in normals):
            normals.append(normal)
    return len(normals)
