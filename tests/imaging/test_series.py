"""From files to volumes: what belongs together, in which order, where it lies, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import uid
from pydicom.dataset import Dataset

from bench.dicom_zoo import SAME, compared
from imaging import series
from imaging.dicom import read_header
from imaging.frames import frames
from imaging.reasons import Reason
from imaging.series import Stack, collect, geometry, read_volume, stacks
from imaging.volume import Volume
from protocol.errors import DicomError
from sim.phantom_dicom import VENDORS, write_series
from tests.imaging.dicoms import mr, write
from tests.imaging.files import real

OBLIQUE = np.array([[0.8, -0.6, 0, 0], [0.6 * 0.8, 0.8 * 0.8, -0.6, 0], [0.36, 0.48, 0.8, 0], [0, 0, 0, 1]])
"""A rotation about two axes."""


def never(path: Path, error: DicomError) -> None:
    """No file may be refused."""
    raise AssertionError(path, error)


def found(*headers: Dataset) -> list[Stack]:
    """The stacks that headers make, each as one file of 4 x 6 pixels."""
    for place, header in enumerate(headers):
        header.Rows, header.Columns = 4, 6
        header.SOPInstanceUID = f"1.2.{place}" if "SOPInstanceUID" not in header else header.SOPInstanceUID
    return stacks([f for place, header in enumerate(headers) for f in frames(header, Path(f"{place}.dcm"))])


def heights(stack: Stack) -> list[float]:
    """Where a stack's slices lie."""
    return [float(frame.position[2]) for frame in stack.frames]


def why(stack: Stack) -> str:
    """Why a stack makes no volume."""
    with pytest.raises(DicomError) as caught:
        geometry(stack)
    return caught.value.reason


# -- What belongs together -------------------------------------------------------------------


@given(st.permutations(list(range(7))))
def test_slices_are_sorted_by_where_they_lie(order: list[int]) -> None:
    """Whatever the order of the files and of their numbers."""
    stack, *others = found(*(mr(5.0 * z, InstanceNumber=-z) for z in order))

    assert not others
    assert heights(stack) == [0, 5, 10, 15, 20, 25, 30]


def test_a_copy_of_an_image_is_taken_once() -> None:
    stack, *others = found(mr(0), mr(5), mr(5), mr(10))

    assert not others
    assert heights(stack) == [0, 5, 10]


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("EchoTime", [10, 20, 30]),
        ("ImageType", [["ORIGINAL", "PRIMARY", kind] for kind in "MPR"]),
        ("InversionTime", [100, 900, 2500]),
        ("DiffusionBValue", [0.0, 500.0, 1000.0]),
        ("DiffusionGradientOrientation", [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        ("TemporalPositionIdentifier", [1, 2, 3]),
        ("AcquisitionNumber", [1, 2, 3]),
        ("TriggerTime", [0, 200, 400]),
    ],
)
def test_images_of_one_place_are_told_apart(keyword: str, values: list[Any]) -> None:
    headers = [mr(5.0 * z, **{keyword: value}) for value in values for z in range(4)]

    assert [heights(stack) for stack in found(*headers)] == [[0, 5, 10, 15]] * 3


def test_a_sign_that_counts_slices_does_not_divide_a_volume() -> None:
    """Acquisitions, trigger times and clocks often run with the slices."""
    stack, *others = found(
        *(mr(5.0 * z, AcquisitionNumber=z, AcquisitionTime=f"1200{z:02}") for z in range(6))
    )

    assert not others
    assert len(stack.frames) == 6


def test_a_sign_that_counts_slices_does_not_divide_two_volumes() -> None:
    """The surest sign that tells volumes apart does."""
    headers = [
        mr(5.0 * z, TriggerTime=10 * (4 * t + z), AcquisitionNumber=t) for t in range(3) for z in range(4)
    ]

    assert [len(stack.frames) for stack in found(*headers)] == [4, 4, 4]


def test_a_time_that_was_cut_short_does_not_spoil_the_others() -> None:
    headers = [mr(5.0 * z, TemporalPositionIdentifier=t) for t in range(4) for z in range(4 if t < 3 else 2)]

    assert [len(stack.frames) for stack in found(*headers)] == [4, 4, 4, 2]


def test_a_localiser_is_three_stacks() -> None:
    planes = ([1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1])
    headers = [
        mr(0, ImageOrientationPatient=plane, ImagePositionPatient=[x, x, x])
        for plane in planes
        for x in (0, 9)
    ]

    assert [len(stack.frames) for stack in found(*headers)] == [2, 2, 2]


def test_orientations_written_with_few_digits_are_one() -> None:
    """Rounding before comparing would split them where the digits turn over."""
    _, *others = found(
        *(mr(5.0 * z, ImageOrientationPatient=[1, 0, 0.00049 + 2e-5 * z, 0, 1, 0]) for z in range(4))
    )

    assert not others


def test_thousands_of_orientations_are_told_apart_in_no_time() -> None:
    """A made-up series of them must not keep a site busy for hours."""
    (frame,) = found(mr(0))[0].frames
    angles = np.linspace(0, 3, 2000)
    turned = [replace(frame, instance=str(a), across=np.array([np.cos(a), np.sin(a), 0])) for a in angles]

    assert len(stacks(turned)) == len(turned)


# -- What is refused -------------------------------------------------------------------------


def test_two_images_of_one_place_that_nothing_tells_apart_are_refused() -> None:
    (stack,) = found(mr(0), mr(5), mr(5, PatientID="again", SOPInstanceUID="1.9"), mr(10))

    assert why(stack) == Reason.REPEATED_SLICES


@pytest.mark.parametrize(
    ("places", "reason"),
    [
        ([0, 5, 15, 20], Reason.MISSING_SLICES),
        ([0, 5, 10, 30], Reason.MISSING_SLICES),
        ([0, 5, 12, 16], Reason.UNEVEN_SLICES),
    ],
)
def test_slices_that_are_not_evenly_spaced_are_refused(places: list[float], reason: Reason) -> None:
    (stack,) = found(*map(mr, places))

    assert why(stack) == reason


def test_every_third_slice_is_no_volume() -> None:
    """Evenly spaced, but further apart than the header says, and their numbers jump."""
    (stack,) = found(*(mr(15.0 * z, InstanceNumber=3 * z, SpacingBetweenSlices=5) for z in range(4)))

    assert why(stack) == Reason.MISSING_SLICES


def test_a_gap_where_the_header_should_have_a_distance_is_no_fault() -> None:
    """The slices' numbers follow each other, so none is missing."""
    (stack,) = found(*(mr(10.0 * z, InstanceNumber=z, SpacingBetweenSlices=5) for z in range(4)))

    assert geometry(stack)[2, 2] == 10


def test_positions_may_be_rounded() -> None:
    (stack,) = found(*(mr(round(3.333333 * z, 2)) for z in range(30)))

    assert geometry(stack)[2, 2] == pytest.approx(3.3333, abs=1e-3)


def test_without_the_check_a_gap_would_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant squeezes the slices that are there together."""
    monkeypatch.setattr(series, "UNEVEN_SHARE", 9.0)
    (stack,) = found(*map(mr, [0, 5, 15, 20]))

    assert geometry(stack)[2, 2] == pytest.approx(20 / 3)


def test_files_that_are_not_read_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    good = [write(tmp_path / f"{z}.dcm", mr(5.0 * z)) for z in range(2)]
    (tmp_path / "note.txt").write_text("not a scan", encoding="utf-8")
    nowhere = mr(0)
    del nowhere.ImagePositionPatient
    alone = mr(0)
    del alone.SeriesInstanceUID
    bad = [tmp_path / "note.txt", write(tmp_path / "a.dcm", nowhere), write(tmp_path / "b.dcm", alone)]
    refused: dict[Path, str] = {}

    (stack,) = collect([*bad, *good], lambda path, error: refused.update({path: error.reason}))

    assert len(stack.frames) == 2
    assert [refused[path] for path in bad] == [Reason.NOT_DICOM, Reason.NO_GEOMETRY, Reason.NO_SERIES]


# -- Where it lies ---------------------------------------------------------------------------


def phantom(affine: np.ndarray, shape: tuple[int, int, int] = (33, 35, 7)) -> Volume:
    """A volume in which no two voxels are alike."""
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) % 15_000 - 50
    return Volume(values, affine)


def volume_of(folder: Path) -> tuple[Stack, Volume]:
    """The one volume of a folder."""
    (stack,) = collect(sorted(folder.iterdir()), never)
    return stack, read_volume(stack)


SCALES = np.diag((1.5, 0.75, 4.0, 1.0))
TILTED = np.array([[1, 0, 0, 0], [0, 1, np.tan(np.radians(15)), 0], [0, 0, 1, 0], [0, 0, 0, 1]])
PLACES = {
    "axial": SCALES + np.array([[0, 0, 0, -30.5], [0, 0, 0, 12.25], [0, 0, 0, 7], [0, 0, 0, 0]]),
    "oblique": OBLIQUE @ SCALES,
    "sagittal": np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]]) @ SCALES,
}


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_written_is_read_back_exactly(tmp_path: Path, vendor: str, place: str) -> None:
    """Voxels bit by bit, the affine to a micrometre: written and read along the same axes."""
    written = phantom(PLACES[place])
    write_series(tmp_path, written, "t1", vendor, "1")

    _, volume = volume_of(tmp_path)

    assert np.array_equal(volume.values, written.values)
    assert np.abs(volume.affine - written.affine).max() < 1e-6


def test_a_tilted_gantry_makes_an_affine_that_is_not_square(tmp_path: Path) -> None:
    """And each voxel lies where it was."""
    written = phantom(TILTED @ SCALES)
    write_series(tmp_path, written, "t1", "siemens", "1")

    _, volume = volume_of(tmp_path)

    assert np.abs(volume.affine - written.affine).max() < 1e-6


@pytest.mark.parametrize("place", PLACES)
def test_two_other_converters_find_the_same(tmp_path: Path, place: str) -> None:
    """dcm2niix and SimpleITK, each with the same voxels at the same places."""
    write_series(tmp_path, phantom(PLACES[place]), "t2", "ge", "1")
    stack, _ = volume_of(tmp_path)

    differences = dict(compared(stack))

    assert differences.keys() == {"dcm2niix", "SimpleITK"}
    assert all(found is not None and max(found) <= SAME for found in differences.values())


def test_a_slice_alone_is_as_thick_as_it_says() -> None:
    (stack,) = found(mr(0, SpacingBetweenSlices=7))

    assert geometry(stack)[2, 2] == 7


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    """PET scanners use the whole range of the stored values in every slice."""
    for z, slope in enumerate((1, 2, 0.5)):
        header = mr(5.0 * z, RescaleSlope=slope, RescaleIntercept=-z)
        write(tmp_path / f"{z}.dcm", header, np.full((4, 6), 10))

    _, volume = volume_of(tmp_path)

    assert volume.values[0, 0].tolist() == [10, 19, 3]


@pytest.mark.parametrize("slope", ["1e300", "-1e38"])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, slope: str) -> None:
    path = write(tmp_path / "x.dcm", mr(0, RescaleSlope=slope), np.full((4, 6), 30_000))
    (stack,) = collect([path], never)

    with pytest.raises(DicomError) as caught:
        read_volume(stack)
    assert caught.value.reason == Reason.BAD_PIXELS


def test_pixels_that_changed_under_the_reader_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.dcm", mr(0))
    (stack,) = collect([path], never)
    write(path, mr(0), np.zeros((2, 2)))

    with pytest.raises(DicomError) as caught:
        read_volume(stack)
    assert caught.value.reason == Reason.BAD_PIXELS


# -- Real files ------------------------------------------------------------------------------

MOSAICS = {
    "dcm_qa/In/Orientation/ax/axasc35": (64, 64, 35),
    "dcm_qa_sag/In/2_fmri_SagAP": (64, 64, 36),
    "dcm_qa_uih/In/DTI_132225/dti_tra_dir16_PA_rot_SaveBySlc__134057": (64, 64, 20),
    "dcm_qa_xa30/In/27_asl_2d_tra": (64, 64, 12),
    "dicom2nifti/tests/data/philips_enhanced/dti/001": (128, 128, 8),
    "dicom2nifti/tests/data/hyperfine/anatomical/001": (112, 138, 8),
}


@pytest.mark.slow
@pytest.mark.parametrize("folder", MOSAICS)
def test_mosaics_and_enhanced_files_lie_where_dcm2niix_has_them(folder: str) -> None:
    """Siemens, United Imaging, Siemens XA, Philips, Hyperfine."""
    paths = sorted(path for path in (real("dicom_vendor_zoo") / folder).iterdir() if path.is_file())

    for stack in collect(paths[:1], never):
        differences = dict(compared(stack))
        assert read_volume(stack).values.shape == MOSAICS[folder]
        assert differences["dcm2niix"] is not None
        assert max(differences["dcm2niix"]) <= SAME


@pytest.mark.slow
def test_one_acquisition_in_three_syntaxes_is_three_equal_volumes() -> None:
    folder = real("dicom_vendor_zoo") / "dcm_qa_ts" / "In"

    raw, *encoded = [read_volume(s) for s in collect(sorted(folder.iterdir()), never)]

    assert len(encoded) == 2
    assert all(np.array_equal(volume.values, raw.values) for volume in encoded)


def test_a_mosaic_whose_private_header_is_gone_is_refused(tmp_path: Path) -> None:
    """How its tiles lie is not in the standard's attributes."""
    path = write(tmp_path / "x.dcm", mr(0, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]))

    with pytest.raises(DicomError) as caught:
        frames(read_header(path), path)
    assert caught.value.reason == Reason.NO_GEOMETRY


def test_colour_is_no_measurement(tmp_path: Path) -> None:
    header = mr(0, SOPClassUID=uid.SecondaryCaptureImageStorage)
    header.Rows, header.Columns, header.SamplesPerPixel = 4, 6, 3

    with pytest.raises(DicomError) as caught:
        frames(header, tmp_path)
    assert caught.value.reason == Reason.COLOUR
