"""A model as a folder: loaded as it was written, or not at all."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.catalogue import build_model
from models.exported import Predictor, load, write_model
from models.flat import Flat
from protocol.batch import Batch
from protocol.errors import CheckpointError, DataError
from protocol.recipe import Head, Modality, Part, Recipe

MODALITIES = ("flair", "t1")
RECIPE = Recipe(
    "tiny",
    {name: Modality() for name in MODALITIES},
    {"tumour": Head("segmentation", 1, Part("dice_ce"))},
    Part("nifti", {"size": (8, 8)}),
    Part("parallel_unet", {"channels": (4, 8)}),
)


def images(rows: int = 3) -> dict[str, np.ndarray]:
    """Noise in every modality."""
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=(rows, 1, 8, 8)).astype("float32") for name in MODALITIES}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's folder."""
    write_model(tmp_path / "model", RECIPE, Flat(build_model(RECIPE)).vectors)
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "found nothing"),
        ({"t9": np.zeros((1, 1, 8, 8))}, "found t9"),
        ({"t1": np.zeros((1, 8, 8))}, r"'t1': expected an array \(B, 1, X, Y\)"),
        ({"t1": np.zeros((1, 1, 8, 8)), "flair": np.zeros((2, 1, 8, 8))}, "must agree"),
    ],
)
def test_what_a_model_cannot_take_is_said(data: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(DataError, match=words):
        Predictor(RECIPE, {}).predict(data)


def test_a_saved_model_holds_no_pickle(model: Path) -> None:
    assert {path.name for path in model.iterdir()} == {"recipe.yaml", "parameters.safetensors"}
    given = {name: torch.from_numpy(x) for name, x in images().items()}
    assert load(model).predict(given)["tumour"].shape == (3, 1, 8, 8)


def test_cases_that_lack_different_things_are_predicted_as_if_each_came_alone(model: Path) -> None:
    predictor, given = load(model), {name: torch.from_numpy(x) for name, x in images(2).items()}
    together = predictor.probabilities(Batch(given, torch.tensor([[True, False], [True, True]]), {}, {}))
    alone = predictor.predict({"flair": given["flair"][:1]})["tumour"]
    np.testing.assert_allclose(together["tumour"][:1].numpy(), alone, atol=1e-6)


def _shorter(vectors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {group: vector[:1] for group, vector in vectors.items()}  # torch would stretch it


def _without_one(vectors: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(list(vectors.items())[1:])


def _not_a_number(vectors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {group: vector * float("nan") for group, vector in vectors.items()}


@pytest.mark.parametrize("damage", [_shorter, _without_one, _not_a_number])
def test_parameters_that_are_not_the_networks_are_refused(model: Path, damage: object) -> None:
    assert callable(damage)
    path = model / "parameters.safetensors"
    save_file(damage(load_file(path)), path)
    with pytest.raises(CheckpointError, match="not those of its recipe's network"):
        load(model)


def test_a_folder_without_a_model_and_a_torn_one_are_said(model: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no model"):
        load(model.parent / "elsewhere")
    path = model / "parameters.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="is damaged"):
        load(model)
