"""Two published federations of tables, prepared exactly as FLamby does.

    heart4       UCI heart disease at four hospitals: `processed.<site>.data`, 13 features, binary label
    tcga_brca    breast-cancer survival in six regions: `brca.csv`, 39 features, (time, event)

du Terrail et al., "FLamby: Datasets and Benchmarks for Cross-Silo Federated Learning in
Realistic Healthcare Settings", NeurIPS 2022. Preparation decides the published figures, so
nothing here is a matter of taste: columns, levels, the seed of the split, features of the
breast cancers not standardised. One thing differs where training is private: the heart's features
are scaled by fixed constants, not by the patients' own. FLamby holds no validation patients, and
neither do these cohorts. Its one-hot columns come from all hospitals' values together; here the
levels are written down, so that each site reads its own part alone.

Both need a recipe with one modality, a table, and one head.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from imaging.cohort import OWN, Cohort, concatenate
from imaging.sheets import Row, number, read_sheet
from imaging.splits import TEST, TRAIN
from protocol.batch import Batch
from protocol.errors import DataError
from protocol.recipe import Recipe

# -- UCI heart disease -------------------------------------------------------------------------

HEART_SITES = ("cleveland", "hungarian", "switzerland", "va")
HEART_COLUMNS = 14
HEART_NUMBERS = (0, 1, 3, 4, 5, 7, 8, 9)  # 10 to 12 are hardly recorded outside Cleveland
HEART_LEVELS = {2: (1, 2, 3, 4), 6: (0, 1, 2)}  # chest pain, resting ECG; the first level is all zeros
HEART_TYPICAL = ((55, 10), (0.5, 0.5), (130, 20), (220, 60), (0.2, 0.4), (140, 25), (0.4, 0.5), (1, 1))
"""A typical value and spread of each number: age, sex, resting blood pressure in mmHg, cholesterol in
mg/dl, high blood sugar, highest heart rate, angina on exertion, ST depression in mm."""
HEART_GRADES = (0, 1, 2, 3, 4)  # 0 is health
TRAIN_SHARE, SPLIT_SEED = 0.66, 43
FEWEST_TO_STRATIFY = 3


def sites_heart4(root: Path, recipe: Recipe) -> list[str]:
    """Return the hospitals whose file is in `root`."""
    del recipe
    return [site for site in HEART_SITES if _heart_file(root, site).exists()]


def read_heart4(root: Path, recipe: Recipe, site: str | None) -> Cohort:
    """Read one hospital of UCI heart disease."""
    if site is None:
        every = sites_heart4(root, recipe)
        return concatenate(OWN, [read_heart4(root, recipe, each) for each in every])
    _only(recipe, "classification")
    rows = _heart_rows(_heart_file(root, site), f"site '{site}'")
    features = torch.tensor([_heart_features(row) for row in rows])
    label = torch.tensor([int(row[-1] > 0) for row in rows])
    split = _heart_split(label)
    splits = {f"row {row}": code for row, code in enumerate(split.tolist())}
    # Scaled by the patients, a feature of one tells of the others: no gradient's bound covers that.
    private = recipe.privacy.epsilon is not None
    scaled = typical(features) if private else standardised(features, split == TRAIN)
    return _cohort(site, recipe, splits, scaled, label)


def _heart_file(root: Path, site: str) -> Path:
    return root / f"processed.{site}.data"


def _heart_rows(path: Path, where: str) -> list[list[float]]:
    """Return the complete rows: those with a missing value in a column that is used are dropped."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            cells = [row for row in csv.reader(file, strict=True) if row]
    except (OSError, UnicodeDecodeError, csv.Error):
        msg = f"{where}: '{path.name}' cannot be read: put the file of the UCI archive there"
        raise DataError(msg) from None
    if not cells or any(len(row) != HEART_COLUMNS for row in cells):
        msg = f"{where}: '{path.name}' must have {HEART_COLUMNS} columns in every row and no header"
        raise DataError(msg)
    used = (*HEART_NUMBERS, *HEART_LEVELS, HEART_COLUMNS - 1)
    complete = [row for row in cells if all(row[column] != "?" for column in used)]
    rows = [[number(c, where) if i in used else 0.0 for i, c in enumerate(row)] for row in complete]
    for column, levels in (HEART_LEVELS | {HEART_COLUMNS - 1: HEART_GRADES}).items():
        if wrong := sum(row[column] not in levels for row in rows):
            msg = f"{where}: {wrong} rows have column {column} outside {levels}: correct the table"
            raise DataError(msg)
    return rows


def _heart_features(row: Sequence[float]) -> list[float]:
    """Return 8 numbers, then 3 + 2 one-hot columns."""
    dummies = [float(row[column] == level) for column, levels in HEART_LEVELS.items() for level in levels[1:]]
    return [row[column] for column in HEART_NUMBERS] + dummies


def _heart_split(label: Tensor) -> Tensor:
    from sklearn.model_selection import (  # noqa: PLC0415 - a second that no other source needs
        train_test_split,  # pyright: ignore[reportMissingTypeStubs]
    )

    counts = label.bincount(minlength=2)
    split = torch.full_like(label, TEST)
    train, _ = train_test_split(
        range(len(label)),
        train_size=TRAIN_SHARE,
        test_size=1.0 - TRAIN_SHARE,
        random_state=SPLIT_SEED,
        stratify=label.numpy() if counts.min() >= FEWEST_TO_STRATIFY else None,
    )
    split[train] = TRAIN
    return split


def standardised(features: Tensor, train: Tensor) -> Tensor:
    """Return z-scores of `(N, F)` by the mean and (unbiased) deviation of its training rows."""
    known = features[train]
    return (features - known.mean(0)) / (known.std(0) + 1e-9)


def typical(features: Tensor) -> Tensor:
    """Return the numbers of `(N, F)` on a scale of fixed constants, the one-hot columns as they are."""
    middle, spread = torch.tensor(HEART_TYPICAL).T
    count = len(HEART_TYPICAL)
    return torch.cat([(features[:, :count] - middle) / spread, features[:, count:]], 1)


# -- TCGA-BRCA -----------------------------------------------------------------------------------

BRCA_SITES = ("northeast", "south", "west", "midwest", "europe", "canada")  # `train_0` ... `train_5`
BRCA_LEVELS = {
    "ethnicity": ("not hispanic or latino", "not reported"),
    "race": ("asian", "black or african american", "not reported", "white"),
    "ajcc_pathologic_m": ("MX",),
    "ajcc_pathologic_n": ("N0 (i-)", "N1", "N1a", "N2", "N2a"),
    "ajcc_pathologic_stage": ("Stage IA", "Stage IIA", "Stage IIB", "Stage IIIA", "Stage IIIC"),
    "ajcc_pathologic_t": ("T1c", "T2", "T3"),
    "ajcc_staging_system_edition": ("5th", "6th", "7th"),
    "icd_10_code": ("C50.9",),
    "morphology": ("8500/3", "8520/3"),
    "primary_diagnosis": ("Infiltrating duct carcinoma, NOS", "Lobular carcinoma, NOS"),
    "prior_malignancy": ("yes",),
    "synchronous_malignancy": ("Not Reported",),
    "treatment_or_therapy": ("not reported", "yes"),
    "tumor_stage": ("stage i", "stage ia", "stage iia", "stage iib", "stage iiia", "stage iiic"),
}
BRCA_DUMMIES = tuple(f"{column}_{level}" for column, levels in BRCA_LEVELS.items() for level in levels)
BRCA_FEATURES = ("age_at_index", *BRCA_DUMMIES)
BRCA_FOLDS = {
    f"{word}_{center}": (site, split)
    for center, site in enumerate(BRCA_SITES)
    for word, split in (("train", TRAIN), ("test", TEST))
}


def sites_tcga_brca(root: Path, recipe: Recipe) -> list[str]:
    """Return the regions that the split names."""
    del recipe
    return sorted({site for site, _ in _brca_folds(root).values()})


def read_tcga_brca(root: Path, recipe: Recipe, site: str | None) -> Cohort:
    """Read one region of TCGA-BRCA."""
    if site is None:
        every = sites_tcga_brca(root, recipe)
        return concatenate(OWN, [read_tcga_brca(root, recipe, each) for each in every])
    _only(recipe, "survival")
    folds = _brca_folds(root)
    sheet = read_sheet(root / "brca.csv", ("pid", *BRCA_FEATURES, "E", "T"))
    rows = {row["pid"]: row for row in sheet if folds.get(row["pid"], ("", 0))[0] == site}
    if not rows:
        msg = f"site '{site}' has no patient in 'brca.csv': the sites are {', '.join(BRCA_SITES)}"
        raise DataError(msg)
    split = {patient: folds[patient][1] for patient in rows}
    features, target = (_columns(rows.values(), names) for names in (BRCA_FEATURES, ("T", "E")))
    return _cohort(site, recipe, split, features, target)


def _columns(rows: Iterable[Row], names: Sequence[str]) -> Tensor:
    return torch.tensor([[number(row[name], f"'brca.csv', {name}") for name in names] for row in rows])


def _brca_folds(root: Path) -> dict[str, tuple[str, int]]:
    """Return patient -> (site, split)."""
    rows = read_sheet(root / "train_test_split.csv", ("pid", "fold2"))
    if wrong := sum(row["fold2"] not in BRCA_FOLDS for row in rows):
        msg = f"'train_test_split.csv': {wrong} rows name no fold such as 'train_0' in 'fold2': correct them"
        raise DataError(msg)
    return {row["pid"]: BRCA_FOLDS[row["fold2"]] for row in rows}


# -- Both ----------------------------------------------------------------------------------------


def _only(recipe: Recipe, kind: str) -> None:
    kinds: list[str] = [each.kind for each in (*recipe.modalities.values(), *recipe.heads.values())]
    if kinds != ["table", kind]:
        msg = f"'{recipe.data.name}' gives one table and one {kind}: let the recipe name just these two"
        raise DataError(msg)


def _cohort(site: str, recipe: Recipe, split: Mapping[str, int], features: Tensor, target: Tensor) -> Cohort:
    """Return one case a patient, every one with its table and its label."""
    every = torch.ones(len(split), dtype=torch.bool)
    (modality,), (head,) = recipe.modalities, recipe.heads
    cases = Batch({modality: features}, every[:, None], {head: target}, {head: every})
    splits = torch.tensor(list(split.values()))
    return Cohort(site, (modality,), tuple(split), torch.arange(len(split)), splits, cases, None)
