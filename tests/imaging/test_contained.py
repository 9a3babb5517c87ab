"""The process that decodes: what becomes of the next file when it dies, hangs or lies."""

import io
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from imaging import contained
from imaging.reasons import Reason
from protocol.errors import DicomError
from tests.imaging.dicoms import encoded, fatal_jpeg, write_encoded

VALUES = np.arange(24, dtype=np.int16).reshape(4, 6)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A file that its decoder likes."""
    return write_encoded(tmp_path / "good.dcm", values=VALUES)


def worker() -> int:
    """The worker's process id."""
    pid = contained.worker_pid()
    assert pid is not None
    return pid


def refusal(path: Path) -> DicomError:
    """The error that decoding raises."""
    with pytest.raises(DicomError) as caught:
        contained.decode(path)
    return caught.value


def test_one_worker_serves_file_after_file(good: Path) -> None:
    contained.decode(good)
    first = worker()

    assert np.array_equal(contained.decode(good), VALUES[None])
    assert worker() == first


def test_a_worker_that_dies_leaves_nothing_on_the_disk(good: Path) -> None:
    """A core file would hold the patient's pixels."""
    contained.decode(good)

    limits = Path(f"/proc/{worker()}/limits").read_text(encoding="ascii")

    assert re.search(r"Max core file size +0 +0 ", limits)


def test_a_worker_that_dies_is_replaced(good: Path, tmp_path: Path) -> None:
    fatal = tmp_path / "fatal.dcm"
    fatal.write_bytes(encoded(fatal_jpeg(), "1.2.840.10008.1.2.4.50"))
    contained.decode(good)
    first = worker()

    assert refusal(fatal).reason == Reason.BAD_PIXELS

    assert contained.worker_pid() is None
    assert np.array_equal(contained.decode(good), VALUES[None])
    assert worker() != first


def test_a_worker_that_hangs_is_ended(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contained.decode(good)
    os.kill(worker(), signal.SIGSTOP)
    monkeypatch.setattr(contained, "MOST_S", 0.1)

    assert refusal(good).reason == Reason.BAD_PIXELS
    assert contained.worker_pid() is None


def test_its_refusals_are_those_of_the_reader(tmp_path: Path) -> None:
    empty = tmp_path / "empty.dcm"
    empty.write_bytes(b"")

    assert refusal(empty).reason == Reason.NOT_DICOM


def test_after_ctrl_c_nothing_half_answered_is_left(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next file must not get this one's pixels."""
    contained.decode(good)
    first = worker()

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(contained, "_received", interrupted)
        with pytest.raises(KeyboardInterrupt):
            contained.decode(good)

    assert np.array_equal(contained.decode(good), VALUES[None])
    assert worker() != first


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"no answer\n",
        b"[]\n",
        b'{"shape": [2], "dtype": "O"}\n' + bytes(16),
        b'{"shape": [2], "dtype": "V8"}\n' + bytes(16),
        b'{"shape": [2], "dtype": "<u2"}\n' + bytes(3),
        b'{"shape": [0], "dtype": "<u2"}\n',
        b'{"shape": [1000000, 1000000, 1000000], "dtype": "<u2"}\n',
        b'{"reason": "made up", "message": ""}\n',
    ],
)
def test_what_is_no_answer_is_none(answer: bytes) -> None:
    """A worker that a file has taken over can send numbers, and nothing else."""
    with pytest.raises((EOFError, ValueError, KeyError, TypeError)):
        contained._received(io.BytesIO(answer))


def test_the_worker_s_side_answers_in_its_own_words(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders end, and so does it."""
    monkeypatch.setattr(contained, "_limit", lambda _: None)  # this process is not to be limited
    answers = io.BytesIO()

    contained.serve(io.BytesIO(json.dumps(str(good)).encode() + b"\n"), answers)

    assert np.array_equal(contained._received(io.BytesIO(answers.getvalue())), VALUES[None])
