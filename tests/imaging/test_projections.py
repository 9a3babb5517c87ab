"""X-rays and ultrasound: pictures of one plane, from an archive to the cases of a cohort."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from highdicom.sr import srread
from nibabel.nifti1 import load
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset

from imaging.derived import Classified, source_of
from imaging.dicom import quiet, read_header
from imaging.frames import frames
from imaging.ingest.bring import Common
from imaging.ingest.build import build
from imaging.ingest.desk import Desk
from imaging.measurements import write_report
from imaging.reasons import Reason
from imaging.segmentation import write_segmentation
from imaging.series import collect, read_volume
from imaging.sources import read_cohort
from imaging.study import read_study
from imaging.volume import Volume
from protocol.errors import DicomError
from protocol.recipe import Head
from sim.phantom_dicom import uid_of
from tests.imaging.dicoms import mr
from tests.imaging.files import recipe
from tests.imaging.ingest.exports import brought, desk, write_scan
from tests.imaging.ingest.exports import patient as number_of
from tests.imaging.studies import MADE, found, never

VALUES = np.arange(24, dtype=np.uint16).reshape(4, 6) * 10
DETECTOR = {"ImagerPixelSpacing": [0.2, 0.3]}
REGION = {
    "PhysicalUnitsXDirection": 3,
    "PhysicalUnitsYDirection": 3,
    "PhysicalDeltaX": 0.03,
    "PhysicalDeltaY": -0.02,
}


def write(path: Path, values: NDArray[Any] = VALUES, modality: str = "DX", **attributes: Any) -> Path:
    """A picture, `(rows, columns)` or in colour, whose header says nothing of where it lies."""
    header = mr(0)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(header, keyword)
    bits = values.dtype.itemsize * 8
    kind = {
        "SOPClassUID": uid.DigitalXRayImageStorageForPresentation,
        "Modality": modality,
        "SOPInstanceUID": uid.generate_uid(entropy_srcs=[path.name, modality]),
        "SamplesPerPixel": values.shape[2] if values.ndim == 3 else 1,
        "PhotometricInterpretation": "RGB" if values.ndim == 3 else "MONOCHROME2",
        "PlanarConfiguration": 0,
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
        "PixelData": values.tobytes(),
    }
    header.Rows, header.Columns = values.shape[:2]
    with quiet():
        for keyword, value in (kind | attributes).items():
            setattr(header, keyword, value)
        path.parent.mkdir(parents=True, exist_ok=True)
        header.save_as(path, enforce_file_format=True)
    return path


def volume(path: Path) -> Volume:
    """The volume of a series of one picture."""
    (stack,) = collect([path], never)
    return read_volume(stack)


def region() -> Dataset:
    item = Dataset()
    for keyword, value in REGION.items():
        setattr(item, keyword, value)
    return item


SIZES: dict[str, tuple[dict[str, Any], tuple[float, float]]] = {
    "of the patient, where that is known": ({**DETECTOR, "PixelSpacing": [0.1, 0.15]}, (0.15, 0.1)),
    "of the detector": (DETECTOR, (0.3, 0.2)),
    "of the detector, less the magnification": (
        {**DETECTOR, "EstimatedRadiographicMagnificationFactor": 2},
        (0.15, 0.1),
    ),
    "of the film's scanner": ({"NominalScannedPixelSpacing": [0.4, 0.5]}, (0.5, 0.4)),
    "of the region of ultrasound": ({"SequenceOfUltrasoundRegions": [region()]}, (0.3, 0.2)),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_pixel_is_as_large_as_the_best_that_the_header_says(tmp_path: Path, name: str) -> None:
    attributes, spacing = SIZES[name]

    picture = volume(write(tmp_path / "1.dcm", **attributes))

    assert picture.spacing_mm == pytest.approx((*spacing, 1.0))
    assert np.array_equal(picture.values[:, :, 0], VALUES.T)
    centre = picture.affine @ [(6 - 1) / 2, (4 - 1) / 2, 0, 1]
    assert centre[:3] == pytest.approx([0, 0, 0])


def test_a_picture_that_does_not_say_how_large_it_is_is_refused_unless_the_hospital_says_it(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "1.dcm")

    with pytest.raises(DicomError) as caught:
        frames(read_header(path), path)
    assert caught.value.reason == Reason.NO_GEOMETRY
    (stack,) = collect([path], never, pictures_mm=(0.4, 0.5))
    assert read_volume(stack).spacing_mm == pytest.approx((0.5, 0.4, 1.0))


@pytest.mark.parametrize(("signed", "bits"), [(0, 12), (1, 12), (0, 16)])
def test_light_is_high_whichever_way_a_detector_counts(tmp_path: Path, signed: int, bits: int) -> None:
    """MONOCHROME1 turned over is MONOCHROME2 again, whatever the rescale; and without that it is not."""
    coding = {**DETECTOR, "PixelRepresentation": signed, "BitsStored": bits, "HighBit": bits - 1}
    units = {"RescaleSlope": 2, "RescaleIntercept": -100}
    highest = 2 ** (bits - signed) - 1
    lowest = -(2 ** (bits - 1)) if signed else 0
    mirrored = (highest + lowest - VALUES.astype(int)).astype(np.int16).view(np.uint16)

    plain = volume(write(tmp_path / "1.dcm", **coding, **units))
    turned = write(tmp_path / "2.dcm", mirrored, **coding, **units, PhotometricInterpretation="MONOCHROME1")

    assert np.array_equal(plain.values[:, :, 0], 2 * VALUES.T.astype(np.float32) - 100)
    assert np.array_equal(volume(turned).values, plain.values)


def test_ultrasound_in_colour_becomes_grey_and_nothing_else_does(tmp_path: Path) -> None:
    colours = np.zeros((4, 6, 3), np.uint8)
    colours[0, 0], colours[1, 2] = (100, 100, 100), (0, 255, 0)

    picture = volume(write(tmp_path / "1.dcm", colours, "US", SequenceOfUltrasoundRegions=[region()]))

    assert picture.values[0, 0, 0] == pytest.approx(100)
    assert picture.values[2, 1, 0] == pytest.approx(255 * 0.587)
    palette = {"PhotometricInterpretation": "PALETTE COLOR", "SequenceOfUltrasoundRegions": [region()]}
    for path in (
        write(tmp_path / "2.dcm", colours, "DX", **DETECTOR),
        write(tmp_path / "3.dcm", VALUES, "US", **palette),
    ):
        with pytest.raises(DicomError) as caught:
            frames(read_header(path), path)
        assert caught.value.reason == Reason.COLOUR


# -- Through ingest --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Two views of two detectors; a view and a volume; a view and a raw image; ultrasound."""
    root = tmp_path_factory.mktemp("pictures")
    tall = np.pad(VALUES, ((2, 2), (1, 1)))  # the same about its middle
    shown = {"StudyInstanceUID": "1.2.4", **DETECTOR}
    one, two, three, four = ({"PatientID": number_of(number)} for number in range(1, 5))
    write(root / "pacs" / "1", **one, **shown, ViewPosition="PA")
    write(root / "pacs" / "2", tall, "CR", **one, **shown, ViewPosition="LL")
    same_study = {**DETECTOR, "StudyInstanceUID": uid_of(number_of(2))}
    write(root / "pacs" / "3", **two, **same_study, ViewPosition="PA")
    write_scan(root / "pacs", 2, "t1")
    write(root / "pacs" / "4", **three, **shown, ViewPosition="PA")
    raw = uid.DigitalXRayImageStorageForProcessing
    write(root / "pacs" / "5", **three, **shown, ViewPosition="LL", SOPClassUID=raw)
    still = np.full((4, 6, 3), 90, np.uint8)
    still[0] = 255
    us = {"SOPClassUID": uid.UltrasoundImageStorage, "SequenceOfUltrasoundRegions": [region()]}
    write(root / "pacs" / "6", still, "US", **four, **us)
    at = desk(root / "home", "{crop: false, spacing_mm: [0.3, 0.2, 9], register: true}")
    rules = root / "blackenings.yaml"
    rules.write_text("[{where: {Modality: US, Rows: 4, Columns: 6}, boxes: [[0, 0, 6, 1]]}]", "utf-8")
    at = Desk.at(str(at.folder), *map(str, at.sources[:2]), str(rules))
    brought([root / "pacs"], at)
    return at


def names(at: Desk, number: int) -> set[str]:
    return {path.name for path in at.scans(at.patient(number_of(number))).glob("*")}


def test_views_are_recognised_each_by_itself_and_lie_middle_on_middle(cohort: Desk) -> None:
    """Of one series, of two sizes: the second is brought to the first's pixels, which it equals there."""
    folder = cohort.scans(cohort.patient(number_of(1)))
    assert names(cohort, 1) == {"xr_pa.nii", "xr_lateral.nii"}

    front, side = (np.asarray(load(folder / f"{name}.nii").dataobj) for name in ("xr_pa", "xr_lateral"))

    assert front.shape == side.shape == (8, 8, 1)
    assert front == pytest.approx(side, abs=1e-4)


def test_a_picture_and_a_volume_are_never_one_grid(cohort: Desk) -> None:
    assert names(cohort, 2) == {"t1.nii"}


def test_what_a_detector_has_not_finished_is_put_aside(cohort: Desk) -> None:
    assert names(cohort, 3) == {"xr_pa.nii"}


def test_ultrasound_whose_text_was_blackened_is_taken(cohort: Desk) -> None:
    still = load(cohort.scans(cohort.patient(number_of(4))) / "us.nii")

    assert np.unique(np.asarray(still.dataobj).round(3)).tolist() == [0, 90]


def test_a_recipe_of_two_dimensions_trains_on_them(cohort: Desk) -> None:
    """Each picture is a case, and whoever lacks a view has it absent."""
    options = {"size": (8, 8), "spacing_mm": (0.3, 0.2, 1.0)}
    wanted = recipe("ingested", ("xr_pa", "xr_lateral"), {"sick": Head("pretext")}, **options)

    cases = read_cohort(cohort.folder, wanted, None).cases

    assert cases.inputs["xr_pa"].shape[1:] == (1, 8, 8)
    assert [True, True] in cases.present.tolist()
    assert [True, False] in cases.present.tolist()


def test_a_picture_laid_on_a_volume_is_caught(cohort: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Common, "elsewhere", lambda *_: "")
    stand_in = cohort.patient(number_of(2))

    build(cohort, stand_in)

    with pytest.raises(AssertionError):
        test_a_picture_and_a_volume_are_never_one_grid(cohort)
    monkeypatch.undo()
    build(cohort, stand_in)


# -- And out again ---------------------------------------------------------------------------


def test_a_study_of_a_picture_is_answered_by_a_report(tmp_path: Path) -> None:
    """A segmentation would have to say where it lies."""
    write(tmp_path / "study" / "1", **DETECTOR, ViewPosition="PA", PatientID="1")
    study = read_study(tmp_path / "study", ("xr_pa", "xr_lateral"), never)
    source, path = source_of(study.series["xr_pa"].stack), tmp_path / "report.dcm"
    grade = Classified({"probability of grade 1": 0.25}, None)

    write_report(path, {}, {"grade": grade}, source, MADE)

    (group,) = srread(path).content.get_image_measurement_groups()
    assert [float(each.value) for each in group.get_measurements()] == [0.25]
    labels = found(np.ones((6, 4, 1), np.uint8))
    with pytest.raises(DicomError, match="frame of reference"):
        write_segmentation(tmp_path / "seg.dcm", "tumour", labels, source, MADE)
