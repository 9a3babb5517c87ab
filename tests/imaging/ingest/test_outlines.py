"""Label maps from SEG and RTSTRUCT, from the annotator's file to the array that trains."""

from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import load
from numpy.typing import NDArray
from pydicom import dcmread
from SimpleITK import TranslationTransform

from imaging.ingest import outlines, space, workers
from imaging.ingest.desk import Desk
from imaging.ingest.manifest import Manifest
from imaging.ingest.run import outlined
from protocol.errors import SettingsError
from sim.phantom_dicom import write_series
from tests.imaging.identified import faults
from tests.imaging.ingest.drawings import TUMOUR, write_seg, write_structures
from tests.imaging.ingest.exports import AFFINE, NAME, SHAPE, brought, desk, patient, volume

TABLE = "segments: {tumour: [[oedema], [core, Tumor Core]]}"
GRID = f"{{crop: false, {TABLE}}}"


def block(*corners: tuple[int, int]) -> NDArray[np.bool_]:
    """A box of voxels of the phantom's volume."""
    mask = np.zeros(SHAPE, np.bool_)
    mask[tuple(slice(*each) for each in corners)] = True
    return mask


OEDEMA, CORE = block((2, 8), (3, 7), (0, 3)), block((4, 6), (3, 6), (1, 3))
TRUTH = np.where(CORE, 2, np.where(OEDEMA, 1, 0))


def archive(root: Path, vendor: str = "siemens") -> Path:
    """The series that is drawn on."""
    write_series(root / "pacs" / "t1", volume(1), "t1", vendor, patient(1))
    return root / "pacs" / "t1"


def label_map(at: Desk, name: str = "tumour") -> NDArray[np.float32]:
    """What the cohort has."""
    return np.asarray(load(at.scans(at.patient(patient(1))) / f"{name}.nii").dataobj)


def asides(manifest: Manifest, at: Desk) -> list[str]:
    """What was put aside of the patient, in one word each."""
    return [each["what"] for each in manifest["patients"][at.patient(patient(1))]["aside"]]


@pytest.mark.parametrize("vendor", ["siemens", "canon"])
def test_a_multi_segment_seg_becomes_a_label_map_voxel_for_voxel(tmp_path: Path, vendor: str) -> None:
    """Also on a multi-frame series; names in any case; where segments overlap the later class is there."""
    series = archive(tmp_path, vendor)
    write_seg(tmp_path / "pacs" / "seg.dcm", series, {"Oedema ": OEDEMA, "tumor  CORE": CORE})
    at = desk(tmp_path / "home", GRID)

    record = brought([tmp_path / "pacs"], at)["patients"][at.patient(patient(1))]

    assert np.array_equal(label_map(at), TRUTH)
    assert record["scans"]["volumes"]["tumour"]["because"] == "outlined in 1 DICOM file"


def test_a_code_tells_a_segment_whatever_it_is_called(tmp_path: Path) -> None:
    series = archive(tmp_path)
    write_seg(tmp_path / "pacs" / "seg.dcm", series, {NAME: CORE}, kind=TUMOUR)
    at = desk(tmp_path / "home", '{crop: false, segments: {tumour: [["SCT:108369006"]]}}')
    brought([tmp_path / "pacs"], at)

    assert np.array_equal(label_map(at), CORE)


def test_an_rtstruct_becomes_a_label_map_to_the_voxels_border(tmp_path: Path) -> None:
    """An ellipse as a polygon: every voxel is right whose centre is further than 0.1 mm from the line."""
    series, angles = archive(tmp_path), np.linspace(0, 2 * np.pi, 90, endpoint=False)
    corners = [(5.5 + 4 * np.cos(a), 4.5 + 3 * np.sin(a)) for a in angles]
    write_structures(tmp_path / "pacs" / "rt.dcm", series, {"core": [(z, corners) for z in range(4)]})
    at = desk(tmp_path / "home", GRID)
    brought([tmp_path / "pacs"], at)

    column, row = np.indices(SHAPE[:2])
    radius = np.hypot((column - 5.5) / 4, (row - 4.5) / 3)
    sure = np.abs(radius - 1) * 3 * AFFINE[0, 0] > 0.1
    assert sure.sum() > 110
    assert np.array_equal((label_map(at) == 2)[sure], np.repeat((radius < 1)[sure, None], 4, axis=1))


def test_what_is_not_listed_is_put_aside_and_listed_for_people(tmp_path: Path) -> None:
    """A later list of names is enough: no file is read again."""
    series = archive(tmp_path)
    write_seg(tmp_path / "pacs" / "seg.dcm", series, {"GTV": CORE, "brain stem": OEDEMA})
    at = desk(tmp_path / "home", GRID)

    first = brought([tmp_path / "pacs"], at)

    assert "tumour" not in first["patients"][at.patient(patient(1))]["scans"]["volumes"]
    assert asides(first, at) == [outlines.UNLISTED]
    named = desk(tmp_path / "home", "{crop: false, segments: {tumour: [[gtv]]}}")
    assert outlined([tmp_path / "pacs"], named) == {
        ("GTV", "SCT:85756007", "tumour, class 1"): 1,
        ("brain stem", "SCT:85756007", ""): 1,
    }
    with pytest.MonkeyPatch.context() as patch:
        unread = workers.Job(lambda *_: pytest.fail("read again"), lambda *_: None)
        patch.setitem(workers.JOBS, "admit", unread)
        brought([tmp_path / "pacs"], named)
    assert np.array_equal(label_map(named), CORE)


@pytest.mark.parametrize(("rule", "least"), [("union", 1), ("majority", 2)])
def test_several_annotators_become_one_by_the_stated_rule(tmp_path: Path, rule: str, least: int) -> None:
    """Two by SEG and one by RTSTRUCT, each a voxel further to one side; one has left a piece out."""
    series = archive(tmp_path)
    drawn = [block((start, start + 4), (3, 6), (1, 2)) for start in (3, 4, 5)]
    for number, mask in enumerate(drawn[:2]):
        write_seg(tmp_path / "pacs" / f"{number}.dcm", series, {"GTV": mask})
    corners = [(4.5, 2.5), (8.5, 2.5), (8.5, 5.5), (4.5, 5.5)]
    write_structures(tmp_path / "pacs" / "rt.dcm", series, {"GTV": [(1, corners)]})
    at = desk(tmp_path / "home", f"{{crop: false, segments: {{tumour: [[GTV]]}}, annotators: {rule}}}")

    record = brought([tmp_path / "pacs"], at)["patients"][at.patient(patient(1))]

    assert np.array_equal(label_map(at), np.sum(drawn, axis=0) >= least)
    assert record["scans"]["volumes"]["tumour"]["because"] == "outlined in 3 DICOM files"


def test_a_label_map_goes_where_its_series_is_registered_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn on a t2 that lies a voxel to the side of the t1 which gives the grid."""
    archive(tmp_path)
    write_series(tmp_path / "pacs" / "t2", volume(2), "t2", "ge", patient(1))
    write_seg(tmp_path / "pacs" / "seg.dcm", tmp_path / "pacs" / "t2", {"GTV": CORE})
    monkeypatch.setattr(space, "registered", lambda *_: TranslationTransform(3, (2.0, 0.0, 0.0)))
    settings = "{crop: false, register: true, reference: [t1], segments: {tumour: [[GTV]]}}"
    at = desk(tmp_path / "home", settings)
    brought([tmp_path / "pacs"], at)

    t2 = label_map(at, "t2")
    assert np.array_equal(t2[1:], volume(2).values[:-1]) or np.array_equal(t2[:-1], volume(2).values[1:])
    moved = np.roll(CORE, 1 if np.array_equal(t2[1:], volume(2).values[:-1]) else -1, axis=0)
    assert np.array_equal(label_map(at), moved)


def test_what_was_drawn_on_another_frame_of_reference_is_put_aside(tmp_path: Path) -> None:
    series = archive(tmp_path)
    path = write_seg(tmp_path / "pacs" / "seg.dcm", series, {"core": CORE})
    elsewhere = dcmread(path)
    elsewhere.FrameOfReferenceUID = "1.2.3"
    elsewhere.save_as(path)
    at = desk(tmp_path / "home", GRID)
    assert asides(brought([tmp_path / "pacs"], at), at) == ["no_geometry"]
    elsewhere.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.4"
    elsewhere.save_as(path)
    assert asides(brought([tmp_path / "pacs"], at), at) == ["no_series"]


def test_what_is_cut_off_of_a_label_map_is_told(tmp_path: Path) -> None:
    """The box is the image's: a model that is asked has no label map to go by."""
    series = archive(tmp_path)
    write_seg(tmp_path / "pacs" / "seg.dcm", series, {"core": block((0, 6), (3, 6), (1, 3))})
    at = desk(tmp_path / "home", f"{{margin_mm: 2, {TABLE}}}")

    manifest = brought([tmp_path / "pacs"], at)

    assert asides(manifest, at) == ["cut"]
    assert label_map(at).any()


@pytest.mark.parametrize(
    ("segments", "why"),
    [
        ("{tumour: [[GTV], [ gtv ]]}", "stands for two classes"),
        ('{tumour: [["SCT:1"]]}', "no dictionary of ours has the code"),
        ("{tumour: [GTV]}", "segments"),
    ],
)
def test_a_list_of_names_that_is_not_clear_is_refused(tmp_path: Path, segments: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        desk(tmp_path / "home", f"segments: {segments}")


def test_de_identified_drawings_are_valid_and_say_nothing(tmp_path: Path) -> None:
    """An independent judge finds no fault that the originals have not."""
    series = archive(tmp_path)
    corners = [(1.5, 1.5), (4.5, 1.5), (4.5, 4.5)]
    masks = {f"{NAME} core": CORE}
    originals = [
        write_seg(tmp_path / "pacs" / "seg.dcm", series, masks, said=NAME),
        write_structures(tmp_path / "pacs" / "rt.dcm", series, {NAME: [(1, corners)]}, said=NAME),
    ]
    at = desk(tmp_path / "home")
    brought([tmp_path / "pacs"], at)

    copies = [*at.clean(at.patient(patient(1))).glob(f"*{outlines.SUFFIX}")]
    assert len(copies) == 2
    assert not [path for path in copies if NAME.encode() in path.read_bytes()]
    new = set.union(*map(faults, copies)) - set.union(*map(faults, originals))
    assert not new
