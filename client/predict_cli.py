"""`consilium site predict MODEL STUDY... --out DIR`: a trained model on this hospital's own studies."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from client.enrol_cli import HERE, Home
from client.home import SiteHome
from client.predict import INGESTED, Prediction, predict, scans_of
from client.predict_files import write_prediction
from imaging.derived import label_of
from imaging.ingest.manifest import made_by
from imaging.ingest.settings import Method, read_method
from imaging.modality import site_rules
from imaging.study import as_scanned, read_study
from models.exported import Predictor, load
from protocol.errors import DataError, DicomError
from protocol.recipe import Recipe


def predict_studies(
    model: Annotated[Path, typer.Argument(help="folder of a finished run, or of an exported model")],
    studies: Annotated[list[Path], typer.Argument(metavar="STUDY...", help="a folder of DICOM files each")],
    *,
    out: Annotated[Path, typer.Option(help="where a folder a study is written: study-1, study-2, ...")],
    home: Home = HERE,
    settings: Annotated[
        Path | None,
        typer.Option(help="how this site's scans are made ready; by default the home's ingest.yaml"),
    ] = None,
    reference: Annotated[
        str, typer.Option(help="modality on whose voxels masks lie; by default that which gives the grid")
    ] = "",
    modalities: Annotated[
        Path | None, typer.Option(help="this site's own rules of modalities, a .yaml")
    ] = None,
) -> None:
    """Outline and classify studies with whatever modalities they have. Research use only.

    Their scans are made ready as those of the cohort were that the model was trained on. Studies are called
    by their place in the command, since a folder's name may be a patient's.
    """
    predictor = load(model)
    method, prepared = _method(predictor.recipe, SiteHome(home), settings)
    method = replace(method, rules=site_rules(modalities)) if modalities else method
    console, failed = Console(), 0
    console.print(prepared, markup=False, highlight=False, soft_wrap=True)
    for number, study in enumerate(track(studies, "predicting", console=console, transient=True), 1):
        name = f"study-{number}"
        try:
            told = list(_one(predictor, study, out / name, reference, method))
        except DataError as error:
            told, failed = [str(error)], failed + 1
        for line in told:
            console.print(f"{name}: {line}", markup=False, highlight=False, soft_wrap=True)
    if failed:
        raise DataError(
            f"{failed} of {len(studies)} studies were not predicted, see above; the others are in {out}"
        )


def _method(recipe: Recipe, home: SiteHome, settings: Path | None) -> tuple[Method, str]:
    """Return how scans are made ready for a model, and what is told of that."""
    if recipe.data.name != INGESTED:
        return as_scanned(
            scans_of(recipe)
        ), "scans are used as they are: the model was not trained on a cohort of ours"
    method = read_method(settings or home.if_there(home.ingest))
    same = sorted(folder.name for folder in home.cohorts.glob("*") if made_by(folder, method))
    told = f"as for cohort {', '.join(same)}" if same else "by settings that no cohort here was made with"
    return method, f"scans are made ready {told}"


def _one(predictor: Predictor, study: Path, folder: Path, reference: str, method: Method) -> Iterator[str]:
    """Predict one study and yield what there is to tell of it, naming nobody."""
    refused = Counter[str]()

    def refuse(path: Path, error: DicomError) -> None:
        del path  # may be named as the patient is
        refused[error.reason] += 1

    found = predict(
        predictor, read_study(study, scans_of(predictor.recipe), refuse, method=method, onto=reference)
    )
    write_prediction(folder, found)
    yield from _told(found)
    if refused:
        yield f"files that were not read: {', '.join(f'{n} {reason}' for reason, n in refused.items())}"
    yield f"written: {folder}"


def _told(prediction: Prediction) -> Sequence[str]:
    made, findings = prediction.made, prediction.findings
    lines = [f"used {', '.join(made.used)}"]
    lines += [f"absent {name}: {why}" for name, why in made.absent.items()]
    for head, found in findings.segmented.items():
        for number, volume in enumerate(found.volumes_mm3, 1):
            label = label_of(head, number, len(found.volumes_mm3))
            lines.append(f"{label} {volume:.1f} mm3, mean entropy {found.entropy_bits:.3f} bits")
    for found in findings.classified.values():
        lines += [f"{what} {value:.3f}" for what, value in found.measures.items()]
    return lines
