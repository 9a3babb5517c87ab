"""NIfTI scans, a folder per patient.

    <site>/<patient>/<modality>.nii.gz    one scan; a modality that was not acquired has no file
    <site>/<patient>/<head>.nii.gz        label map on the same grid: 0, or 1 ... classes
    <site>/<modality>.csv                 patient, then the features of a table modality
    <site>/labels.csv                     patient, then `<head>` for a classification,
                                          `<head>_time` and `<head>_event` for a survival head

The root is a folder of sites (a simulation) or, where no site is named, one site's own
folder. Everything is brought to the closest canonical orientation (x to the right, y to the
front, z up), so that axial slices are slices along the last axis. All files of a patient
must lie on one grid: whoever exports them registers them first.

What has no file, is black, or has an empty cell is absent: a missing label map or label
leaves that case out of its head, an incomplete table row is no table. Columns are found by
name: `labels.csv` has one for every head, a table's are used in alphabetical order.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from nibabel import funcs, nifti1
from numpy.typing import NDArray
from torch import Tensor

from imaging.cases import SLICE, VOLUME, Found, Spacing, cut, resampled_shape, spacing_of, to_cases
from imaging.cohort import OWN, Cohort, assemble
from imaging.sheets import Row, number, read_sheet
from imaging.splits import split_patients
from imaging.transforms import fitted, resized_mask
from imaging.volume import SAME_MM
from protocol.batch import Batch
from protocol.errors import DataError
from protocol.recipe import Count, Head, Natural, Positive, Recipe

LABELS = "labels"


@dataclass(frozen=True)
class Patient:
    """One patient's volumes `(X, Y, Z)` on one grid, and table rows, by the names of their files."""

    volumes: Mapping[str, Tensor]
    shape: tuple[int, ...]
    spacing_mm: Spacing | None
    rows: Mapping[str, Row | None]
    where: str


def sites(root: Path, recipe: Recipe) -> list[str]:
    """Return the folders of `root` that hold patients.

    Raises `DataError` for a folder without patients beside others that have some, and where the
    recipe names a scan or a label map that nobody has. Names that begin with a dot are passed over.
    """
    found = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    folders = {path.name: _patients(path) for path in found}
    nobody = sorted(site for site, paths in folders.items() if not paths)
    if nobody and len(nobody) < len(folders):
        msg = f"site '{nobody[0]}' has no patient folders: fill it, or take the folder away"
        raise DataError(msg)
    everybody = [path for paths in folders.values() for path in paths]
    files = {file.name.partition(".")[0] for path in everybody for file in path.iterdir()}
    images = [name for name, modality in recipe.modalities.items() if modality.kind == "image"]
    maps = [name for name, head in recipe.heads.items() if head.kind == "segmentation"]
    missing = [name for name in images + maps if name not in files]
    if files and missing:
        msg = f"no site has a file '{missing[0]}.nii.gz': take it out of the recipe, or name the files so"
        raise DataError(msg)
    return sorted(folders.keys() - nobody)


def read(
    root: Path,
    recipe: Recipe,
    site: str | None,
    *,
    size: tuple[Count, ...],
    spacing_mm: tuple[Positive, Positive, Positive] | None = None,
    slices: Count | None = None,
    split_seed: Natural = 0,
) -> Cohort:
    """Read one site.

    Args:
        root: the folder of sites; the site's own where `site` is None.
        recipe: its modalities and heads name the files.
        site: the site's folder in `root`.
        size: pixels of a case, cut or padded about the centre: `[X, Y]` makes every axial
            slice a case, `[X, Y, Z]` every patient.
        spacing_mm: resample to voxels of this size; null: as the files are, which must agree.
        slices: at most so many cases a patient, evenly spread; null: all.
        split_seed: another number gives another split by patient.
    """
    name = site or OWN
    patients = list(read_patients(root, recipe, site, size=size, spacing_mm=spacing_mm, slices=slices))
    cases = {patient: each for patient, each, _ in patients}
    spacing = one_spacing(name, {each for _, _, each in patients if each}, size)
    return assemble(name, recipe, cases, split_patients(cases, split_seed), spacing)


def read_patients(
    root: Path,
    recipe: Recipe,
    site: str | None,
    *,
    size: tuple[int, ...],
    spacing_mm: Spacing | None,
    slices: int | None,
) -> Iterator[tuple[str, Batch, Spacing | None]]:
    """Yield each patient's name, cases and size of a voxel, in the order of the names; see `read`."""
    if len(size) not in (SLICE, VOLUME):
        msg = f"size expected [X, Y] for axial slices or [X, Y, Z] for volumes, found {len(size)} numbers"
        raise ValueError(msg)
    folder, name = (root / site, site) if site is not None else (root, OWN)
    if not folder.is_dir():
        msg = f"site '{name}' has no folder: create it, with a folder for each patient"
        raise DataError(msg)
    paths, sheets = _patients(folder), _sheets(folder, recipe)
    for place, path in enumerate(paths, 1):
        rows = {sheet: by_patient.get(path.name) for sheet, by_patient in sheets.items()}
        where = f"site '{name}', patient folder {place} of {len(paths)}"
        patient = _read_patient(path, recipe, rows, spacing_mm, where)
        yield path.name, _spread(_cases(patient, recipe, size), slices), patient.spacing_mm


def one_spacing(name: str, spacings: Collection[Spacing], size: tuple[int, ...]) -> Spacing | None:
    """Return the size of a case's voxels, the same for all of a site's; None where no scan tells."""
    if len(spacings) > 1:
        msg = f"site '{name}' has scans of {len(spacings)} voxel sizes: set data.spacing_mm to resample them"
        raise DataError(msg)
    return next(iter(spacings))[: len(size)] if spacings else None


# -- Files -----------------------------------------------------------------------------------


def _patients(folder: Path) -> list[Path]:
    """Return the patient folders of a site in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and any(path.glob("*.nii*")))


def _sheets(folder: Path, recipe: Recipe) -> dict[str, dict[str, Row]]:
    """Return the site's tables: name -> patient -> row."""
    columns: dict[str, tuple[str, ...]]
    columns = {name: ("patient",) for name, each in recipe.modalities.items() if each.kind == "table"}
    labels = (column for name, head in recipe.heads.items() for column in _columns(name, head))
    columns[LABELS] = ("patient", *labels)
    sheets: dict[str, dict[str, Row]] = {}
    for name, wanted in columns.items():
        path = folder / f"{name}.csv"
        sheets[name] = {row["patient"]: row for row in read_sheet(path, wanted)} if path.exists() else {}
    return sheets


def _columns(name: str, head: Head) -> tuple[str, ...]:
    survival = (f"{name}_time", f"{name}_event")
    return {"segmentation": (), "classification": (name,), "survival": survival}[head.kind]


def _read_patient(
    folder: Path, recipe: Recipe, rows: Mapping[str, Row | None], spacing_mm: Spacing | None, where: str
) -> Patient:
    volumes, affines = dict[str, Tensor](), list[NDArray[np.float64]]()
    for name in (*recipe.modalities, *recipe.heads):
        path = next((p for p in (folder / f"{name}.nii.gz", folder / f"{name}.nii") if p.exists()), None)
        if path is not None:
            volumes[name], affine = _load(path, f"{where}, '{name}'")
            affines.append(affine)
    if not volumes:
        return Patient(volumes, (1, 1, 1), None, rows, where)
    shapes = {tuple(volume.shape) for volume in volumes.values()}
    if len(shapes) > 1 or max(np.abs(affine - affines[0]).max() for affine in affines) > SAME_MM:
        msg = f"{where}: its scans and label maps lie on different grids; register and resample them to one"
        raise DataError(msg)
    here, shape = spacing_of(affines[0]), shapes.pop()
    there = spacing_mm or here
    return Patient(volumes, resampled_shape(shape, here, there), there, rows, where)


def _load(path: Path, where: str) -> tuple[Tensor, NDArray[np.float64]]:
    try:
        image = funcs.as_closest_canonical(nifti1.load(path))
        values = np.ascontiguousarray(image.dataobj, dtype=np.float32)  # turning leaves negative strides
    except Exception:  # noqa: BLE001 - whatever nibabel's parsers stumble over, the file is not readable
        # Without its cause, which would carry the path and with it the patient's name.
        msg = f"{where}: this NIfTI file cannot be read, it may be truncated; export it anew"
        raise DataError(msg) from None
    if values.ndim != VOLUME:
        msg = f"{where}: expected one volume, found {values.ndim} dimensions; split it into volumes"
        raise DataError(msg)
    if not np.isfinite(values).all():
        msg = f"{where}: holds NaN or infinite values; repair or remove it"
        raise DataError(msg)
    return torch.from_numpy(values), image.affine


# -- From a patient to cases -----------------------------------------------------------------


def _cases(patient: Patient, recipe: Recipe, size: tuple[int, ...]) -> Batch:
    """Return the patient's cases that have anything to see."""
    count = patient.shape[-1] if len(size) == SLICE else 1
    found = {
        name: _image(patient, name, size) if each.kind == "image" else _table(patient, name, each.features)
        for name, each in recipe.modalities.items()
    }
    known = {name: _TARGETS[head.kind](patient, name, head, size) for name, head in recipe.heads.items()}
    batch = Batch(
        {name: _every(values, count) for name, (values, _) in found.items()},
        torch.stack([_every(here, count) for _, here in found.values()], 1),
        {name: _every(values, count) for name, (values, _) in known.items()},
        {name: _every(here, count) for name, (_, here) in known.items()},
    )
    seen = batch.present.any(1)
    return batch.map(lambda x: x[seen])


def _every(values: Tensor, count: int) -> Tensor:
    """What is known once of a patient holds for all their cases."""
    return values.expand(count, *values.shape[1:])


def _spread(cases: Batch, most: int | None) -> Batch:
    if most is None or most >= len(cases):
        return cases
    rows = torch.linspace(0, len(cases) - 1, most).round().long()
    return cases.map(lambda x: x[rows])


def _image(patient: Patient, name: str, size: tuple[int, ...]) -> Found:
    if name not in patient.volumes:
        return torch.zeros(1, 1, *size), torch.zeros(1, dtype=torch.bool)
    return to_cases(patient.volumes[name], patient.shape, size)


def _table(patient: Patient, name: str, features: int) -> Found:
    """Return the row's features in the alphabetical order of their columns."""
    row = patient.rows[name] or {}
    cells = [row[column] for column in sorted(row) if column != "patient"]
    if not all(cells) or not cells:
        return torch.zeros(1, features), torch.zeros(1, dtype=torch.bool)
    if len(cells) != features:
        msg = f"'{name}.csv' has {len(cells)} where the recipe says modalities.{name}.features: {features}"
        raise DataError(f"{patient.where}, {msg}; make them agree")
    values = [number(cell, f"{patient.where}, '{name}.csv'") for cell in cells]
    return torch.tensor([values]), torch.ones(1, dtype=torch.bool)


def _segmentation(patient: Patient, name: str, head: Head, size: tuple[int, ...]) -> Found:
    if name not in patient.volumes:
        return torch.zeros(1, head.classes, *size), torch.zeros(1, dtype=torch.bool)
    labels = patient.volumes[name]
    values = torch.arange(1, head.classes + 1)
    if not torch.isin(labels, torch.arange(head.classes + 1.0)).all():
        msg = f"{patient.where}, '{name}': a label is out of range, expected 0 to {head.classes}; correct it"
        raise DataError(msg)
    masks = (labels == values.view(-1, 1, 1, 1)).float()[None]  # (1, classes, X, Y, Z)
    return fitted(cut(resized_mask(masks, patient.shape), size), size), torch.ones(1, dtype=torch.bool)


def _classification(patient: Patient, name: str, head: Head, size: tuple[int, ...]) -> Found:
    del head, size
    value = _cell(patient, name)
    return torch.tensor([int(value or 0)]), torch.tensor([value is not None])


def _survival(patient: Patient, name: str, head: Head, size: tuple[int, ...]) -> Found:
    del size
    time, event = (_cell(patient, column) for column in _columns(name, head))
    return torch.tensor([[time or 0.0, event or 0.0]]), torch.tensor([time is not None and event is not None])


def _cell(patient: Patient, column: str) -> float | None:
    text = (patient.rows[LABELS] or {}).get(column, "")
    return number(text, f"{patient.where}, '{LABELS}.csv', {column}") if text else None


_TARGETS = {"segmentation": _segmentation, "classification": _classification, "survival": _survival}
