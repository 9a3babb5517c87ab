"""How long an epoch takes from an ingested cohort, beside MONAI's cache and reading the files each time.

    python -m bench.epoch [PATIENTS]

raw            MONAI's Dataset: every epoch reads, turns, scales and fits the export's NIfTI files
CacheDataset   MONAI's: the same transforms, once; later epochs batch what is in memory
ours           the cohort's files are held against its manifest, read and fitted once into memory-mapped
               arrays; later epochs batch
ours, mapped   a process that finds the arrays there: held against their hashes, and mapped

All yield every patient with four modalities and a label map, in shuffled batches of the same shape, of
which every value is looked at. MONAI's NormalizeIntensity (mean and standard deviation of what is not zero)
stands for our scaling by quartiles, which costs more.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import CacheDataset, DataLoader, Dataset
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    ResizeWithPadOrCropd,
)
from torch import Tensor

from imaging.ingest.desk import Desk
from imaging.ingest.run import ingest
from imaging.sources import read_cohort
from protocol.recipe import Head, Modality, Part, Recipe
from sim.phantom import MODALITIES, write_phantom

SIDE, DEPTH, BATCH, EPOCHS = 128, 8, 4, 3
HEAD = "tumour"
SIZE = SIDE, SIDE, DEPTH

Epoch = Callable[[], Iterable[Sequence[Tensor]]]
"""Yields batches."""


def monais(folder: Path, kind: Callable[..., Any], **options: Any) -> Epoch:
    """Return an epoch over a MONAI dataset."""
    keys = [*MODALITIES, HEAD]
    files = [{key: str(path / f"{key}.nii.gz") for key in keys} for path in sorted(folder.glob("patient_*"))]
    steps = [
        LoadImaged(keys),
        EnsureChannelFirstd(keys),
        Orientationd(keys, "RAS", labels=None),
        NormalizeIntensityd(MODALITIES, nonzero=True),
        ResizeWithPadOrCropd(keys, SIZE),
    ]
    loader = DataLoader(kind(files, Compose(steps), **options), num_workers=0, batch_size=BATCH, shuffle=True)

    def epoch() -> Iterable[Sequence[Tensor]]:
        batches: Iterable[Mapping[str, Tensor]] = loader
        return ([batch[key] for key in keys] for batch in batches)

    return epoch


def ours(folder: Path, arrays: Path) -> Epoch:
    """Return an epoch over an ingested cohort, whose arrays are kept in a folder."""
    heads = {HEAD: Head("segmentation")}
    images = {name: Modality() for name in MODALITIES}
    recipe = Recipe("bench", images, heads, Part("ingested", {"size": SIZE}), Part("none"))
    cases = read_cohort(folder, recipe, None, arrays).cases

    def epoch() -> Iterable[Sequence[Tensor]]:
        for rows in torch.randperm(len(cases)).split(BATCH):
            batch = cases.map(lambda x, rows=rows: x[rows])
            yield [*batch.inputs.values(), *batch.targets.values()]

    return epoch


def measured(make: Callable[[], Epoch]) -> tuple[float, float]:
    """Return the seconds of making it and a first epoch, and of the fastest later one."""
    start = time.perf_counter()
    epoch = make()
    seconds = list[float]()
    for _ in range(EPOCHS):
        for batch in epoch():
            torch.stack([part.sum() for part in batch])
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    return seconds[0], min(seconds[1:])


def keep_complete(folder: Path) -> None:
    """Remove who lacks a modality: a MONAI dataset has no word for absent."""
    for path in folder.glob("patient_*"):
        if not all((path / f"{name}.nii.gz").exists() for name in MODALITIES):
            shutil.rmtree(path)


def main(count: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_phantom(root / "export", sites=1, patients=count, size=SIDE)
        export = root / "export" / "site_1"
        keep_complete(export)
        desk = Desk.at(str(root / "cohort"), str(root / "key"))
        ingest([export], desk, watch=lambda *_: None)
        jobs: dict[str, Callable[[], Epoch]] = {
            "raw, the floor": lambda: monais(export, Dataset),
            "CacheDataset": lambda: monais(export, CacheDataset, progress=False),
            "ours": lambda: ours(root / "cohort", root / "arrays"),
            "ours, mapped": lambda: ours(root / "cohort", root / "arrays"),
        }
        count = len([*export.glob("patient_*")])
        print(f"{count} patients, {len(MODALITIES)} modalities of {SIDE} x {SIDE} x {DEPTH}")
        for what, make in jobs.items():
            first, later = measured(make)
            print(f"{what:16} first epoch {first:7.2f} s   later {later:7.3f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 24)
