"""Compressed frames lose their text and keep their pixels."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imaging import segments
from imaging.segments import silenced

SECRET = b"Quixote, Alonso"
EXIF = b"Exif\0\0" + SECRET


def jpeg(kind: str = "JPEG", **options: Any) -> bytes:
    """A frame with a picture, as Pillow writes it."""
    file, picture = BytesIO(), Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
    picture.save(file, kind, **options)
    return file.getvalue()


def decoded(frame: bytes) -> Any:
    return np.asarray(Image.open(BytesIO(frame)))


def jpeg_2000() -> bytes:
    """With a comment in its main header (Pillow), and one in its tile's, put there by hand."""
    frame = jpeg("JPEG2000", no_jp2=True, comment=SECRET.decode())
    tile = frame.index(b"\xff\x90")
    data = frame.index(b"\xff\x93", tile)
    length = int.from_bytes(frame[tile + 6 : tile + 10], "big")
    comment = b"\xff\x64" + (4 + len(SECRET)).to_bytes(2, "big") + b"\0\1" + SECRET
    grown = (length + len(comment)).to_bytes(4, "big")
    return frame[: tile + 6] + grown + frame[tile + 10 : data] + comment + frame[data:]


FRAMES = [
    jpeg(comment=SECRET, exif=EXIF),
    jpeg(comment=SECRET, exif=EXIF, progressive=True, quality=60),
    jpeg() + SECRET,
    jpeg_2000(),
    jpeg("JPEG2000", no_jp2=False, comment=SECRET.decode()),
]


@pytest.mark.parametrize("frame", FRAMES)
def test_a_codestream_loses_its_text_and_no_pixel(frame: bytes) -> None:
    assert SECRET in frame

    silent = silenced(frame)

    assert SECRET not in silent
    np.testing.assert_array_equal(decoded(silent), decoded(frame))


def test_a_comment_between_two_scans_is_found() -> None:
    """A progressive image has a header before each scan."""
    frame = jpeg(progressive=True)
    second = frame.index(b"\xff\xda", frame.index(b"\xff\xda") + 2)
    comment = b"\xff\xfe" + (2 + len(SECRET)).to_bytes(2, "big") + SECRET
    spoken = frame[:second] + comment + frame[second:]

    assert SECRET not in silenced(spoken)
    np.testing.assert_array_equal(decoded(silenced(spoken)), decoded(frame))


@pytest.mark.parametrize("part", ["_COMMENT", "_COMMENT_2000"])
def test_a_mutant_that_passes_over_comments_is_caught(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, part, None)

    assert any(SECRET in silenced(frame) for frame in FRAMES)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8", b"\xff\x4f\xff\x51"]), st.integers(0, 600))
def test_broken_streams_end_in_an_error_or_in_silence(noise: bytes, start: bytes, cut: int) -> None:
    """No endless loop, no crash of another kind."""
    for stream in (start + noise, FRAMES[0][:cut] + noise, FRAMES[3][:cut] + noise):
        try:
            silenced(stream)
        except ValueError:
            continue
