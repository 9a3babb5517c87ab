"""Folders of colour slices: Buda et al.'s lower-grade glioma set, and what is saved like it.

    <root>/<patient>/<patient>_<n>.tif         square uint8 RGB: t1, flair, t1c
    <root>/<patient>/<patient>_<n>_mask.tif    {0, 255}, the FLAIR abnormality
    <root>/patients.csv                        patient, site, available     (optional)
    <root>/data.csv                            clinical table               (optional)

Buda, Saha, Mazurowski, "Association of genomic subtypes of lower-grade gliomas with shape
features automatically extracted by a deep learning algorithm", Computers in Biology and
Medicine 2019. Where a sequence was never acquired, the set repeats FLAIR in its channel: a
model that trusts such a channel learns from data that do not exist. Absent is therefore,
slice by slice,

    a channel that equals FLAIR in every pixel,
    a black channel,

and `patients.csv`, where there is one, must say the same or reading stops.

The site is the second part of the patient's name (`TCGA_CS_...`) unless `patients.csv`
says. A case is a slice, or a patient's slices as one volume; a patient's table and class hold for
all their slices.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from imaging.cohort import OWN, Cohort, assemble, concatenate
from imaging.sheets import Row, read_sheet
from imaging.sources import clinical
from imaging.splits import split_patients
from imaging.transforms import fitted, normalised, resized, resized_mask
from protocol.batch import Batch
from protocol.errors import DataError
from protocol.recipe import Count, Natural, Positive, Recipe

CHANNELS = ("t1", "flair", "t1c")
FLAIR = CHANNELS.index("flair")
AVAILABLE = {
    "all": (True, True, True),
    "FLAIR_only": (False, True, False),
    "no_post": (True, True, False),
    "no_pre": (False, True, True),
}
"""A word of `patients.csv` -> which of CHANNELS were acquired."""

TABLE = 2
"""Axes of a table's values."""

NAME = re.compile(r"TCGA_(?P<site>[A-Z0-9]+)_[A-Z0-9]+")
SLICE = re.compile(r"_(?P<number>\d+)\.tif$")

Pixels = NDArray[np.uint8]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Folder:
    """One patient's folder, and what the tables know of the patient."""

    path: Path
    site: str
    available: tuple[bool, ...] | None
    row: Row | None
    where: str


def sites(root: Path, recipe: Recipe) -> list[str]:
    """Return the institutions that have a patient in `root`."""
    _supported(recipe)
    return sorted({folder.site for folder in _folders(root)})


def read(
    root: Path,
    recipe: Recipe,
    site: str | None,
    *,
    size: Count = 64,
    slices: Count | None = None,
    depth: Count | None = None,
    field_mm: Positive | None = None,
    split_seed: Natural = 0,
) -> Cohort:
    """Read one institution.

    Args:
        root: the folder described above.
        recipe: its images are among CHANNELS, with at most one table; segmentation heads (one
            channel) learn the mask, classification heads are named as in `clinical.LABELS`.
        site: the institution; None: everybody in `root`.
        size: side in pixels of the square that slices are resized to.
        slices: at most so many slices a patient, evenly spread; null: all.
        depth: a case is a patient, whose slices are a volume of so many, cut or padded about its middle
            (`stacked`); null: every slice is a case.
        field_mm: side of the field of view; null: unknown, and no distance is measured. Nor is one in a
            volume, whose slices are as far apart as nobody says.
        split_seed: another number gives another split by patient.
    """
    _supported(recipe)
    everybody, parts = _folders(root), list[Cohort]()
    spacing = None if field_mm is None or depth else (field_mm / size, field_mm / size)
    for each in sites(root, recipe) if site is None else [site]:
        here = [folder for folder in everybody if folder.site == each]
        patients = {folder.path.name: _cases(folder, recipe, size, slices, depth) for folder in here}
        parts.append(assemble(each, recipe, patients, split_patients(patients, split_seed), spacing))
    return parts[0] if len(parts) == 1 else concatenate(OWN, parts)


def stacked(slices: Batch, depth: int) -> Batch:
    """Return a patient's slices as one case: images `(N, C, H, W)` become `(1, C, H, W, depth)`.

    A modality is there that any slice has; where a slice lacks it, and beyond the first and the last, stands
    the scan's darkest value. The volume has an outline if every slice has one.
    """
    images = {
        name: _darkened(values, here)
        for (name, values), here in zip(slices.inputs.items(), slices.present.unbind(1), strict=True)
    }
    return Batch(
        {name: _volume(values, depth, float(values.min())) for name, values in images.items()},
        slices.present.any(0, keepdim=True),
        {name: _volume(values, depth, 0) for name, values in slices.targets.items()},
        {name: has.all(0, keepdim=True) for name, has in slices.labelled.items()},
    )


def acquired(pixels: Pixels) -> Flags:
    """Tell which channels of `(N, 3, H, W)` slices hold a sequence of their own: `(N, 3)`."""
    return pixels.reshape(*pixels.shape[:2], -1).any(2) & ~_copies(pixels)


def _copies(pixels: Pixels) -> Flags:
    copies = (pixels == pixels[:, FLAIR, None]).reshape(*pixels.shape[:2], -1).all(2)  # (N, 3)
    copies[:, FLAIR] = False
    return copies


def _supported(recipe: Recipe) -> None:
    images = {name for name, modality in recipe.modalities.items() if modality.kind == "image"}
    heads = {head.kind for head in recipe.heads.values()}
    classes = {name for name, head in recipe.heads.items() if head.kind == "classification"}
    wrong = sorted(images - set(CHANNELS)) + sorted(classes - set(clinical.LABELS))
    if wrong or "survival" in heads:
        msg = (
            f"slices give the images {', '.join(CHANNELS)}, a segmentation mask and the classes "
            f"{', '.join(clinical.LABELS)}; the recipe asks for {', '.join(wrong) or 'survival'}: take it out"
        )
        raise DataError(msg)


def _folders(root: Path) -> list[Folder]:
    """Return the patients of `root` in the order of their names."""
    table = root / "patients.csv"
    listed = read_sheet(table, ("patient", "site", "available")) if table.exists() else []
    known, rows = {row["patient"]: row for row in listed}, clinical.read_clinical(root)
    paths = sorted(path for path in root.iterdir() if path.is_dir() and any(path.glob("*.tif")))
    return [
        _folder(path, known.get(path.name), rows, f"patient folder {place} of {len(paths)}")
        for place, path in enumerate(paths, 1)
    ]


def _folder(path: Path, known: Row | None, rows: Mapping[str, Row], where: str) -> Folder:
    name = NAME.match(path.name)
    site = known["site"] if known else name["site"] if name else ""
    if not site:
        msg = f"{where} has no site: name it TCGA_<site>_<patient>, or add it to 'patients.csv'"
        raise DataError(msg)
    if known and known["available"] not in AVAILABLE:
        msg = f"site '{site}': 'available' in 'patients.csv' is none of {', '.join(AVAILABLE)}: correct it"
        raise DataError(msg)
    available = AVAILABLE[known["available"]] if known else None
    return Folder(path, site, available, rows.get(name[0] if name else path.name), f"site '{site}', {where}")


def _cases(folder: Folder, recipe: Recipe, size: int, slices: int | None, depth: int | None) -> Batch:
    """Return the patient's cases that have anything to see."""
    found = _patient(folder, recipe, size, slices)
    batch = found if depth is None else stacked(found, depth)
    seen = batch.present.any(1)
    return batch.map(lambda x: x[seen])


def _darkened(values: Tensor, here: Tensor) -> Tensor:
    """Return an image's slices, those that are not `here` as dark as the others get; a table as it is."""
    if values.dim() == TABLE or not here.any():
        return values
    return torch.where(here.view(-1, 1, 1, 1), values, values[here].min())


def _volume(values: Tensor, depth: int, fill: float) -> Tensor:
    """Return N slices `(N, C, H, W)` as a volume; of what holds for all of them, the first row."""
    if values.dim() <= TABLE:
        return values[:1]
    return fitted(values.permute(1, 2, 3, 0)[None], (*values.shape[2:], depth), fill)


def _patient(folder: Folder, recipe: Recipe, size: int, slices: int | None) -> Batch:
    """Return the patient's slices, in their order."""
    paths = _chosen(folder.path, slices)
    pixels = _stack([_load(path, folder.where) for path in paths], folder.where)
    present = acquired(pixels)
    _agreed(pixels, present, folder)
    images = resized(torch.from_numpy(pixels).float(), size)  # (N, 3, size, size)
    found = {
        name: _table(folder.row, len(paths)) if modality.kind == "table" else _channel(images, present, name)
        for name, modality in recipe.modalities.items()
    }
    columns = torch.stack([here for _, here in found.values()], 1)
    targets, labelled = _targets(folder, recipe, paths, pixels.shape[2], size)
    return Batch({name: values for name, (values, _) in found.items()}, columns, targets, labelled)


def _chosen(folder: Path, slices: int | None) -> list[Path]:
    numbered = {int(found["number"]): p for p in folder.iterdir() if (found := SLICE.search(p.name))}
    paths = [numbered[number] for number in sorted(numbered)]
    if slices is None or slices >= len(paths):
        return paths
    return [paths[round(i)] for i in np.linspace(0, len(paths) - 1, slices).tolist()]


def _load(path: Path, where: str) -> Pixels:
    try:
        # A truncated file is only a warning to Pillow, which fills the rest with zeros.
        with warnings.catch_warnings(action="error"), Image.open(path, formats=("TIFF",)) as image:
            return np.asarray(image, dtype=np.uint8)
    except Exception:  # noqa: BLE001 - whatever Pillow's parser stumbles over, the file is not readable
        # Without its cause, which would carry the path and with it the patient's name.
        msg = f"{where}: a TIFF file cannot be read, it may be truncated: copy it anew"
        raise DataError(msg) from None


def _stack(images: Sequence[Pixels], where: str) -> Pixels:
    if len({image.shape for image in images}) != 1:
        msg = f"{where}: slices of one patient differ in size; convert them to one"
        raise DataError(msg)
    height, width, *channels = images[0].shape
    if height != width or channels != [len(CHANNELS)]:
        msg = f"{where}: slices must be square RGB images; convert them"
        raise DataError(msg)
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))  # (N, 3, H, W)


def _agreed(pixels: Pixels, present: Flags, folder: Folder) -> None:
    if folder.available is None:
        return
    told = np.array(folder.available)
    if (told & _copies(pixels).all(0)).any() or (~told & present.any(0)).any():
        msg = (
            f"{folder.where}: 'patients.csv' and the pixels disagree on which sequences there are: "
            "correct 'available' (a channel that repeats FLAIR was not acquired)"
        )
        raise DataError(msg)


def _channel(images: Tensor, present: Flags, name: str) -> tuple[Tensor, Tensor]:
    channel = CHANNELS.index(name)
    here = torch.from_numpy(present[:, channel])
    scan = torch.zeros_like(images[:, :1])
    if here.any():
        scan[here] = normalised(images[here, channel : channel + 1])
    return scan, here


def _table(row: Row | None, cases: int) -> tuple[Tensor, Tensor]:
    features = clinical.features(row)
    values = torch.zeros(clinical.FEATURES) if features is None else features
    return values.repeat(cases, 1), torch.full((cases,), features is not None)


def _targets(
    folder: Folder, recipe: Recipe, paths: Sequence[Path], side: int, size: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    targets, labelled = {}, {}
    for name, head in recipe.heads.items():
        if head.kind == "segmentation":
            targets[name], labelled[name] = _masks(paths, side, size, folder.where)
        else:
            value = clinical.label(folder.row, name)
            targets[name] = torch.full((len(paths),), value or 0)
            labelled[name] = torch.full((len(paths),), value is not None)
    return targets, labelled


def _masks(paths: Sequence[Path], side: int, size: int, where: str) -> tuple[Tensor, Tensor]:
    """Return `(N, 1, size, size)` and which slices have a mask at all."""
    files = [path.with_name(f"{path.stem}_mask.tif") for path in paths]
    has = torch.tensor([file.exists() for file in files])
    masks = [_load(file, where) if file.exists() else np.zeros((side, side), np.uint8) for file in files]
    if any(mask.shape != (side, side) for mask in masks):
        msg = f"{where}: a mask is of another size than its slice; draw it on the slice's own grid"
        raise DataError(msg)
    binary = torch.from_numpy(np.stack(masks) > 0).float()[:, None]
    return resized_mask(binary, size), has
