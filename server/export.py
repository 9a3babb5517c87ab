"""A trained model as a folder that anybody can load: no pickle, no code, only data.

    MODEL/
      recipe.yaml              how to build the network
      parameters.safetensors   group -> flat float32 vector, as they travel

`mlflow.pyfunc.load_model(uri).predict(data)` and `load(MODEL).predict(data)` do the same:

    data    modality -> array (B, 1, X, Y[, Z]) for images, (B, F) for tables; any non-empty
            subset of the recipe's modalities, what is left out is absent
    result  head -> probabilities: (B, C, X, Y[, Z]) a channel by itself for segmentation,
            (B, C) over the classes or (B, 1) of the positive class for classification;
            for survival (B, 1), the log of the relative risk; for a pretext (B, 1), its loss

MLflow finds `_load_pyfunc` by this module's name, so a model folder holds nothing to run, and
loading it needs the consilium package.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.catalogue import build_model
from models.flat import Flat
from protocol.batch import Batch
from protocol.errors import DataError
from protocol.groups import PRIVATE
from protocol.recipe import Head, Modality, Recipe, build, dump_recipe, load_recipe
from protocol.update import Vectors
from strategies.catalogue import STRATEGIES

Arrays = dict[str, NDArray[np.float32]]
Shape = tuple[int, ...]

_SMALLEST = 32  # pixels along each axis of an image that stands in where there is none
RECIPE, PARAMETERS = "recipe.yaml", "parameters.safetensors"


def write_model(folder: Path, recipe: Recipe, parameters: Vectors) -> None:
    """Write a model into a new `folder`; `parameters` are the groups that travelled."""
    folder.mkdir(parents=True)
    (folder / RECIPE).write_text(dump_recipe(recipe), encoding="utf-8")
    save_file(dict(parameters), folder / PARAMETERS)


def load(folder: Path | str) -> "Predictor":
    """Load a model that `write_model` wrote."""
    return Predictor(load_recipe(Path(folder) / RECIPE), load_file(Path(folder) / PARAMETERS))


_load_pyfunc = load  # MLflow's hook, found by its name


def kept_at_sites(recipe: Recipe) -> bool:
    """Say whether a part of the network never leaves the sites, so that nobody else has all of it."""
    return PRIVATE in _flat(recipe).vectors


def shapes(recipe: Recipe) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Return modality -> shape in and head -> shape out, with -1 for what may vary."""
    space = (-1,) * _flat(recipe).model.axes
    image = (-1, 1, *space)
    inputs: dict[str, Shape] = {
        n: (-1, m.features) if m.kind == "table" else image for n, m in recipe.modalities.items()
    }
    return inputs, {name: _shape_out(head, space) for name, head in recipe.heads.items()}


def _shape_out(head: Head, space: Shape) -> Shape:
    channels = 1 if head.kind in {"survival", "pretext"} else head.classes
    return (-1, channels, *space) if head.kind == "segmentation" else (-1, channels)


class Predictor:
    """A model with its parameters, from arrays to probabilities."""

    def __init__(self, recipe: Recipe, parameters: Vectors) -> None:
        self.recipe = recipe
        self._flat = _flat(recipe)
        self._flat.load(parameters)
        self._flat.model.eval()

    @torch.inference_mode()
    def predict(self, data: Mapping[str, ArrayLike], params: Mapping[str, Any] | None = None) -> Arrays:
        """Return head -> probabilities, see the module; `params` is MLflow's and has no use.

        Raises `DataError` for no modality at all, an unknown one, and shapes that do not fit.
        """
        del params
        logits = self._flat.model(self._batch(data))
        return {head: _probabilities(self.recipe.heads[head], out).numpy() for head, out in logits.items()}

    def _batch(self, data: Mapping[str, ArrayLike]) -> Batch:
        known = self.recipe.modalities
        if not data or set(data) - set(known):
            found = ", ".join(map(str, data)) or "nothing"
            raise DataError(f"expected one or more of the modalities {', '.join(known)}; found {found}")
        given = {name: _tensor(name, known[name], values) for name, values in data.items()}
        rows = {len(x) for x in given.values()}
        spaces = {tuple(x.shape[2:]) for name, x in given.items() if known[name].kind == "image"}
        if len(rows) > 1 or len(spaces) > 1:
            found = ", ".join(f"{name} {tuple(x.shape)}" for name, x in given.items())
            raise DataError(f"modalities must agree in cases and image size; found {found}")
        return self._with_absent(given, rows.pop())

    def _with_absent(self, given: dict[str, Tensor], rows: int) -> Batch:
        names = tuple(self.recipe.modalities)
        image = next((x for name, x in given.items() if self.recipe.modalities[name].kind == "image"), None)
        present = torch.tensor([[name in given for name in names]]).expand(rows, len(names))
        inputs = {name: given[name] if name in given else self._blank(name, rows, image) for name in names}
        return Batch(inputs, present, {}, {})

    def _blank(self, name: str, rows: int, image: Tensor | None) -> Tensor:
        modality = self.recipe.modalities[name]
        if modality.kind == "table":
            return torch.zeros(rows, modality.features)
        space = (_SMALLEST,) * self._flat.model.axes if image is None else image.shape[2:]
        return torch.zeros(rows, 1, *space)


def _flat(recipe: Recipe) -> Flat:
    return Flat(build_model(recipe), build(STRATEGIES, recipe.strategy, "strategy").local.private)


def _tensor(name: str, modality: Modality, values: ArrayLike) -> Tensor:
    x = torch.tensor(np.asarray(values, dtype=np.float32))
    table = modality.kind == "table"
    channels, ranks = (modality.features, (2,)) if table else (1, (4, 5))
    if x.dim() not in ranks or x.shape[1] != channels:
        wanted = f"(B, {channels})" if table else "(B, 1, X, Y) or (B, 1, X, Y, Z)"
        raise DataError(f"modality '{name}': expected an array {wanted}; found {tuple(x.shape)}")
    return x


def _probabilities(head: Head, logits: Tensor) -> Tensor:
    if head.kind in {"survival", "pretext"}:
        return logits
    return logits.softmax(1) if head.kind == "classification" and head.classes > 1 else logits.sigmoid()
