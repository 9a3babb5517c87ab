"""Identifiers in every place that an export has for them, and in no byte of what comes of it."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataelem import DataElement
from typer.testing import CliRunner

from client.cli import site
from imaging import deidentify
from imaging.burned_in import Verdict
from imaging.ingest import admit, slices, tables
from imaging.ingest import desk as module
from imaging.ingest.desk import Desk
from tests.imaging.ingest.drawings import write_seg, write_structures
from tests.imaging.ingest.exports import NAME, SHAPE, changed, draw, write_export, write_mask, zipped

CANARIES = re.compile(NAME.encode(), re.IGNORECASE)


def write_everywhere(root: Path) -> Path:
    """An export with names in headers, folders, files, members of zip files, tables, reports and pictures."""
    write_export(root, patients=2)
    pacs, labels = root / "pacs", root / "labels"
    for number, path in enumerate(sorted(pacs.rglob("*.dcm"))):
        private = {"StudyDescription": NAME, "PatientComments": NAME, "OperatorsName": NAME, "StudyID": NAME}
        changed(path, **private, SeriesDescription=f"t1 {NAME}", AccessionNumber=f"{NAME}{number}")
    changed(next(pacs.rglob("*.dcm")), BurnedInAnnotation="YES")
    write_mask(labels, 2, NAME)
    write_mask(labels, 1, descrip=NAME.encode(), db_name=NAME.encode(), aux_file=NAME.encode())
    (labels / f"{NAME}.csv").write_text(f"patient,grade\n{NAME},1\n", encoding="utf-8")
    (root / "more").mkdir()
    (root / "more" / "labels.csv").write_text(f"patient,doctor\n{NAME}-1,{NAME}\n", encoding="utf-8")
    (pacs / f"{NAME}.txt").write_text(NAME, encoding="utf-8")
    (pacs / "t1.nii").write_text(NAME, encoding="utf-8")
    report = f'patient,text\n{NAME}-3,"{NAME} has an oedema"\n'
    (root / "more" / "report.csv").write_text(report, encoding="utf-8")
    (root / "report").mkdir()
    (root / "report" / f"{NAME}-2.txt").write_text(f"{NAME} has an oedema", encoding="utf-8")
    draw(root / "drawn" / f"{NAME}-3" / "t1" / f"{NAME}_1.png", np.eye(8, dtype=np.uint8))
    drawn_on, mask = pacs / f"{NAME}_1" / "t1", np.zeros(SHAPE, bool)
    mask[4:6, 4:6, 1:3] = True
    write_seg(pacs / "seg.dcm", drawn_on, {f"core {NAME}": mask}, said=NAME)
    corners = [(1.5, 1.5), (4.5, 1.5), (4.5, 4.5)]
    write_structures(pacs / "rt.dcm", drawn_on, {f"core {NAME}": [(1, corners)]}, said=NAME)
    zipped(root / f"{NAME}.zip", pacs)
    return root


def leaks(home: Path, said: str) -> list[str]:
    """Where a canary is found: in names, in bytes, in what was said."""
    files = [path for path in home.rglob("*") if path.is_file()]
    found = [str(path) for path in home.rglob("*") if CANARIES.search(path.name.encode())]
    found += [str(path) for path in files if CANARIES.search(path.read_bytes())]
    return found + (["said"] if CANARIES.search(said.encode()) else [])


def run(export: Path, home: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Ingest as a hospital does, and look."""
    home.mkdir()
    settings = "{tables: [labels, report], terms: {text: {oedema: [oedema]}}, slices_mm: [1, 1, 1]}"
    (home / "ingest.yaml").write_text(settings, encoding="utf-8")
    words = ["ingest", str(export), "--cohort", "brain", "--home", str(home), "--workers", "1"]
    with caplog.at_level(logging.DEBUG):
        result = CliRunner().invoke(site, words)
    assert result.exit_code == 0, result.exception
    return leaks(home, result.output + caplog.text)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_everywhere(tmp_path_factory.mktemp("export"))


def test_no_identifier_is_in_what_was_written_or_said(
    export: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(export, tmp_path / "home", caplog) == []
    home = tmp_path / "home"
    report = (home / "cohorts" / "brain" / "quality.html").read_text(encoding="utf-8")
    assert next(home.glob("cohorts/brain/report.csv")).read_text(encoding="utf-8").endswith(",1\n")
    for word in ("unlisted_outline", "may_identify", "not_dicom", "no_modality", "not_taken", "unreadable"):
        assert word in report


def copied(element: DataElement, _: object) -> DataElement:
    """What a mutant does with a name."""
    return element


MUTANTS = {
    "paths as they are": (Desk, "digest", lambda _, entry: re.sub("[/\0]", "_", entry.name)),
    "any name of a scan": (admit, "nifti_name", lambda _, file: file.partition(".")[0]),
    "patients as they are": (Desk, "patient", lambda _, name: name),
    "reports as they are": (tables, "_told", lambda column, cell, _: [(column, cell)]),
    "pictures as they are": (slices, "pixels_of", lambda path: path.read_bytes()),
    "outlines as they are called": (deidentify, "_ACTIONS", {**deidentify._ACTIONS, "label": copied}),
    "headers as they are": (admit, "deidentify", lambda dataset, *_: (dataset, Verdict())),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_that_lets_one_through_is_caught(
    export: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    mutant: str,
) -> None:
    monkeypatch.setattr(*MUTANTS[mutant])
    monkeypatch.setattr(module, "_sound", str)

    assert run(export / "labels" if "scan" in mutant else export, tmp_path / "home", caplog) != []
