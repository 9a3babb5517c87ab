"""A patient's study as a model wants it: brought to one grid by the way that made its cohort.

    folder -> stacks (imaging.series) -> what each is (imaging.recognised), by headers without identifiers
           -> one scan of each modality that is wanted (imaging.ingest.scans)
           -> one grid (imaging.ingest.bring)

and back: what is found on that grid is brought to the voxels of a series as it was scanned, against the
motion by which it came.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from SimpleITK import Transform

from imaging.deidentify import deidentify
from imaging.dicom import read_header, text
from imaging.ingest import bring, space
from imaging.ingest.bring import Brought
from imaging.ingest.scans import chosen, dicom_scan
from imaging.ingest.settings import IngestSettings, Method
from imaging.ingest.space import Grid
from imaging.modality import Rules, shipped_rules
from imaging.pseudonyms import KEY_BYTES, Pseudonyms
from imaging.recognised import Series, recognised
from imaging.series import Refuse, collect, geometry
from imaging.volume import LPS_TO_RAS, Affine, Volume
from protocol.errors import DataError

MISSING = "the study has no series of it"


@dataclass(frozen=True)
class Study:
    """What there is of the modalities wanted, in their order.

    `reference`  gave the grid that `volumes` are on
    `series`     what was used, and `onto`, on whose voxels results are written
    `steps`      modality -> what was done to it
    `lacking`    modality -> why it is not used
    `stored`     where the voxels of `onto` lie, as they were scanned
    `motion`     from a point of the reference to that of `onto` which shows the same; None: itself
    """

    reference: str
    onto: str
    series: Mapping[str, Series]
    volumes: Mapping[str, Volume]
    steps: Mapping[str, Sequence[Any]]
    lacking: Mapping[str, str]
    affine: Affine
    stored: Grid
    motion: Transform | None

    def back(self, values: NDArray[np.float32], fill: float = 0.0) -> NDArray[np.float32]:
        """Return values of the volumes' grid on the voxels of `onto`, linearly; `fill` where none are."""
        motion = self.motion.GetInverse() if self.motion else None
        return space.resampled(Volume(values, self.affine), self.stored, motion, fill=fill).values


def as_scanned(wanted: Sequence[str], rules: Rules | None = None) -> Method:
    """Return the method that changes nothing but the grid, to that of the first modality that is there."""
    return Method(IngestSettings(reference=tuple(wanted), crop=False), rules or shipped_rules())


def read_study(
    folder: Path, wanted: Sequence[str], refuse: Refuse, *, method: Method | None = None, onto: str = ""
) -> Study:
    """Read the DICOM files under `folder`.

    Args:
        folder: one study of one patient; files that are no DICOM images are passed over.
        wanted: the model's modalities.
        refuse: told of each file that was not read.
        method: how its cohort was made; None: `as_scanned`.
        onto: the modality on whose voxels results are written; the reference if empty.

    Raises:
        DataError: none of the modalities is there, the folder holds several studies or patients, or a plug-in
            failed.
    """
    if not folder.is_dir():
        raise DataError("a study is a folder of DICOM files: this one is not there")
    method = _wanting(method or as_scanned(wanted), wanted)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    stacks = collect(paths, refuse, pictures_mm=method.settings.pictures_mm)
    known = list(recognised(stacks, method.rules, partial(_clean, Pseudonyms(os.urandom(KEY_BYTES)))))
    _require_one(known)
    reasons = dict[str, str]()

    def aside(name: str, word: str, why: str, path: Path | None = None) -> None:  # noqa: ARG001 - an `Aside`
        reasons.setdefault(name, f"{word}: {why}")

    named = chosen([scan for series in known for scan in dicom_scan(series, method, aside)], aside)
    there = bring.common(named, method, aside)
    if there is None:
        raise _nothing(wanted, reasons, known)
    needed = {name: named[name] for name in named if name in {*wanted, onto, there.scan.name}}
    found = {each.scan.name: each for each in bring.brought(needed, there)}
    lacking = {name: reasons.get(name, MISSING) for name in wanted if name not in found}
    if len(lacking) == len(wanted):
        raise _nothing(wanted, lacking, known)
    return _study(there.scan.name, onto or there.scan.name, found, wanted, lacking)


def _study(
    reference: str, onto: str, found: Mapping[str, Brought], wanted: Sequence[str], lacking: Mapping[str, str]
) -> Study:
    if onto not in found:
        why = lacking.get(onto, "the model has no such modality")
        raise DataError(f"reference '{onto}': {why}; choose another")
    used = [name for name in wanted if name in found]
    series = {name: each.scan.series for name, each in found.items() if each.scan.series}
    stack = series[onto].stack
    shape = stack.frames[0].columns, stack.frames[0].rows, len(stack.frames)
    return Study(
        reference=reference,
        onto=onto,
        series=series,
        volumes={name: found[name].volume for name in used},
        steps={name: found[name].steps for name in used},
        lacking=lacking,
        affine=found[reference].volume.affine,
        stored=Grid(shape, LPS_TO_RAS @ geometry(stack)),
        motion=found[onto].motion,
    )


def _wanting(method: Method, wanted: Sequence[str]) -> Method:
    """Return the method with the model's modalities among those that are taken."""
    taken = method.settings.modalities
    modalities = (*taken, *wanted) if taken else ()
    return replace(method, settings=replace(method.settings, modalities=modalities))


def _clean(pseudonyms: Pseudonyms, path: Path) -> Dataset:
    """Return a header as a cohort's copies have it: by another one a series might be taken for another."""
    return deidentify(read_header(path), pseudonyms)[0]


def _require_one(series: Sequence[Series]) -> None:
    for keyword, what in (("StudyInstanceUID", "studies"), ("PatientID", "patients")):
        if (count := len({text(each.header, keyword) for each in series})) > 1:
            raise DataError(f"the folder holds {count} {what}: give each study a folder of its own")


def _nothing(wanted: Sequence[str], reasons: Mapping[str, str], known: Sequence[Series]) -> DataError:
    there = ", ".join(sorted({series.modality.name for series in known})) or "nothing that can be read"
    why = "; ".join(f"{name}: {reasons.get(name, MISSING)}" for name in wanted)
    return DataError(f"none of the model's modalities is there ({why}); the study holds {there}")
