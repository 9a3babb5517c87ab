"""FLamby's preparation, checked against pandas doing it the published way."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import train_test_split

from imaging.sources import list_sites, read_cohort, table
from imaging.sources.table import BRCA_FEATURES, BRCA_SITES, HEART_SITES
from protocol.recipe import Head, Privacy, Recipe
from tests.imaging.files import SECRET, real, recipe, refusal, write_sheet

HEART = recipe("heart4", ("table",), {"disease": Head("classification")}, table=13)
BRCA = recipe("tcga_brca", ("table",), {"death": Head("survival")}, table=39)


def write_heart(root: Path, rows: int = 60) -> None:
    """Four hospitals with missing values, in the archive's own style (Cleveland writes 1.0 for 1)."""
    rng = np.random.default_rng(0)
    low = (30, 0, 1, 90, 100, 0, 0, 70, 0, 0, 1, 0, 3, 0)
    high = (77, 1, 4, 200, 400, 1, 2, 200, 1, 5, 3, 3, 7, 4)
    for site in HEART_SITES:
        values = rng.integers(low, np.array(high) + 1, (rows, 14))
        cells = [[f"{value:.1f}" if site == "cleveland" else str(value) for value in row] for row in values]
        for row in cells:
            row[13] = row[13].removesuffix(".0")
            for column in range(13):
                if rng.random() < (0.9 if column in {10, 11, 12} else 0.02):
                    row[column] = "?"
        (root / f"processed.{site}.data").write_text("\n".join(map(",".join, cells)) + "\n")


def published(root: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Site -> (features, label, is training), from all hospitals' tables together."""
    frames, labels, train = [], [], []
    for site in HEART_SITES:
        frame = pd.read_csv(root / f"processed.{site}.data", header=None, na_values="?")
        frame = frame.drop(columns=[10, 11, 12]).dropna().astype(float).reset_index(drop=True)
        label = (frame[13] > 0).astype(int)
        stratify = label if label.sum() > 2 and (1 - label).sum() > 2 else None
        rows, _ = train_test_split(
            np.arange(len(frame)), train_size=0.66, test_size=1 - 0.66, random_state=43, stratify=stratify
        )
        frames.append(frame.drop(columns=13).assign(site=site))
        labels.append(torch.tensor(label.to_numpy()))
        train.append(torch.tensor(np.isin(np.arange(len(frame)), rows)))
    together = pd.get_dummies(pd.concat(frames), columns=[2, 6], drop_first=True, dtype=float)
    found = {}
    for site, label, has in zip(HEART_SITES, labels, train, strict=True):
        here = together[together["site"] == site].drop(columns="site")
        x = torch.tensor(here.to_numpy(), dtype=torch.float32)
        found[site] = (x - x[has].mean(0)) / (x[has].std(0) + 1e-9), label, has
    return found


def agrees_with_the_published(root: Path) -> None:
    """Every hospital, every number."""
    for site, (features, label, train) in published(root).items():
        cohort = read_cohort(root, HEART, site)
        assert torch.equal(cohort.split, torch.where(train, 0, 2))
        assert torch.equal(cohort.cases.targets["disease"], label)
        torch.testing.assert_close(cohort.cases.inputs["table"], features, rtol=1e-5, atol=1e-5)


def test_heart_as_published(tmp_path: Path) -> None:
    """On made-up hospitals."""
    write_heart(tmp_path)

    assert list_sites(tmp_path, HEART) == sorted(HEART_SITES)
    agrees_with_the_published(tmp_path)


def test_statistics_of_all_rows_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant standardises by the test patients too."""
    write_heart(tmp_path)
    right = table.standardised
    monkeypatch.setattr(table, "standardised", lambda x, train: right(x, torch.ones_like(train)))

    with pytest.raises(AssertionError):
        agrees_with_the_published(tmp_path)


PRIVATE = replace(HEART, privacy=Privacy(epsilon=8.0))


def others_that_move(root: Path, asked: Recipe) -> int:
    """How many patients' features change when the last row of the file is another patient's."""
    path = root / "processed.va.data"
    before = read_cohort(root, asked, "va").cases.inputs["table"]
    *rest, _ = path.read_text().splitlines()
    path.write_text("\n".join([*rest, "99,1,4,290,900,1,2,210,1,9,3,3,7,1"]) + "\n")
    after = read_cohort(root, asked, "va").cases.inputs["table"]
    return int((before[:-1] != after[:-1]).any(1).sum())


def test_under_privacy_no_patient_moves_anothers_features(tmp_path: Path) -> None:
    """The gradient's bound is a patient's own; the published preparation mixes them, and is caught."""
    for name, asked in (("private", PRIVATE), ("published", HEART)):
        root = tmp_path / name
        root.mkdir()
        write_heart(root)
        with (root / "processed.va.data").open("a") as file:
            file.write("60,1,2,120,200,0,0,140,0,0,1,0,3,1\n")
        moved = others_that_move(root, asked)
        assert moved == 0 if name == "private" else moved > 20


def test_fixed_constants_bring_the_heart_near_one_scale() -> None:
    root = real("heart4")
    features = read_cohort(root, PRIVATE, None).cases.inputs["table"]

    assert features.mean(0).abs().max() < 1
    assert features[:, :8].std(0).max() < 2
    assert features[:, :8].std(0).min() > 0.5


def test_real_heart() -> None:
    """Sizes and numbers of the publication."""
    root = real("heart4")
    agrees_with_the_published(root)

    sizes = {site: len(read_cohort(root, HEART, site).rows("train")) for site in HEART_SITES}

    assert sizes == {"cleveland": 199, "hungarian": 172, "switzerland": 30, "va": 85}
    assert len(read_cohort(root, HEART, None).rows("test")) == 104 + 89 + 16 + 45


def test_real_brca() -> None:
    """Sizes of the publication, and features that are what the file says, not standardised."""
    root = real("tcga_brca")
    frame = pd.read_csv(root / "brca.csv").set_index("pid")
    sizes = []
    for site in BRCA_SITES:
        cohort = read_cohort(root, BRCA, site)
        sizes.append((len(cohort.rows("train")), len(cohort.rows("test"))))
        rows = frame.loc[list(cohort.patients)]
        features = torch.tensor(rows.iloc[:, :39].to_numpy(dtype="float32"))
        assert torch.equal(cohort.cases.inputs["table"], features)
        assert torch.equal(cohort.cases.targets["death"], torch.tensor(rows[["T", "E"]].to_numpy("float32")))

    assert sizes == [(248, 63), (156, 40), (164, 42), (129, 33), (129, 33), (40, 11)]


def write_brca(root: Path) -> None:
    """Three patients of two regions."""
    names = [f"TCGA-AA-{SECRET}{n}" for n in range(3)]
    rows = [dict.fromkeys(BRCA_FEATURES, n) | {"E": n % 2, "T": 100 * n} for n in range(3)]
    write_sheet(root / "brca.csv", [{"pid": name} | row for name, row in zip(names, rows, strict=True)])
    folds = ["train_0", "test_0", "train_5"]
    write_sheet(
        root / "train_test_split.csv",
        [{"pid": name, "fold": fold[:-2], "fold2": fold} for name, fold in zip(names, folds, strict=True)],
    )


def test_brca_sites_are_the_folds(tmp_path: Path) -> None:
    """Fold 0 is the Northeast, 5 is Canada."""
    write_brca(tmp_path)

    assert list_sites(tmp_path, BRCA) == ["canada", "northeast"]
    cohort = read_cohort(tmp_path, BRCA, "northeast")
    assert cohort.split.tolist() == [0, 2]
    assert cohort.cases.targets["death"].tolist() == [[0, 0], [100, 1]]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("age_at_index", "age", "no column 'age_at_index'"),
        ("race_white", "race_blue", "no column 'race_white'"),
        (",1,100", ",2,100", "valid time and event"),
        (",1,100", ",1,soon", "'brca.csv', T: a cell is not a number"),
        (",1,100", ",1,nan", "valid time and event"),
        (",1,1,1,", ",1,inf,1,", "NaN or infinite"),
        (",1,1,1,", ",1,,1,", "not a number"),
        (SECRET, "nobody", "has no patient in 'brca.csv'"),
    ],
)
def test_damaged_brca_is_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    """By column, never by row."""
    write_brca(tmp_path)
    path = tmp_path / "brca.csv"
    path.write_text(path.read_text().replace(old, new))

    assert says in refusal(lambda: read_cohort(tmp_path, BRCA, "northeast"))


def test_an_unknown_fold_is_refused(tmp_path: Path) -> None:
    """Instead of a patient silently left out."""
    write_brca(tmp_path)
    path = tmp_path / "train_test_split.csv"
    path.write_text(path.read_text().replace("train_5", "train_9"))

    assert "1 rows name no fold" in refusal(lambda: list_sites(tmp_path, BRCA))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("63,1,1,145,233,1,2,150,0,2.3,3,0,6", "14 columns"),
        ("63,1,1,145,233,1,2,150,0,2.3,3,0,6,5", "1 rows have column 13 outside"),
        ("63,1,5,145,233,1,2,150,0,2.3,3,0,6,0", "1 rows have column 2 outside"),
        ("63,1,1,145,233,1,7,150,0,2.3,3,0,6,0", "1 rows have column 6 outside"),
        ("old,1,1,145,233,1,2,150,0,2.3,3,0,6,0", "not a number"),
        ("age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,num", "not a number"),
    ],
)
def test_damaged_heart_is_refused(tmp_path: Path, row: str, says: str) -> None:
    """By column, never by row."""
    write_heart(tmp_path)
    path = tmp_path / "processed.va.data"
    path.write_text(path.read_text() + row + "\n")

    message = refusal(lambda: read_cohort(tmp_path, HEART, "va"))

    assert says in message
    assert "site 'va'" in message


def test_missing_tables_and_other_recipes_are_refused(tmp_path: Path) -> None:
    """No file, and a recipe that wants images of a table."""
    assert "no site's data" in refusal(lambda: list_sites(tmp_path, HEART))
    assert "cannot be read" in refusal(lambda: read_cohort(tmp_path, HEART, "va"))
    assert "cannot be read" in refusal(lambda: list_sites(tmp_path, BRCA))
    write_heart(tmp_path)
    images = recipe("heart4", ("flair",), {"disease": Head("classification")})
    assert "one table and one classification" in refusal(lambda: read_cohort(tmp_path, images, "va"))
    narrow = recipe("heart4", ("table",), {"disease": Head("classification")}, table=12)
    assert "modalities.table.features: 12" in refusal(lambda: read_cohort(tmp_path, narrow, "va"))
