"""Studies into findings, by models whose answer is known."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from SimpleITK import TranslationTransform
from torch import Tensor

from client import predict as module
from client.predict import Prediction, predict, scans_of
from imaging.ingest.settings import IngestSettings, Method
from imaging.modality import shipped_rules
from imaging.sources import read_cohort
from imaging.study import read_study
from imaging.volume import Affine, Volume
from models.catalogue import build_model
from models.exported import Predictor
from models.flat import Flat
from protocol.batch import Batch
from protocol.errors import DataError
from protocol.recipe import Head, Modality, Part, Recipe
from sim.phantom import write_phantom
from sim.phantom_dicom import write_archive, write_series
from tests.imaging import studies
from tests.imaging.ingest.exports import brought, desk

SLICES = Recipe(
    "rigged",
    {"flair": Modality(), "t1": Modality(), "age": Modality("table", 1)},
    {
        "tumour": Head("segmentation", 1, Part("dice_ce")),
        "grade": Head("classification", 2, Part("cross_entropy")),
        "risk": Head("survival", 1, Part("cox")),
    },
    Part("nifti", {"size": (16, 16)}),
    Part("parallel_unet", {"channels": (4, 8)}),
)
VOLUMES = replace(SLICES, data=Part("nifti", {"size": (12, 12, 12)}))


class Rigged(Predictor):
    """Finds whatever is far brighter than the rest, in any modality that is there."""

    def __init__(self, recipe: Recipe = SLICES) -> None:
        self.recipe = recipe
        self.batches: list[Batch] = []

    def probabilities(self, batch: Batch) -> dict[str, Tensor]:
        """0.9 where it is bright, which is 0 when normalised; grade and risk count the modalities."""
        self.batches.append(batch)
        shown = [batch.inputs[n] for n in ("flair", "t1")]
        there = batch.present[:, :2]
        bright = torch.stack([(x > -0.5).flatten(1) & there[:, [i]] for i, x in enumerate(shown)]).any(0)
        chances = torch.where(bright.view(shown[0].shape), 0.9, 0.1)
        share = there.float().mean(1, keepdim=True)
        return {"tumour": chances, "grade": torch.cat([share, 1 - share], 1), "risk": share}


def study_of(folder: Path, affine: Affine, *modalities: str) -> Prediction:
    """Write scans of the same structure and predict them."""
    for name in modalities:
        write_series(folder / name, studies.scan(affine, len(name)), name, "siemens", "patient")
    return predict(Rigged(), read_study(folder, ("flair", "t1"), studies.never))


@pytest.mark.parametrize("recipe", [SLICES, VOLUMES])
@pytest.mark.parametrize("plane", studies.PLANES)
def test_the_mask_lies_where_the_structure_is(tmp_path: Path, plane: str, recipe: Recipe) -> None:
    """Voxel for voxel in the scan as it is stored, however it lies in the patient."""
    study = studies.study(tmp_path, studies.PLANES[plane])
    found = predict(Rigged(recipe), study).findings.segmented["tumour"]
    np.testing.assert_array_equal(found.labels, studies.structure())
    assert found.volumes_mm3 == pytest.approx((24.0 * studies.structure().sum(),))


def test_resampled_for_the_model_and_back_it_is_still_there(tmp_path: Path) -> None:
    """The model works at 4 x 6 x 4 mm; the mask on the scan's 2 x 3 x 4 mm overlaps by most of it."""
    recipe = replace(SLICES, data=Part("nifti", {"size": (8, 8), "spacing_mm": (4.0, 6.0, 4.0)}))
    labels = predict(Rigged(recipe), studies.study(tmp_path)).findings.segmented["tumour"].labels
    truth = studies.structure()
    assert 2 * (labels & truth).sum() / (labels.sum() + truth.sum()) > 0.7
    centre = [np.argwhere(mask).mean(0) for mask in (labels, truth)]
    assert np.abs(centre[0] - centre[1]).max() < 0.6


def test_used_and_absent_are_what_the_model_saw(tmp_path: Path) -> None:
    found = study_of(tmp_path, studies.AXIAL, "flair")
    assert found.made.used == ("flair",)
    assert found.made.absent == {"t1": "the study has no series of it", "age": module.TABLE}
    both = study_of(tmp_path, studies.AXIAL, "t1")
    assert both.made.used == ("flair", "t1")
    assert both.subsets.keys() == {"flair", "t1"}


def test_what_stands_in_an_absent_modalitys_place_is_not_there(tmp_path: Path) -> None:
    predictor = Rigged()
    predict(predictor, studies.study(tmp_path))
    assert all(batch.present.tolist() == [[True, False, False]] * len(batch) for batch in predictor.batches)


def test_an_absent_modality_that_is_listed_as_used_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant that believes in every modality of the recipe."""
    right: Callable[..., Batch] = module._batch

    def all_there(*args: object) -> Batch:
        batch = right(*args)
        return batch.seeing(torch.ones_like(batch.present))

    monkeypatch.setattr(module, "_batch", all_there)
    made = predict(Rigged(), studies.study(tmp_path)).made
    assert made.used != ("flair",)


def test_a_scan_that_does_not_reach_the_reference_is_absent(tmp_path: Path) -> None:
    far = studies.AXIAL.copy()
    far[2, 3] += 1000
    write_series(tmp_path / "far", studies.scan(far), "t1", "siemens", "patient")
    found = predict(Rigged(), studies.study(tmp_path))
    assert (found.made.used, found.made.absent["t1"]) == (("flair",), module.EMPTY)


def test_slices_that_hold_nothing_are_neither_predicted_nor_counted(tmp_path: Path) -> None:
    """A model that finds the structure everywhere is not asked about black slices."""
    scan = studies.scan(studies.AXIAL)
    scan.values[:, :, 4:] = 0
    write_series(tmp_path / "1", scan, "flair", "siemens", "patient")
    predictor = Rigged()
    study = read_study(tmp_path, ("flair", "t1"), studies.never)
    found = predict(predictor, study)
    assert sum(map(len, predictor.batches)) == 4
    assert not found.findings.segmented["tumour"].labels[:, :, 4:].any()
    nothing = replace(study, volumes={"flair": Volume(scan.values * 0, scan.affine)})
    with pytest.raises(DataError, match="every scan of the study is empty"):
        predict(Rigged(), nothing)


def test_entropy_and_probabilities_are_those_of_the_formula(tmp_path: Path) -> None:
    found = study_of(tmp_path, studies.AXIAL, "flair").findings
    bits = -(0.9 * np.log2(0.9) + 0.1 * np.log2(0.1))
    assert found.segmented["tumour"].entropy_bits == pytest.approx(bits)
    assert found.classified["grade"].measures == {
        "probability of grade 0": 0.5,
        "probability of grade 1": 0.5,
    }
    assert found.classified["grade"].entropy_bits == pytest.approx(1.0)
    assert found.classified["risk"].measures == {"log relative risk of risk": 0.5}
    assert found.classified["risk"].entropy_bits is None


def test_classes_are_told_apart(tmp_path: Path) -> None:
    class Two(Rigged):
        def probabilities(self, batch: Batch) -> dict[str, Tensor]:
            """The second class where it is bright, the first, less sure, where it is not."""
            one = super().probabilities(batch)["tumour"]
            return {"tumour": torch.cat([0.8 - one / 2, one], 1)}

    recipe = replace(SLICES, heads={"tumour": Head("segmentation", 2, Part("dice_ce"))})
    found = predict(Two(recipe), studies.study(tmp_path)).findings.segmented["tumour"]
    np.testing.assert_array_equal(found.labels, studies.structure() + 1)


def test_a_model_sees_what_it_saw_in_training(tmp_path: Path) -> None:
    """The cases are those of the reader that it was trained with, given the same scan as NIfTI."""
    recipe = replace(
        SLICES,
        modalities={"flair": Modality()},
        heads={"tumour": SLICES.heads["tumour"]},
        data=Part("nifti", {"size": (16, 9), "spacing_mm": (3.0, 3.0, 4.0)}),
    )
    study = studies.study(tmp_path / "study", studies.OBLIQUE)
    (tmp_path / "site" / "p").mkdir(parents=True)
    study.volumes["flair"].save(tmp_path / "site" / "p" / "flair.nii.gz")
    Volume(studies.structure().astype(np.float32), studies.OBLIQUE).save(
        tmp_path / "site" / "p" / "tumour.nii.gz"
    )
    trained = read_cohort(tmp_path / "site", recipe, None).cases
    batch = module._batch(recipe, study, module._grid(recipe, study))
    torch.testing.assert_close(batch.inputs["flair"], trained.inputs["flair"])
    assert torch.equal(batch.present, trained.present)


WAYS = {
    "as shipped": "{}",
    "other voxels": "{crop: false, spacing_mm: [5, 4, 9]}",
    "registered": "{register: true, spacing_mm: [8, 8, 8]}",
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One patient's four scans as DICOM; the model asks for two, and neither gives the grid."""
    root = tmp_path_factory.mktemp("archive")
    write_phantom(root / "truth", sites=1, patients=1, size=24)
    write_archive(root / "truth", root / "dicom")
    return root / "dicom" / "site_1"


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.slow) if way != "registered" else way for way in WAYS]
)
def test_a_study_becomes_the_very_arrays_of_its_cohort(archive: Path, tmp_path: Path, way: str) -> None:
    """To the last bit: by what ingest.yaml says, and from headers with their identifiers and without."""
    at = desk(tmp_path / "home", WAYS[way])
    brought([archive], at)
    recipe = replace(
        SLICES, modalities={n: Modality() for n in ("flair", "t2")}, data=Part("ingested", {"size": (20, 16)})
    )
    study = read_study(archive, ("flair", "t2"), studies.never, method=at.method)
    otherwise = read_study(archive, ("flair", "t2"), studies.never)

    trained = read_cohort(at.folder, replace(recipe, heads={"tumour": SLICES.heads["tumour"]}), None).cases
    asked = module._batch(recipe, study, module._grid(recipe, study))
    mutant = module._batch(recipe, otherwise, module._grid(recipe, otherwise))

    assert torch.equal(asked.present, trained.present)
    assert all(torch.equal(asked.inputs[name], trained.inputs[name]) for name in ("flair", "t2"))
    assert asked.inputs["t2"].shape != mutant.inputs["t2"].shape or not torch.equal(
        asked.inputs["t2"], mutant.inputs["t2"]
    )
    assert study.reference == "t1c"
    assert ("registered" in str(study.steps["t2"])) == ("register" in WAYS[way])


def test_what_was_cut_and_resampled_is_written_on_the_scans_own_voxels(tmp_path: Path) -> None:
    """The structure is found in a box around it, and nothing is said of what is outside."""
    settings = IngestSettings(reference=("flair",), margin_mm=1)
    write_series(tmp_path / "1", studies.scan(studies.OBLIQUE), "flair", "siemens", "patient")
    study = read_study(tmp_path, ("flair",), studies.never, method=Method(settings, shipped_rules()))
    found = predict(Rigged(), study).findings.segmented["tumour"]

    assert study.volumes["flair"].values.shape < studies.SHAPE
    np.testing.assert_array_equal(found.labels, studies.structure())


def test_findings_go_back_against_the_motion_by_which_a_scan_came(tmp_path: Path) -> None:
    """A scan that shows everything two voxels further to the patient's left."""
    study = studies.study(tmp_path)
    moved = replace(study, motion=TranslationTransform(3, (4.0, 0.0, 0.0)))
    values = study.volumes["flair"].values

    np.testing.assert_allclose(moved.back(values)[2:], study.back(values)[:-2], atol=1e-3)
    assert not np.allclose(moved.back(values), study.back(values), atol=1)


def test_a_real_network_is_asked_in_parts_with_the_same_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(
        SLICES, modalities={n: Modality() for n in ("flair", "t1")}, heads={"tumour": SLICES.heads["tumour"]}
    )
    predictor = Predictor(recipe, Flat(build_model(recipe)).vectors)
    study = studies.study(tmp_path)
    whole = predict(predictor, study).findings.entropy["tumour"]
    monkeypatch.setattr(module, "AT_ONCE", 2)
    np.testing.assert_allclose(predict(predictor, study).findings.entropy["tumour"], whole, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{"data": Part("slices", {"size": 16})}, {"modalities": {"age": Modality("table", 1)}}]
)
def test_models_of_something_else_than_scans_are_refused(changes: Mapping[str, object]) -> None:
    with pytest.raises(DataError, match="no DICOM study gives"):
        scans_of(replace(SLICES, **changes))  # pyright: ignore[reportArgumentType]
