"""The quality report: what stands out, and that nothing is fetched or run."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from imaging import quality
from imaging.quality import by_name, outliers, same_scans, spread
from tests.imaging.ingest.exports import brought, desk, patient, write_export, write_scan


def scanned(
    spacing: float = 1.0, shape: int = 32, oblique: float = 0.0, voxels: str = ""
) -> Mapping[str, Any]:
    where = {"spacing_mm": [spacing] * 3, "shape": [shape] * 3, "oblique_deg": oblique}
    return {"scanned": where, "voxels": voxels}


def test_who_is_unlike_the_others_is_named_with_the_reason() -> None:
    usual = {f"P{n}": scanned() for n in range(5)}
    odd = {"THICK": scanned(spacing=5), "SMALL": scanned(shape=8), "OBLIQUE": scanned(oblique=30)}

    assert [*outliers(usual)] == []
    assert dict(outliers(usual | odd)) == {
        "THICK": "5 x 5 x 5 mm, where the median is 1 x 1 x 1",
        "SMALL": "8 x 8 x 8 voxels, where the median is 32 x 32 x 32",
        "OBLIQUE": "30 degrees off the patient's axes",
    }


def test_one_scan_under_two_patients_is_found() -> None:
    assert same_scans({"A": scanned(voxels="x"), "B": scanned(voxels="y"), "C": scanned(voxels="x")}) == [
        ["A", "C"]
    ]


def test_pictures_are_of_patients_evenly_spread() -> None:
    assert spread([*"abcdefgh"], 3) == ["a", "e", "h"]
    assert spread(["a"], 3) == ["a"]


def test_a_picture_has_the_front_up_and_the_patients_right_on_the_left() -> None:
    image = np.zeros((4, 6), np.float32)  # x to the right, y to the front
    image[3, 5] = 1  # right, front

    assert np.argwhere(np.asarray(quality._painted(image, None).convert("L"))).tolist() == [[0, 0]]


def test_only_the_outline_of_a_label_map_is_drawn() -> None:
    mask = np.zeros((8, 8), bool)
    mask[2:6, 2:6] = True

    painted = np.asarray(quality._painted(np.zeros((8, 8), np.float32), mask))

    assert (painted == quality.OUTLINE).all(-1).sum() == 12


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of an export with a scan that is there twice, as a copy and under another name."""
    root = tmp_path_factory.mktemp("export")
    write_export(root, patients=3)
    write_scan(root / "again", 1, "t1")
    write_scan(root / "pacs", 9, "t1", seed=1)
    at = desk(root / "home")
    manifest = brought([root / "pacs", root / "labels", root / "again"], at)
    path = at.folder / quality.NAME
    assert path.stat().st_mode & 0o777 == 0o600
    stand_ins = sorted(at.patient(patient(number)) for number in (1, 9))
    assert same_scans(by_name(manifest["patients"])["t1"]) == [stand_ins]
    return path.read_text(encoding="utf-8").replace(", ".join(stand_ins), "BOTH")


def test_the_report_says_who_has_what_and_what_is_there_twice(report: str) -> None:
    assert "<td>4 of 4</td>" in report
    assert '<th scope="row">t1</th><td>BOTH</td>' in report
    assert '<th scope="row">an image that is there already: used once</th><td>1</td>' in report
    assert "<b>4</b><span>studies</span>" in report


def test_nothing_is_fetched_and_nothing_runs(report: str) -> None:
    assert not re.search(r"<script|<link|javascript:|src=\"(?!data:image/png;base64,)|href=", report)
    assert "default-src 'none'" in report


def test_every_scan_has_a_picture(report: str) -> None:
    assert re.findall(r"<figcaption>(\w+)</figcaption>", report) == ["t1", "t2"]
