"""One patient: from de-identified copies to the scans of one study on one grid.

1. Series are recognised (`imaging.modality`); what is not wanted is put aside with the reason.
2. One study is chosen, that with most modalities, then most slices: scans of different days do not
   show the same anatomy. NIfTI files that name no study belong to the chosen one.
3. Of each modality the surest series is taken, then the one with most slices; if its volume cannot be made,
   the next.
4. The reference (first of `reference` that is there, else the first by name) gives the grid, the others are
   brought to it, all are cut to the same box, and written.
5. Who lacks what `require` asks for is not in the cohort.

At most two scans are in memory at a time, each of at most `MOST_VOXELS`.

What was done is the patient's *record*: plain data that goes into the manifest and the quality report.
"""

import hashlib
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import nifti1
from nibabel.affines import obliquity
from numpy.typing import NDArray

from imaging.dicom import read_header, text
from imaging.ingest import slices, space
from imaging.ingest.admit import MOST_VOXELS
from imaging.ingest.desk import Desk
from imaging.ingest.journal import CRASHED
from imaging.ingest.space import Box, Grid
from imaging.modality import classify
from imaging.reasons import Reason
from imaging.series import Stack, collect, read_volume
from imaging.volume import Volume
from protocol.errors import DicomError

BARS = 32
"""Of a histogram."""

NOT_ELIGIBLE = "not_eligible"
NO_MARGIN = (0, 0, 0)

Record = dict[str, Any]
Aside = Callable[[str, str], None]
"""Told of what is put aside: a word, and why."""


@dataclass(frozen=True)
class Scan:
    """What may become a volume; `rank` says which of a modality's scans is taken, the largest first."""

    name: str
    study: str
    rank: tuple[float, int, str]
    because: str
    load: Callable[[], Volume]

    @property
    def slices(self) -> int:
        """How many it has."""
        return self.rank[1]


@dataclass(frozen=True)
class Frame:
    """What all of a patient's scans are brought to: a grid, the box that is cut from it, the reference."""

    grid: Grid
    box: Box
    reference: str


def attempt(desk: Desk, patient: str) -> Record:
    """Build a patient; whatever their scans do to a library is their failure alone."""
    try:
        return build(desk, patient)
    except OSError:
        raise  # a disk that is full is nobody's failure
    except Exception as error:  # noqa: BLE001 - see above
        shutil.rmtree(desk.scans(patient), ignore_errors=True)
        return _none(f"{type(error).__name__} while the scans were brought to one grid")


def unbuilt(desk: Desk, patient: str) -> Record:
    """Return the record of a patient whose scans killed the process that built them."""
    shutil.rmtree(desk.scans(patient), ignore_errors=True)
    return _none("bringing the scans to one grid killed the process that did it")


def _none(why: str) -> Record:
    return {"scans": {}, "aside": [{"what": CRASHED, "why": why, "count": 1}]}


def build(desk: Desk, patient: str) -> Record:
    """Build one patient's scans anew, and return the record of how; without any, there is no folder."""
    put_aside = Counter[tuple[str, str]]()

    def aside(word: str, why: str) -> None:
        put_aside[word, why] += 1

    work = desk.work / patient
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    scans = list(_scans(desk, patient, aside))
    loaded = _write(desk, chosen(scans, aside), work, aside) if scans else {}
    lacking = [name for name in desk.method.settings.require if name not in loaded.get("volumes", ())]
    if loaded and lacking:
        aside(NOT_ELIGIBLE, f"without {' and '.join(lacking)}, which ingest.yaml requires")
        loaded = {}
        shutil.rmtree(work)
        work.mkdir()
    _replace(desk.scans(patient), work)
    reasons = [{"what": w, "why": why, "count": n} for (w, why), n in sorted(put_aside.items())]
    return {"scans": loaded, "aside": reasons}


def chosen(scans: Sequence[Scan], aside: Aside) -> dict[str, list[Scan]]:
    """Return name -> candidates of the chosen study, the best first."""
    studies: defaultdict[str, list[Scan]] = defaultdict(list)
    for scan in scans:
        studies[scan.study].append(scan)
    own = studies.pop("", [])
    best = max(studies, key=lambda study: (*_extent(studies[study]), study), default="")
    for study in studies.keys() - {best}:
        for scan in studies[study]:
            aside(scan.name, "of another study: scans of one patient are of one study")
    named: defaultdict[str, list[Scan]] = defaultdict(list)
    for scan in sorted([*studies.get(best, []), *own], key=lambda scan: scan.rank, reverse=True):
        named[scan.name].append(scan)
    return dict(sorted(named.items()))


def _extent(study: Sequence[Scan]) -> tuple[int, int]:
    return len({scan.name for scan in study}), sum(scan.slices for scan in study)


# -- What is there ---------------------------------------------------------------------------


def _scans(desk: Desk, patient: str, aside: Aside) -> Iterator[Scan]:
    folder = desk.clean(patient)
    for path in sorted(folder.glob("*.nii")):
        _, name, study, _ = path.name.split(".")
        yield Scan(name, study, (1.0, 0, path.name), "its file is called so", partial(_load, path))
    yield from _drawn(desk, folder)
    yield from _dicom(desk, folder, aside)


def _drawn(desk: Desk, folder: Path) -> Iterator[Scan]:
    spacing_mm, masks = desk.method.settings.slices_mm, desk.method.settings.masks
    if spacing_mm is None:
        return
    for name, study, paths in slices.stacks(folder):
        load = partial(slices.stacked, paths, spacing_mm, labels=name in masks)
        yield Scan(name, study, (1.0, len(paths), paths[0].name), "its folder is called so", load)


def _dicom(desk: Desk, folder: Path, aside: Aside) -> Iterator[Scan]:
    stacks = collect(sorted(folder.glob("*.dcm")), lambda _, error: aside(*_told(error)))
    counts = Counter[str]()
    axes: defaultdict[str, set[tuple[int, ...]]] = defaultdict(set)
    for stack in stacks:
        counts[stack.series] += len(stack.frames)
        axes[stack.series].add(tuple(np.rint(np.abs(stack.frames[0].normal) * 10).astype(int).tolist()))
    for stack in stacks:
        yield from _recognised(desk, stack, counts[stack.series], len(axes[stack.series]), aside)


def _recognised(desk: Desk, stack: Stack, slices: int, orientations: int, aside: Aside) -> Iterator[Scan]:
    header = read_header(stack.frames[0].path)
    found = classify(header, slices=slices, orientations=orientations, rules=desk.method.rules)
    if not desk.method.wants(found.name):
        aside(found.name, found.because[0])
        return
    if len(stack.frames) < desk.method.settings.least_slices:
        aside(NOT_ELIGIBLE, f"{found.name} of fewer slices than ingest.yaml wants")
        return
    first = stack.frames[0]
    if first.rows * first.columns * len(stack.frames) > MOST_VOXELS:
        aside(Reason.TOO_LARGE, f"a volume of more than {MOST_VOXELS // 2**20} million voxels")
        return
    rank = (found.confidence, len(stack.frames), first.instance)
    because = "; ".join(found.because)
    yield Scan(found.name, text(header, "StudyInstanceUID"), rank, because, partial(read_volume, stack))


def _load(path: Path) -> Volume:
    image = nifti1.load(path)
    return Volume(np.asarray(image.dataobj, np.float32), np.asarray(image.affine))


# -- What is made of it ----------------------------------------------------------------------


def _write(desk: Desk, named: dict[str, list[Scan]], work: Path, aside: Aside) -> Record:
    """Write one volume for each name; the reference first, for it decides where the others go."""
    settings, masks = desk.method.settings, {*desk.method.settings.masks}
    order = [name for name in settings.reference if name in named]
    images = [*dict.fromkeys([*order, *named])]
    first = next(_taken(named, [name for name in images if name not in masks], aside), None)
    if first is None:
        return {}
    name, scan, reference = first
    grid = space.grid_of(reference, settings.spacing_mm)
    labels = [name for name in named if name in masks]
    whole = space.resampled(reference, grid)
    frame = Frame(grid, _box(desk, whole, _taken(named, labels, aside)), name)
    records = {name: _put(work, name, scan, (reference, space.cropped(whole, frame.box)), ["reference"])}
    for other, scan, volume in _taken(named, [each for each in named if each != name], aside):
        steps, moved = _brought(desk, volume, whole, frame, labels=other in masks)
        records[other] = _put(work, other, scan, (volume, moved), steps)
    return {"reference": name, "box": _plain(frame.box), "volumes": records}


def _taken(
    named: dict[str, list[Scan]], names: Iterable[str], aside: Aside
) -> Iterator[tuple[str, Scan, Volume]]:
    """Yield the first scan of each name whose volume can be made, with its axes turned to the project's."""
    for name in names:
        for scan in named[name]:
            try:
                volume = space.canonical(scan.load())
            except DicomError as error:
                aside(*_told(error))
                continue
            yield name, scan, volume
            break


def _box(desk: Desk, whole: Volume, labels: Iterator[tuple[str, Scan, Volume]]) -> Box:
    """Return what is cut from the grid: all of it, or the reference's foreground and every label."""
    grid = space.grid_of(whole, None)
    if not desk.method.settings.crop:
        x, y, z = grid.shape
        return slice(0, x), slice(0, y), slice(0, z)
    margin = np.ceil(np.divide(desk.method.settings.margin_mm, whole.spacing_mm)).astype(int)
    found = space.box(whole.values, tuple(margin.tolist()))
    for _, _, mask in labels:
        there = space.resampled(mask, grid, labels=True).values
        if there.any():
            found = space.around(found, space.box(there, NO_MARGIN))
    return found


def _brought(
    desk: Desk, volume: Volume, reference: Volume, frame: Frame, *, labels: bool
) -> tuple[list[Any], Volume]:
    """Return what was done to a volume, and the volume after it."""
    motion, steps = None, list[Any]()
    if desk.method.settings.register and not labels:
        try:
            motion = space.registered(volume, reference)
            steps.append({"registered": [round(each, 4) for each in motion.GetParameters()]})
        except RuntimeError:
            steps.append("not registered: it has too little in common with the reference")
    if motion is not None or not frame.grid.is_of(volume):
        steps.append("resampled to the nearest voxel" if labels else "resampled linearly")
    return steps, space.cropped(space.resampled(volume, frame.grid, motion, labels=labels), frame.box)


def _put(work: Path, name: str, scan: Scan, volumes: tuple[Volume, Volume], steps: list[Any]) -> Record:
    """Write a volume, and return what is told of it: as it was scanned, and as it is now."""
    scanned, volume = volumes
    path = work / f"{name}.nii"
    volume.save(path)
    path.chmod(0o600)
    return {
        "because": scan.because,
        "confidence": scan.rank[0],
        "steps": steps,
        "scanned": {
            "spacing_mm": [round(mm, 3) for mm in scanned.spacing_mm],
            "shape": list(scanned.values.shape),
            "oblique_deg": round(float(np.degrees(obliquity(scanned.affine)).max()), 1),
        },
        "spacing_mm": [round(mm, 3) for mm in volume.spacing_mm],
        "shape": list(volume.values.shape),
        "histogram": _histogram(volume.values),
        "voxels": hashlib.sha256(scanned.values.tobytes()).hexdigest(),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def _histogram(values: NDArray[np.float32]) -> Record:
    """Count voxels, as text, between the darkest and the 99.9th percentile, in `BARS` equal parts."""
    low, high = float(values.min()), float(np.percentile(values, 99.9))
    least = 1e-3 * max(1.0, abs(low))  # a flat scan has a width too, that float32 can divide
    counts, _ = np.histogram(values, BARS, (low, max(high, low + least)))
    return {"low": round(low, 3), "high": round(high, 3), "counts": " ".join(map(str, counts))}


def _replace(target: Path, work: Path) -> None:
    """Put what was built in the place of what was there; a run that is killed in between builds it again."""
    shutil.rmtree(target, ignore_errors=True)
    if any(work.iterdir()):
        work.rename(target)
    else:
        work.rmdir()


def _told(error: DicomError) -> tuple[str, str]:
    return error.reason, str(error).partition(": ")[2]


def _plain(box: Box) -> list[list[int]]:
    return [[each.start, each.stop] for each in box]
