"""What a patient has, and what of it is taken.

Candidates are DICOM series that were recognised and are wanted, NIfTI files, and stacks of slices. One study
is chosen, that with most modalities, then most slices: scans of different days do not show the same anatomy.
What names no study belongs to the chosen one. Of each modality the surest scan is taken, then the one with
most slices; if its volume cannot be made, the next.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from imaging.dicom import text
from imaging.ingest.settings import Method
from imaging.reasons import Reason
from imaging.recognised import Series
from imaging.series import Stack, read_volume
from imaging.volume import Volume, canonical, straightened
from protocol.errors import DicomError

MOST_VOXELS = 2**28
"""Of one volume: 1 GiB as float32."""
NOT_ELIGIBLE = "not_eligible"


class Aside(Protocol):
    """Told of what is put aside: the scan's name, a word, why, and a file of it where one is known."""

    def __call__(self, name: str, word: str, why: str, path: Path | None = None) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Scan:
    """What may become a volume; `rank` says which of a modality's scans is taken, the largest first.

    `series` is the DICOM series that it is, or, of a label map, that it was drawn on; None where no header
    says anything.
    """

    name: str
    study: str
    rank: tuple[float, int, str]
    because: str
    load: Callable[[], Volume]
    series: Series | None = None

    @property
    def slices(self) -> int:
        """How many it has."""
        return self.rank[1]

    @property
    def path(self) -> Path | None:
        """A file of its series; None where it has none."""
        return self.series.stack.frames[0].path if self.series else None

    @property
    def frame(self) -> str:
        """Frame of reference in which it lies; empty where nothing says."""
        return text(self.series.header, "FrameOfReferenceUID") if self.series else ""

    @property
    def flat(self) -> bool:
        """Tell a picture without a place in the patient (imaging.projections)."""
        return self.series is not None and self.series.stack.frames[0].flat


def dicom_scan(series: Series, method: Method, aside: Aside) -> Iterator[Scan]:
    """Yield a series as a scan, unless the method does not want it."""
    found, stack = series.modality, series.stack
    first, slices = stack.frames[0], len(stack.frames)
    if not method.wants(found.name):
        aside(found.name, found.name, found.because[0], first.path)
    elif slices < method.settings.least_slices:
        aside(found.name, NOT_ELIGIBLE, f"{found.name} of fewer slices than ingest.yaml wants", first.path)
    elif is_too_large(stack):
        why = f"a volume of more than {MOST_VOXELS // 2**20} million voxels"
        aside(found.name, Reason.TOO_LARGE, why, first.path)
    else:
        study, rank = text(series.header, "StudyInstanceUID"), (found.confidence, slices, first.instance)
        load = partial(read_volume, stack)
        yield Scan(found.name, study, rank, "; ".join(found.because), load, series)


def is_too_large(stack: Stack) -> bool:
    """Tell whether a stack has more voxels than are taken."""
    first = stack.frames[0]
    return first.rows * first.columns * len(stack.frames) > MOST_VOXELS


def chosen(scans: Sequence[Scan], aside: Aside) -> dict[str, list[Scan]]:
    """Return name -> candidates of the chosen study, the best first."""
    studies: defaultdict[str, list[Scan]] = defaultdict(list)
    for scan in scans:
        studies[scan.study].append(scan)
    own = studies.pop("", [])
    best = max(studies, key=lambda study: (*_extent(studies[study]), study), default="")
    for study in studies.keys() - {best}:
        for scan in studies[study]:
            why = "of another study: scans of one patient are of one study"
            aside(scan.name, scan.name, why, scan.path)
    named: defaultdict[str, list[Scan]] = defaultdict(list)
    for scan in sorted([*studies.get(best, []), *own], key=lambda scan: scan.rank, reverse=True):
        named[scan.name].append(scan)
    return dict(sorted(named.items()))


def _extent(study: Sequence[Scan]) -> tuple[int, int]:
    return len({scan.name for scan in study}), sum(scan.slices for scan in study)


def taken(
    named: Mapping[str, Sequence[Scan]], names: Iterable[str], aside: Aside
) -> Iterator[tuple[Scan, Volume]]:
    """Yield the first scan of each name whose volume can be made, straight, its axes the project's."""
    for name in names:
        for scan in named[name]:
            try:
                volume = canonical(straightened(scan.load()))
            except DicomError as error:
                aside(name, *told(error), scan.path)
                continue
            yield scan, volume
            break


def told(error: DicomError) -> tuple[str, str]:
    """Return an error's word, and what it says."""
    return error.reason, str(error).partition(": ")[2]
