"""A trained model on a patient's study, with whatever modalities it has.

    study     one scan a modality on one grid, by the way that made the cohort (imaging.study)
      -> cases         as in training (imaging.cases); a modality that is not there is absent, and so is one
                       in a case that it does not reach
      -> probabilities of each case (models.exported)
      -> findings      a segmentation's are brought back to a scan's own voxels, linearly, and cut at one
                       half; other heads' are the mean over the cases

How sure the model is, is said in bits of entropy: 0 is certain, 1 is even odds between two. It is what the
model believes of itself, and no more.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import compress

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imaging.cases import Shape, from_cases, looked_at, resampled_shape, spacing_of, to_cases
from imaging.derived import Classified, Segmented
from imaging.provenance import Provenance
from imaging.sources import SOURCES
from imaging.study import Study
from models.exported import Predictor
from privacy.statement import statement
from protocol.batch import Batch
from protocol.errors import DataError
from protocol.metrics import subset_name, subsets_of
from protocol.recipe import Head, Recipe, check_part, recipe_hash

AT_ONCE = 16
"""Cases that the network sees together."""
HALF = 0.5
TABLE = "a table, which a study does not hold"
EMPTY = "its scan is empty, or does not reach the reference"
INGESTED = "ingested"
WHOLE_SCANS = ("nifti", INGESTED)
"""Sources whose cases are cut from whole scans, as they are here."""
SUBSETS_OF = 4
"""Of so many modalities all subsets are tried: at most 14 predictions more."""

Maps = NDArray[np.float32]
Outputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Grid:
    """How the voxels of a study's volumes and a model's cases correspond.

    `original`   shape of the volumes
    `shape`      that, resampled for the model
    `size`       of a case
    """

    original: Shape
    shape: Shape
    size: Shape

    @property
    def cases(self) -> int:
        """How many there are."""
        return self.shape[-1] if len(self.size) < len(self.shape) else 1


@dataclass(frozen=True)
class Findings:
    """What the model found on the voxels of `study.onto`; `entropy`: segmentation head -> bits of each."""

    segmented: Mapping[str, Segmented]
    classified: Mapping[str, Classified]
    entropy: Mapping[str, Maps]


@dataclass(frozen=True)
class Prediction:
    """All that is said of a study; `subsets`: modalities joined by '+' -> what those alone would give."""

    study: Study
    made: Provenance
    findings: Findings
    subsets: Mapping[str, Findings]


def scans_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the modalities that a study may hold.

    Raises `DataError` where the recipe trained on something else than whole scans.
    """
    names = tuple(name for name, modality in recipe.modalities.items() if modality.kind == "image")
    if recipe.data.name not in WHOLE_SCANS or not names:
        raise DataError(
            f"recipe '{recipe.name}' was trained on data of the kind '{recipe.data.name}', which no DICOM "
            f"study gives: take a model that was trained on {' or '.join(WHOLE_SCANS)}"
        )
    return names


def predict(predictor: Predictor, study: Study) -> Prediction:
    """Return what the model finds in a study.

    Raises `DataError` where every scan of it is empty.
    """
    recipe = predictor.recipe
    grid = _grid(recipe, study)
    batch = _batch(recipe, study, grid)
    used = tuple(compress(recipe.modalities, batch.present.any(0).tolist()))
    if not used:
        raise DataError("every scan of the study is empty: there is nothing to predict from")
    tables = {name: TABLE for name, modality in recipe.modalities.items() if modality.kind == "table"}
    lacking = {**dict.fromkeys(recipe.modalities, EMPTY), **tables, **study.lacking}
    absent = {name: lacking[name] for name in recipe.modalities if name not in used}
    made = Provenance(recipe.name, recipe_hash(recipe), statement(recipe), used, absent)
    return Prediction(
        study,
        made,
        _findings(predictor, batch, grid, study),
        dict(_subsets(predictor, batch, grid, study, used)),
    )


def _subsets(
    predictor: Predictor, batch: Batch, grid: Grid, study: Study, used: tuple[str, ...]
) -> Iterator[tuple[str, Findings]]:
    for subset in subsets_of(used)[:-1] if len(used) <= SUBSETS_OF else ():
        shown = torch.tensor([name in subset for name in predictor.recipe.modalities])
        yield subset_name(subset), _findings(predictor, batch.seeing(batch.present & shown), grid, study)


# -- From a study to cases -------------------------------------------------------------------


def _grid(recipe: Recipe, study: Study) -> Grid:
    options = check_part(SOURCES, recipe.data, "data")
    original = next(iter(study.volumes.values())).values.shape
    here = spacing_of(study.affine)
    shape = resampled_shape(original, here, options.get("spacing_mm") or here)
    return Grid(original, shape, tuple(options["size"]))


def _batch(recipe: Recipe, study: Study, grid: Grid) -> Batch:
    inputs, present = dict[str, Tensor](), list[Tensor]()
    for name, modality in recipe.modalities.items():
        if name in study.volumes:
            scan = torch.from_numpy(study.volumes[name].values)
            inputs[name], here = to_cases(scan, grid.shape, grid.size)
        else:
            blank = (modality.features,) if modality.kind == "table" else (1, *grid.size)
            inputs[name], here = torch.zeros(grid.cases, *blank), torch.zeros(grid.cases, dtype=torch.bool)
        present.append(here)
    return Batch(inputs, torch.stack(present, 1), {}, {})


# -- From cases to findings ------------------------------------------------------------------


def _findings(predictor: Predictor, batch: Batch, grid: Grid, study: Study) -> Findings:
    seen = batch.present.any(1)
    outputs = _outputs(predictor, batch.map(lambda x: x[seen]))
    looked = study.back(looked_at(grid.shape, grid.size, grid.original, seen).numpy().astype(np.float32))
    segmented, classified, entropy = dict[str, Segmented](), dict[str, Classified](), dict[str, Maps]()
    for name, head in predictor.recipe.heads.items():
        if head.kind == "segmentation":
            chances = outputs[name].new_zeros(grid.cases, *outputs[name].shape[1:])
            chances[seen] = outputs[name]
            segmented[name], entropy[name] = _segmented(
                from_cases(chances, grid.shape, grid.original), looked > HALF, study
            )
        else:
            classified[name] = _classified(name, head, outputs[name].mean(0))
    return Findings(segmented, classified, entropy)


def _outputs(predictor: Predictor, batch: Batch) -> Outputs:
    """Return the probabilities of all cases, which may be more than fit into memory at once."""
    parts = [
        predictor.probabilities(batch.map(lambda x, at=at: x[at : at + AT_ONCE]))
        for at in range(0, len(batch), AT_ONCE)
    ]
    return {head: torch.cat([part[head] for part in parts]) for head in parts[0]}


def _segmented(chances: Tensor, looked: NDArray[np.bool_], study: Study) -> tuple[Segmented, Maps]:
    """Return what probabilities `(C, X, Y, Z)` say on the voxels of `study.onto`, and their entropy."""
    there = torch.from_numpy(np.stack([study.back(each.numpy()) for each in chances]))
    bits = _bits(torch.stack([there, 1 - there])).mean(0).numpy()
    labels = torch.where(there.max(0).values > HALF, there.argmax(0) + 1, 0).numpy().astype(np.uint8)
    voxel_mm3 = abs(float(np.linalg.det(study.stored.affine[:3, :3])))
    volumes = tuple(float((labels == n).sum()) * voxel_mm3 for n in range(1, len(there) + 1))
    return Segmented(labels, volumes, float(bits[looked].mean())), bits


def _classified(name: str, head: Head, mean: Tensor) -> Classified:
    """Return what a head says of the patient, given the mean over cases `(C,)`."""
    values = mean.tolist()
    if head.kind == "survival":
        return Classified({f"log relative risk of {name}": values[0]}, None)
    if len(values) == 1:
        return Classified({f"probability of {name}": values[0]}, float(_bits(torch.stack([mean, 1 - mean]))))
    chances = {f"probability of {name} {n}": value for n, value in enumerate(values)}
    return Classified(chances, float(_bits(mean)))


def _bits(chances: Tensor) -> Tensor:
    """Return the entropy of distributions over the first axis."""
    return -torch.xlogy(chances, chances).sum(0) / np.log(2)
