"""One patient: from de-identified copies to the scans of one study on one grid.

1. Series are recognised (`imaging.modality`); what is not wanted is put aside with the reason.
2. One study is chosen, and of each modality one scan (`imaging.ingest.scans`).
3. They are brought to one grid (`imaging.ingest.bring`), and written.
4. Who lacks what `require` asks for is not in the cohort.

At most three scans are in memory at a time, each of at most `MOST_VOXELS`.

What was done is the patient's *record*: plain data that goes into the manifest and the quality report.
"""

import hashlib
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import nifti1
from nibabel.affines import obliquity
from numpy.typing import NDArray

from imaging.dicom import text
from imaging.ingest import bring, outlines, slices
from imaging.ingest.bring import Brought
from imaging.ingest.desk import Desk
from imaging.ingest.journal import CRASHED
from imaging.ingest.scans import NOT_ELIGIBLE, Aside, Scan, chosen, dicom_scan, told
from imaging.ingest.settings import Method
from imaging.ingest.space import Box
from imaging.recognised import Series, recognised
from imaging.series import collect
from imaging.volume import Volume
from protocol.errors import DicomError

BARS = 32
"""Of a histogram."""

Record = dict[str, Any]


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
    return {"scans": {}, "studies": 0, "aside": [{"what": CRASHED, "why": why, "count": 1, "which": []}]}


def build(desk: Desk, patient: str) -> Record:
    """Build one patient's scans anew, and return the record of how; without any, there is no folder."""
    put_aside = defaultdict[tuple[str, str], list[Path | None]](list)

    def aside(name: str, word: str, why: str, path: Path | None = None) -> None:  # noqa: ARG001 - an `Aside`
        put_aside[word, why].append(path)

    work = desk.work / patient
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    series = list(_series(desk.clean(patient), desk.method, aside))
    scans = list(_scans(desk, patient, series, aside))
    loaded = _write(desk, chosen(scans, aside), work, aside) if scans else {}
    lacking = [name for name in desk.method.settings.require if name not in loaded.get("volumes", ())]
    if loaded and lacking:
        aside("", NOT_ELIGIBLE, f"without {' and '.join(lacking)}, which ingest.yaml requires")
        loaded = {}
        shutil.rmtree(work)
        work.mkdir()
    _replace(desk.scans(patient), work)
    reasons = [
        {"what": what, "why": why, "count": len(paths), "which": sorted({_digest(p) for p in paths if p})}
        for (what, why), paths in sorted(put_aside.items())
    ]
    return {"scans": loaded, "studies": _studies(series, scans), "aside": reasons}


def _digest(copy: Path) -> str:
    """Return what stands for the path of the file that this is the copy of."""
    return copy.name.partition(".")[0]


def _studies(series: Iterable[Series], scans: Iterable[Scan]) -> int:
    """Count studies, also those of which nothing is used; what names none is of one."""
    named = {text(each.header, "StudyInstanceUID") for each in series} | {scan.study for scan in scans}
    return max(1, len(named - {""}))


# -- What is there ---------------------------------------------------------------------------


def _series(folder: Path, method: Method, aside: Aside) -> Iterator[Series]:
    images = [path for path in sorted(folder.glob("*.dcm")) if not path.name.endswith(outlines.SUFFIX)]
    stacks = collect(
        images,
        lambda path, error: aside("", *told(error), path),
        pictures_mm=method.settings.pictures_mm,
    )
    return recognised(stacks, method.rules)


def _scans(desk: Desk, patient: str, series: Sequence[Series], aside: Aside) -> Iterator[Scan]:
    folder = desk.clean(patient)
    for path in sorted(folder.glob("*.nii")):
        _, name, study, _ = path.name.split(".")
        yield Scan(name, study, (1.0, 0, path.name), "its file is called so", partial(_load, path))
    yield from _drawn(desk, folder)
    for each in series:
        yield from dicom_scan(each, desk.method, aside)
    yield from outlines.drawn(desk, sorted(folder.glob(f"*{outlines.SUFFIX}")), series, aside)


def _drawn(desk: Desk, folder: Path) -> Iterator[Scan]:
    spacing_mm, masks = desk.method.settings.slices_mm, desk.method.settings.masks
    if spacing_mm is None:
        return
    for name, study, paths in slices.stacks(folder):
        load = partial(slices.stacked, paths, spacing_mm, labels=name in masks)
        yield Scan(name, study, (1.0, len(paths), paths[0].name), "its folder is called so", load)


def _load(path: Path) -> Volume:
    image = nifti1.load(path)
    return Volume(np.asarray(image.dataobj, np.float32), np.asarray(image.affine))


# -- What is made of it ----------------------------------------------------------------------


def _write(desk: Desk, named: dict[str, list[Scan]], work: Path, aside: Aside) -> Record:
    """Write one volume for each name."""
    try:
        there = bring.common(named, desk.method, aside)
    except DicomError as error:
        aside("", *told(error))
        return {}
    if there is None:
        return {}
    records = {each.scan.name: _put(work, each) for each in bring.brought(named, there)}
    return {"reference": there.scan.name, "box": _plain(there.box), "volumes": records}


def _put(work: Path, brought: Brought) -> Record:
    """Write a volume, and return what is told of it: as it was scanned, and as it is now."""
    scan, scanned, volume = brought.scan, brought.scanned, brought.volume
    path = work / f"{scan.name}.nii"
    volume.save(path)
    path.chmod(0o600)
    return {
        "because": scan.because,
        "confidence": scan.rank[0],
        "steps": list(brought.steps),
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


def _plain(box: Box) -> list[list[int]]:
    return [[each.start, each.stop] for each in box]
