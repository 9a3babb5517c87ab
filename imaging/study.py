"""A patient's study as a model wants it: one scan a modality, all on one grid.

    folder -> stacks (imaging.series) -> the surest series of each modality wanted (imaging.modality)
           -> volumes on the grid of the `reference`, the first modality that is there

Whoever trains registers scans first; here the scanner's own coordinates must do. They hold within
a frame of reference (PS3.3 C.7.4.1), so a series of another one is not used, and said to be lacking.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from imaging.dicom import read_header, text
from imaging.modality import Modality, Rules, classify
from imaging.reasons import Reason
from imaging.series import Refuse, Stack, collect, read_volume
from imaging.volume import Vector, Volume, resampled
from protocol.errors import DataError, DicomError

PARALLEL = 1 - 1e-3
"""The least cosine of two directions that are one."""
MISSING = "the study has no series of it"
ELSEWHERE = "lies in another frame of reference: register it to the others"


@dataclass(frozen=True)
class Series:
    """One scan's files, the header of one of them, and what it was taken for."""

    stack: Stack
    header: Dataset
    modality: Modality


@dataclass(frozen=True)
class Study:
    """What there is of the modalities wanted, in their order.

    `volumes` are on one grid, that of the series `reference` as it was scanned; `lacking`: modality ->
    why it is not used.
    """

    reference: str
    series: Mapping[str, Series]
    volumes: Mapping[str, Volume]
    lacking: Mapping[str, str]


def read_study(
    folder: Path, wanted: Sequence[str], refuse: Refuse, *, reference: str = "", rules: Rules | None = None
) -> Study:
    """Read the DICOM files under `folder`.

    Args:
        folder: one study of one patient; files that are no DICOM images are passed over.
        wanted: modalities, those that come first being preferred as reference.
        refuse: told of each file that was not read.
        reference: the modality on whose grid the others are brought; the first that is there if empty.
        rules: of modalities, the shipped ones if None.

    Raises:
        DataError: none of the modalities is there, or the folder holds several studies or patients.
    """
    if not folder.is_dir():
        raise DataError("a study is a folder of DICOM files: this one is not there")
    stacks = collect(sorted(path for path in folder.rglob("*") if path.is_file()), refuse)
    known = list(_classified(stacks, rules))
    _require_one(known)
    read, lacking = dict[str, tuple[Series, Volume]](), dict[str, str]()
    for name in wanted:
        candidates = [series for series in known if series.modality.name == name]
        try:
            read[name] = _surest(candidates)
        except DicomError as error:
            lacking[name] = str(error) if candidates else MISSING
    chosen = _reference(reference, read, lacking, known)
    return _on_one_grid(chosen, read, lacking)


def _classified(stacks: Sequence[Stack], rules: Rules | None) -> Iterator[Series]:
    by_uid: defaultdict[str, list[Stack]] = defaultdict(list)
    for stack in stacks:
        by_uid[stack.series].append(stack)
    for series in by_uid.values():
        slices, turned = sum(len(stack.frames) for stack in series), _orientations(series)
        for stack in series:
            header = read_header(stack.frames[0].path)
            yield Series(stack, header, classify(header, slices=slices, orientations=turned, rules=rules))


def _orientations(stacks: Sequence[Stack]) -> int:
    """Count the directions, no two of them parallel, in which a series was sliced."""
    normals: list[Vector] = []
    for stack in stacks:
        normal = stack.frames[0].normal
        if all(abs(normal @ other) < PARALLEL for other in normals):
            normals.append(normal)
    return len(normals)


def _require_one(series: Sequence[Series]) -> None:
    for keyword, what in (("StudyInstanceUID", "studies"), ("PatientID", "patients")):
        if (count := len({text(each.header, keyword) for each in series})) > 1:
            raise DataError(f"the folder holds {count} {what}: give each study a folder of its own")


def _surest(candidates: Sequence[Series]) -> tuple[Series, Volume]:
    """Return the surest series that makes a volume, of equally sure ones that with most slices.

    Raises `DicomError`: that of the surest one if none makes a volume.
    """
    failures = [DicomError(Reason.NO_SERIES, MISSING)]
    for series in sorted(candidates, key=_rank):
        try:
            return series, read_volume(series.stack)
        except DicomError as error:
            failures.append(error)
    raise failures[:2][-1]


def _rank(series: Series) -> tuple[float, int, str]:
    return -series.modality.confidence, -len(series.stack.frames), series.stack.series


def _reference(
    asked: str, read: Mapping[str, object], lacking: Mapping[str, str], known: Sequence[Series]
) -> str:
    if asked and asked not in read:
        why = lacking.get(asked, "the model has no such modality")
        raise DataError(f"reference '{asked}': {why}; choose another")
    if not read:
        there = ", ".join(sorted({series.modality.name for series in known})) or "nothing that can be read"
        why = "; ".join(f"{name}: {reason}" for name, reason in lacking.items())
        raise DataError(f"none of the model's modalities is there ({why}); the study holds {there}")
    return asked or next(iter(read))


def _on_one_grid(
    reference: str, read: Mapping[str, tuple[Series, Volume]], lacking: Mapping[str, str]
) -> Study:
    series, grid = read[reference]
    frame = text(series.header, "FrameOfReferenceUID")
    near = {n: each for n, each in read.items() if text(each[0].header, "FrameOfReferenceUID") == frame}
    return Study(
        reference,
        {name: series for name, (series, _) in near.items()},
        {name: resampled(volume, grid.affine, grid.values.shape) for name, (_, volume) in near.items()},
        {**lacking, **dict.fromkeys(read.keys() - near.keys(), ELSEWHERE)},
    )
