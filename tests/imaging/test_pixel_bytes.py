"""Pixel data keep every pixel and lose everything else."""

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import MPEG2MPML, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from imaging.deidentify import deidentify
from imaging.segments import silenced
from tests.imaging.identified import KEY, image, read, shipped, written
from tests.imaging.test_segments import FRAMES, SECRET, decoded


def pixels(dataset: Dataset) -> Any:
    """As they are after a file was written and read."""
    return read(written(dataset)).pixel_array


def clean(dataset: Dataset) -> Dataset:
    return deidentify(read(written(dataset)), KEY)[0]


# -- Native -----------------------------------------------------------------------------------


def test_what_stands_behind_the_pixels_is_cut_off() -> None:
    original = image()
    original.PixelData += SECRET + b" "

    assert clean(original).PixelData == image().PixelData


def test_numbers_with_fractions_are_cut_off_too() -> None:
    """Of a parametric map, say; an image has one of three kinds of pixels."""
    original = image(BitsAllocated=32, FloatPixelData=bytes(4 * 24) + SECRET + b" ")
    del original.PixelData

    assert clean(original).FloatPixelData == bytes(4 * 24)


def test_one_byte_of_padding_stays() -> None:
    """PS3.5 8.1.1: an even number of bytes."""
    odd = image(Rows=1, Columns=3, BitsAllocated=8, BitsStored=8, HighBit=7, PixelData=b"\1\2\3\0")

    assert clean(odd).PixelData == b"\1\2\3\0"


@pytest.mark.parametrize(("signed", "values"), [(0, [0, 1, 2047, 4095]), (1, [0, 1, -1, -2048])])
def test_an_overlay_in_unused_bits_is_masked(signed: int, values: list[int]) -> None:
    """Of old, bit 15 of each pixel could be a drawing's."""
    stored = np.array(values, "<i4").astype("<u2") & 0x0FFF
    drawn = stored | np.array([0x8000, 0, 0x8000, 0x8000], "<u2")
    original = image(Rows=2, Columns=2, PixelRepresentation=signed, PixelData=drawn.tobytes())
    original.add_new((0x6000, 0x0100), "US", 16)
    original.add_new((0x6000, 0x0102), "US", 15)

    result = clean(original)

    dtype = "<i2" if signed else "<u2"
    assert np.frombuffer(result.PixelData, dtype).tolist() == values
    assert [tag for tag in result.keys() if tag.group == 0x6000] == []  # noqa: SIM118


def test_unused_bits_are_left_where_nothing_says_that_they_are_drawn_in() -> None:
    """Some machines pad with a value beyond the stored bits."""
    padded = image(PixelData=b"\x30\xf8" * 24)

    assert clean(padded).PixelData == padded.PixelData


@pytest.mark.parametrize(
    "name", ["MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm", "image_dfl.dcm"]
)
def test_real_pixels_stay(name: str) -> None:
    original = shipped(name)

    np.testing.assert_array_equal(pixels(deidentify(original, KEY)[0]), original.pixel_array)


# -- Compressed -------------------------------------------------------------------------------


@pytest.mark.parametrize(("syntax", "frame"), [(JPEGBaseline8Bit, FRAMES[0]), (JPEG2000Lossless, FRAMES[3])])
def test_compressed_files_lose_their_comments(syntax: str, frame: bytes) -> None:
    """And what stands between frames: the offset table's place, fragments that belong to none."""
    original = image(Rows=8, Columns=8, BitsAllocated=8, BitsStored=8, HighBit=7, NumberOfFrames=2)
    original.file_meta.TransferSyntaxUID = syntax
    original.PixelData = encapsulate([frame, frame])

    result = clean(original)

    assert SECRET in written(original)
    assert SECRET not in written(result)
    frames = list(generate_frames(result.PixelData, number_of_frames=2))
    np.testing.assert_array_equal(decoded(frames[1]), decoded(frame))


@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "SC_rgb_jpeg_dcmtk.dcm", "693_J2KI.dcm"])
def test_real_compressed_pixels_stay(name: str) -> None:
    original = shipped(name)

    np.testing.assert_array_equal(pixels(deidentify(original, KEY)[0]), original.pixel_array)


@pytest.mark.parametrize("name", ["MR_small_jpeg_ls_lossless.dcm", "JPEGLSNearLossless_16.dcm"])
def test_streams_that_say_nothing_stay_to_the_byte(name: str) -> None:
    """JPEG-LS, which Pillow does not read."""
    frame = next(generate_frames(shipped(name).PixelData, number_of_frames=1))

    assert silenced(frame) == frame


@pytest.mark.parametrize(
    ("syntax", "data"),
    [
        (MPEG2MPML, encapsulate([b"\0\0\1\xb3" + SECRET])),
        (JPEGBaseline8Bit, encapsulate([SECRET + b" "])),
        (JPEGBaseline8Bit, b""),
        (RLELossless, SECRET + b" "),
    ],
)
def test_what_cannot_be_checked_is_quarantined_without_its_pixels(syntax: str, data: bytes) -> None:
    original = image()
    original.file_meta.TransferSyntaxUID = syntax
    original.PixelData = data

    result, verdict = deidentify(original, KEY)

    assert verdict.quarantine[0].startswith("pixels cannot be checked for hidden text")
    assert "PixelData" not in result
