"""`consilium site predict MODEL STUDY... --out DIR`: a trained model on this hospital's own studies."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from client.predict import Prediction, predict, scans_of
from client.predict_files import write_prediction
from imaging.derived import label_of
from imaging.modality import Rules, site_rules
from imaging.study import read_study
from models.exported import Predictor, load
from protocol.errors import DataError, DicomError


def predict_studies(
    model: Annotated[Path, typer.Argument(help="folder of a finished run, or of an exported model")],
    studies: Annotated[list[Path], typer.Argument(metavar="STUDY...", help="a folder of DICOM files each")],
    *,
    out: Annotated[Path, typer.Option(help="where a folder a study is written: study-1, study-2, ...")],
    reference: Annotated[
        str, typer.Option(help="modality on whose voxels masks lie; by default the first")
    ] = "",
    modalities: Annotated[
        Path | None, typer.Option(help="this site's own rules of modalities, a .yaml")
    ] = None,
) -> None:
    """Outline and classify studies with whatever modalities they have. Research use only.

    Studies are called by their place in the command, since a folder's name may be a patient's.
    """
    predictor = load(model)
    scans_of(predictor.recipe)
    rules = site_rules(modalities) if modalities else None
    console, failed = Console(), 0
    for number, study in enumerate(track(studies, "predicting", console=console, transient=True), 1):
        name = f"study-{number}"
        try:
            told = list(_one(predictor, study, out / name, reference, rules))
        except DataError as error:
            told, failed = [str(error)], failed + 1
        for line in told:
            console.print(f"{name}: {line}", markup=False, highlight=False, soft_wrap=True)
    if failed:
        raise DataError(
            f"{failed} of {len(studies)} studies were not predicted, see above; the others are in {out}"
        )


def _one(
    predictor: Predictor, study: Path, folder: Path, reference: str, rules: Rules | None
) -> Iterator[str]:
    """Predict one study and yield what there is to tell of it, naming nobody."""
    refused = Counter[str]()

    def refuse(path: Path, error: DicomError) -> None:
        del path  # may be named as the patient is
        refused[error.reason] += 1

    found = predict(
        predictor, read_study(study, scans_of(predictor.recipe), refuse, reference=reference, rules=rules)
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
