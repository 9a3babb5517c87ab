"""What is written of a prediction, in one folder a study that only its owner may open.

    HEAD.seg.dcm       DICOM SEG on a series' voxels, by default the reference's
    report.sr.dcm      DICOM structured report: volumes, probabilities, entropies
    HEAD.nii.gz        the same label map as NIfTI
    HEAD.png           the label map's outline on each scan, and where the model was unsure
    prediction.json    numbers, and what they were made from; names no patient

The folder gets its name when it is whole, and is never written over.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from client.predict import Findings, Prediction
from imaging.derived import label_of, source_of
from imaging.measurements import write_report
from imaging.pictures import draw
from imaging.recognised import Series
from imaging.segmentation import write_segmentation
from imaging.study import Study
from imaging.volume import Volume, save_labels
from protocol.errors import DataError, SettingsError

OWNER_ONLY = 0o700


def write_prediction(folder: Path, prediction: Prediction) -> None:
    """Write a new `folder`; nothing is left of it if that fails.

    Raises:
        DataError: it is there already.
        SettingsError: the disk is full, or not ours to write.
        DicomError: nothing can be derived from the reference series, which the message says why.
    """
    if folder.exists():
        raise DataError(f"{folder} is there already and stays as it is: give another --out")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(OWNER_ONLY, parents=True)
        _write(partial, prediction)
        partial.rename(folder)
    except OSError as error:
        raise SettingsError(
            f"{folder} cannot be written ({error.strerror}): make room, or give another --out"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(folder: Path, prediction: Prediction) -> None:
    study, made, findings = prediction.study, prediction.made, prediction.findings
    source, affine = source_of(study.series[study.onto].stack), study.stored.affine
    scans = {name: _shown(study, study.volumes[name]) for name in made.used}
    written = {
        head: (found, write_segmentation(folder / f"{head}.seg.dcm", head, found, source, made))
        for head, found in findings.segmented.items()
    }
    write_report(folder / "report.sr.dcm", written, findings.classified, source, made)
    for head, found in findings.segmented.items():
        save_labels(folder / f"{head}.nii.gz", found.labels, affine)
        draw(folder / f"{head}.png", found.labels, scans, findings.entropy[head])
    text = json.dumps(_plain(prediction), indent=1, allow_nan=False)
    (folder / "prediction.json").write_text(text + "\n", encoding="utf-8")


def _shown(study: Study, volume: Volume) -> Volume:
    """Return what the model saw, on the voxels that results are written on."""
    return Volume(study.back(volume.values, float(volume.values.min())), study.stored.affine)


def _plain(prediction: Prediction) -> dict[str, Any]:
    study, made = prediction.study, prediction.made
    return {
        "model": {"name": made.model, "recipe_sha256": made.recipe_hash, "privacy": made.privacy},
        "software": made.software,
        "reference": study.reference,
        "written_on": study.onto,
        "used": {name: _of_series(study.series[name], study.steps[name]) for name in made.used},
        "absent": dict(made.absent),
        "found": _of_findings(prediction.findings),
        "found_by_subset": {name: _of_findings(each) for name, each in prediction.subsets.items()},
    }


def _of_series(series: Series, steps: Sequence[Any]) -> dict[str, Any]:
    modality = series.modality
    return {
        "slices": len(series.stack.frames),
        "confidence": round(modality.confidence, 3),
        "because": list(modality.because),
        "steps": list(steps),
    }


def _of_findings(findings: Findings) -> Mapping[str, Any]:
    volumes = {
        head: {
            "volume_mm3": {
                label_of(head, number, len(found.volumes_mm3)): volume
                for number, volume in enumerate(found.volumes_mm3, 1)
            },
            "mean_entropy_bits": found.entropy_bits,
        }
        for head, found in findings.segmented.items()
    }
    others = {
        head: {**found.measures, "mean_entropy_bits": found.entropy_bits}
        for head, found in findings.classified.items()
    }
    return volumes | others
