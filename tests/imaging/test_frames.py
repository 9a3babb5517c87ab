"""Where an image lies, whichever of its file's shapes says so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from imaging import frames as module
from imaging.dicom import quiet
from imaging.diffusion import b_value, direction
from imaging.frames import frames
from imaging.reasons import Reason
from imaging.series import Stack, geometry, read_volume, stacks
from protocol.errors import DicomError
from tests.imaging.dicoms import mr, write

NOWHERE = Path("x.dcm")


def sized(header: Dataset) -> Dataset:
    """With the size of its image."""
    header.Rows, header.Columns = 4, 6
    return header


def group(**sequences: Dataset) -> Dataset:
    """A functional group of sequences of one item each."""
    groups = Dataset()
    for keyword, item in sequences.items():
        setattr(groups, keyword, Sequence([item]))
    return groups


def item(**attributes: Any) -> Dataset:
    """One item."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def test_a_frame_s_own_groups_come_before_the_shared_ones_and_the_header() -> None:
    header = sized(mr(0))
    del header.ImagePositionPatient
    header.NumberOfFrames = 2
    header.RescaleSlope = 9
    header.SharedFunctionalGroupsSequence = Sequence(
        [
            group(
                PixelMeasuresSequence=item(PixelSpacing=[4, 5]),
                PixelValueTransformationSequence=item(RescaleSlope=3),
            )
        ]
    )
    header.PerFrameFunctionalGroupsSequence = Sequence(
        [group(PlanePositionSequence=item(ImagePositionPatient=[1, 2, z])) for z in (0, 7)]
    )
    own = group(PixelValueTransformationSequence=item(RescaleSlope=2))
    header.PerFrameFunctionalGroupsSequence[1].update(own)

    first, second = frames(header, NOWHERE)

    assert (first.index, second.index) == (0, 1)
    assert (list(first.position), list(second.position)) == ([1, 2, 0], [1, 2, 7])
    assert first.spacing_mm == (4, 5)
    assert (first.slope, second.slope) == (3, 2)


@pytest.mark.parametrize(
    "attributes",
    [
        {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
        {"ImageOrientationPatient": [1, 0, 0, 0, 3, 0]},
        {"PixelSpacing": [0, 1]},
        {"PixelSpacing": [-1, 1]},
        {"ImagePositionPatient": [0, 0]},
        {"NumberOfFrames": 3},
        {"ImagePositionPatient": [0, 0, "1e300"]},
    ],
)
def test_a_header_that_does_not_place_its_image_is_refused(attributes: dict[str, Any]) -> None:
    with pytest.raises(DicomError) as caught:
        frames(sized(mr(0, **attributes)), NOWHERE)
    assert caught.value.reason == Reason.NO_GEOMETRY


@pytest.mark.parametrize("count", [0, -5, "1e300"])
def test_a_wrong_number_of_frames_makes_no_frames_of_nothing(count: int | str) -> None:
    """An enhanced file has as many as it describes, and never none."""
    header = sized(mr(0))
    with quiet():
        header.NumberOfFrames = count
    header.PerFrameFunctionalGroupsSequence = Sequence([group(), group()])

    assert 1 <= len(frames(header, NOWHERE)) <= 2


# -- Mosaics ---------------------------------------------------------------------------------

TILES = np.stack([np.full((3, 5), number) for number in (1, 2, 3)])


def tiled() -> np.ndarray:
    """Three tiles of 3 rows x 5 columns in a grid of 2 x 2."""
    return np.block([[TILES[0], TILES[1]], [TILES[2], np.zeros((3, 5))]])


def test_united_imaging_lists_where_its_tiles_lie(tmp_path: Path) -> None:
    header = mr(0, ImageType=["ORIGINAL", "PRIMARY", "M", "VFRAME"])
    del header.ImagePositionPatient
    block = header.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x51, "SQ", [item(ImagePositionPatient=[1, 2, 8.0 * z]) for z in range(3)])

    volume, affine = read(write(tmp_path / "x.dcm", header, tiled()), header)

    assert np.array_equal(volume, TILES.transpose(2, 1, 0))
    assert list(affine[:3, 3]) == [1, 2, 0]
    assert affine[2, 2] == 8


@pytest.mark.parametrize("towards", [1, -1])
def test_siemens_tiles_lie_along_the_normal_of_its_private_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, towards: int
) -> None:
    """Which may be against the image's own; the large image's centre is that of the tiles.

    The private header itself is nibabel's to read, and is read in the tests of real files.
    """
    monkeypatch.setattr(module, "_csa", lambda _: (3, np.array([0.0, 0.0, towards])))
    header = mr(0, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"], SpacingBetweenSlices=8)

    volume, affine = read(write(tmp_path / "x.dcm", header, tiled()), header)

    # Columns are 3 mm apart and rows 2 mm: (10 - 5) / 2 columns and (6 - 3) / 2 rows further in.
    assert list(affine[:3, 3]) == [7.5, 3, 0 if towards > 0 else -16]
    assert affine[2, 2] == 8
    assert np.array_equal(volume, TILES[::towards].transpose(2, 1, 0))


def read(path: Path, header: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The one volume of a file: its values, and its affine in DICOM's own coordinates."""
    (stack,) = stacks(frames(header, path))
    assert isinstance(stack, Stack)
    return read_volume(stack).values, geometry(stack)


# -- Diffusion -------------------------------------------------------------------------------


def private(group_: int, creator: str, elements: dict[int, tuple[str, Any]]) -> Dataset:
    """A header with a vendor's own elements."""
    header = mr(0)
    block = header.private_block(group_, creator, create=True)
    for element, (vr, value) in elements.items():
        block.add_new(element, vr, value)
    return header


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (mr(0, DiffusionBValue=700.0), 700),
        (private(0x0019, "SIEMENS MR HEADER", {0x0C: ("IS", "1000")}), 1000),
        (private(0x0043, "GEMS_PARM_01", {0x39: ("IS", ["1000000800", "8", "0", "0"])}), 800),
        (private(0x0043, "GEMS_PARM_01", {0x39: ("IS", ["800", "8", "0", "0"])}), 800),
        (private(0x2001, "Philips Imaging DD 001", {0x03: ("FL", 1200.0)}), 1200),
        (private(0x0065, "Image Private Header", {0x09: ("FD", 929.75)}), 929.75),
        (private(0x0019, "SIEMENS MR HEADER", {0x0C: ("UN", b"1000")}), 1000),
        (mr(0), None),
        (mr(0, DiffusionBValue=-1.0), None),
    ],
)
def test_every_vendor_s_b_value_is_found(header: Dataset, expected: float | None) -> None:
    assert b_value(header) == expected


@pytest.mark.parametrize(
    "header",
    [
        mr(0, DiffusionGradientOrientation=[0.0, 0.6, 0.8]),
        mr(0, DiffusionGradientDirectionSequence=[item(DiffusionGradientOrientation=[0.0, 0.6, 0.8])]),
        private(0x0019, "SIEMENS MR HEADER", {0x0E: ("FD", [0.0, 0.6, 0.8])}),
        private(0x0019, "GEMS_ACQU_01", {0xBB: ("DS", "0"), 0xBC: ("DS", "0.6"), 0xBD: ("DS", "0.8")}),
        private(0x2005, "Philips MR Imaging DD 001", {0xB0: ("FL", 0), 0xB1: ("FL", 0.6), 0xB2: ("FL", 0.8)}),
    ],
)
def test_every_vendor_s_direction_is_found(header: Dataset) -> None:
    assert direction(header) == pytest.approx((0, 0.6, 0.8), abs=1e-4)


def test_without_a_direction_there_is_none() -> None:
    assert direction(mr(0)) is None
