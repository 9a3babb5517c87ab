"""Synthetic multi-modal brain scans with known truth, in the layout of `imaging.sources.nifti`.

Each patient is a head with grey and white matter, ventricles, and a tumour of three parts:

                 flair   t1     t1c    t2
    oedema       high    low    low    high
    rim          high    low    HIGH   high     (t1c: only where the tumour takes up contrast)
    core         grey    low    low    high
    ventricles   low     low    low    high     (so t2 alone takes them for tumour)

so that no modality tells everything and each tells something. `tumour` is all three parts;
`grade` is 1 where the rim takes up contrast, which only t1c shows; `death_time` is in years, and these
patients die three times as fast (`death_event` 0: alive at the last visit). Every hospital's scanner
has its own gain, contrast curve, coil shading and noise, and its own missing modalities
(`LACKS`); every eighth patient lacks one more. The last hospital has no labels but the outlines.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Image
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter  # pyright: ignore[reportMissingTypeStubs]

MODALITIES = ("flair", "t1", "t1c", "t2")
LACKS: tuple[tuple[str, ...], ...] = ((), ("flair",), ("t1c",), ("t1", "t2"))
"""What the first, second, ... hospital never acquired; after the last it starts again."""
PUBLIC = "PUBLIC"
"""A file of this name in a data folder says that pictures of its patients may be shown."""
ONE_MORE = 8
SLICES = 8
YEARLY_HAZARD = (0.15, 0.45)
"""Of dying, by grade."""
FIELD_MM, SLICE_MM = 192.0, 8.0

GREY, WHITE, VENTRICLE, OEDEMA, RIM, CORE = range(1, 7)
TISSUES = {  # intensity of air, grey, white, ventricle, oedema, rim, core
    "flair": (0.0, 0.55, 0.45, 0.15, 0.95, 0.90, 0.60),
    "t1": (0.0, 0.50, 0.70, 0.20, 0.40, 0.38, 0.30),
    "t1c": (0.0, 0.50, 0.70, 0.20, 0.40, 1.00, 0.30),
    "t2": (0.0, 0.55, 0.45, 0.95, 0.85, 0.80, 0.95),
}

Volume = NDArray[np.float64]
Tissue = NDArray[np.int64]


@dataclass(frozen=True)
class Scanner:
    """One hospital's: signal -> gain * (shading * signal) ** gamma + noise."""

    gain: float
    gamma: float
    shading: float
    noise: float


def write_phantom(root: Path, *, sites: int = 4, patients: int = 24, size: int = 32, seed: int = 0) -> None:
    """Write `sites` hospitals of `patients` each, in volumes of `size` x `size` x 8 voxels.

    The files follow from the arguments alone, byte for byte.
    """
    root.mkdir(parents=True, exist_ok=True)
    (root / PUBLIC).write_text("Made up; pictures of these patients may be shown.\n", encoding="utf-8")
    for site in range(sites):
        folder, scanner = root / f"site_{site + 1}", _scanner(default_rng((seed, site)))
        folder.mkdir(parents=True, exist_ok=True)
        labels = dict[str, tuple[int, str, int]]()
        for patient in range(patients):
            name, rng = f"patient_{patient + 1:03}", default_rng((seed, site, patient))
            grade = _write_patient(folder / name, scanner, lacking(site, patient), size, rng)
            labels[name] = (grade, *followed(grade, default_rng((seed, site, patient, 1))))
        if site < sites - 1:
            _write_labels(folder / "labels.csv", labels)


def lacking(site: int, patient: int) -> tuple[str, ...]:
    """Return what patient `patient` of hospital `site` (both from 0) does not have."""
    lacks = LACKS[site % len(LACKS)]
    has = [name for name in MODALITIES if name not in lacks]
    if patient % ONE_MORE == ONE_MORE - 1:
        return (*lacks, has[patient // ONE_MORE % len(has)])
    return lacks


def draw_head(size: int, rng: Generator) -> Tissue:
    """Return the tissue of each voxel, `(size, size, 8)`."""
    edges = [np.linspace(-1, 1, size), np.linspace(-1, 1, size), np.linspace(-0.4, 0.4, SLICES)]
    place = np.stack(np.meshgrid(*edges, indexing="ij"))
    head = _radius(place, np.zeros(3), rng.uniform((0.75, 0.85, 0.9), (0.85, 0.95, 1.1)))
    texture = gaussian_filter(rng.normal(size=place.shape[1:]), (size / 16, size / 16, 1))
    tissue = np.where(texture > 0, WHITE, GREY)
    for side in (-1, 1):
        axes = rng.uniform((0.07, 0.2, 0.3), (0.1, 0.3, 0.5))
        tissue[_radius(place, np.array((side * 0.13, 0.05, 0.0)), axes) < 1] = VENTRICLE
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 0.5)
    centre = np.array((distance * np.cos(angle), distance * np.sin(angle), rng.uniform(-0.15, 0.15)))
    # A wavy edge, so that the tumour is not simply an ellipsoid.
    tumour = _radius(place, centre, rng.uniform(0.22, 0.36, 3)) + 1.5 * texture
    for part, radius in ((OEDEMA, 1.0), (RIM, 0.65), (CORE, 0.45)):
        tissue[tumour < radius] = part
    tissue[head >= 1] = 0
    return tissue


def followed(grade: int, rng: Generator) -> tuple[str, int]:
    """Return years to death or to the last visit, and whether it was death; the hazard is constant."""
    death, visit = rng.exponential(1 / YEARLY_HAZARD[grade]), rng.uniform(2, 8)
    return f"{min(death, visit):.3f}", int(death <= visit)


def scan(tissue: Tissue, modality: str, scanner: Scanner, rng: Generator, *, uptake: bool) -> Volume:
    """Return what `scanner` makes of a head; `uptake`: the tumour's rim takes up contrast."""
    signal = np.array(TISSUES[modality])[tissue]
    if modality == "t1c" and not uptake:
        signal[tissue == RIM] = TISSUES["t1"][RIM]
    signal = gaussian_filter(signal, 0.5)
    shade = 1 + scanner.shading * np.linspace(-1, 1, tissue.shape[0])[:, None, None]
    clean = scanner.gain * (shade * signal) ** scanner.gamma
    # The magnitude of complex noise: air is grey, not black (Rician).
    noise = scanner.gain * scanner.noise * rng.normal(size=(2, *tissue.shape))
    return np.hypot(clean + noise[0], noise[1])


def _radius(place: Volume, centre: Volume, axes: Volume) -> Volume:
    """Distance from `centre` in units of an ellipsoid's axes: below 1 is inside."""
    shape = (3, 1, 1, 1)
    return np.sqrt((((place - centre.reshape(shape)) / axes.reshape(shape)) ** 2).sum(0))


def _scanner(rng: Generator) -> Scanner:
    return Scanner(
        gain=rng.uniform(200, 2000),
        gamma=rng.uniform(0.8, 1.25),
        shading=rng.uniform(-0.2, 0.2),
        noise=rng.uniform(0.03, 0.08),
    )


def _write_patient(folder: Path, scanner: Scanner, lacks: tuple[str, ...], size: int, rng: Generator) -> int:
    """Write one patient's files and return the grade."""
    folder.mkdir(exist_ok=True)
    affine = np.diag((FIELD_MM / size, FIELD_MM / size, SLICE_MM, 1.0))
    tissue, uptake = draw_head(size, rng), bool(rng.integers(2))
    for modality in MODALITIES:
        volume = scan(tissue, modality, scanner, rng, uptake=uptake)
        if modality not in lacks:
            Nifti1Image(volume.astype(np.int16), affine).to_filename(folder / f"{modality}.nii.gz")
    Nifti1Image((tissue >= OEDEMA).astype(np.uint8), affine).to_filename(folder / "tumour.nii.gz")
    return int(uptake)


def _write_labels(path: Path, labels: dict[str, tuple[int, str, int]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = ((name, *row) for name, row in labels.items())
        csv.writer(file).writerows([("patient", "grade", "death_time", "death_event"), *rows])
