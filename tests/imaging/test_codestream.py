"""How large an encoded frame becomes, before anybody decodes it."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.pixels.decoders.rle import _rle_decode_segment
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from imaging import codestream
from imaging.codestream import grown, j2k_size, jpeg_size, run_length
from tests.imaging.dicoms import j2k_header, jpeg, run_lengths


@given(st.binary(max_size=300), st.integers(0, 3))
def test_run_lengths_are_counted_as_pydicom_decodes_them(data: bytes, cut: int) -> None:
    """Never too few: a run that is cut off at the end is counted whole."""
    decoded = len(_rle_decode_segment(data[: len(data) - cut]))

    assert decoded <= run_length(data[: len(data) - cut]) <= decoded + 128


def test_the_sizes_in_jpeg_and_jpeg_2000_are_those_of_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 255, (65, 72), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", progressive=True)

    assert jpeg_size(buffer.getvalue()) == (65, 72)
    assert j2k_size(encode_array(image)) == (65, 72)


@given(st.binary(max_size=80))
def test_no_bytes_are_too_strange(data: bytes) -> None:
    for frame in (data, b"\xff\xd8" + data, b"\xff\x4f\xff\x51" + data):
        for syntax in (JPEGBaseline8Bit, RLELossless, JPEG2000Lossless):
            grown(frame, syntax, 8, 8)


@pytest.mark.parametrize(
    ("frame", "syntax"),
    [
        (jpeg(16), JPEGBaseline8Bit),
        (j2k_header(8, 9), JPEG2000Lossless),
        (b"neither", JPEGBaseline8Bit),
        (run_lengths(2**27), RLELossless),
    ],
)
def test_what_becomes_another_size_is_named(frame: bytes, syntax: str) -> None:
    assert grown(frame, syntax, 8, 8)


def test_what_becomes_the_right_size_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codestream, "RLE_HARMLESS", 0)

    assert grown(jpeg(8), JPEGBaseline8Bit, 8, 8) is None
    assert grown(run_lengths(1280), RLELossless, 10, 128) is None
