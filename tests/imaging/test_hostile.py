"""Files that mean harm: each is refused for its own reason, costs little, and stops nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from imaging import decoding, dicom, structure
from imaging.dicom import read_header, text
from imaging.pixels import read_pixels
from imaging.reasons import Reason
from imaging.series import collect
from protocol.errors import DicomError
from tests.imaging.dicoms import HOSTILE, element, image, mr, part10, write, write_encoded, write_hostile

MOST_MIB = 256


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files, by what they are."""
    return write_hostile(tmp_path_factory.mktemp("hostile"))


def why(path: Path) -> str:
    """The reason for which a file's pixels are not read."""
    with pytest.raises(DicomError) as caught:
        read_pixels(path)
    assert str(path) not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_for_its_reason(hostile: dict[str, Path], name: str) -> None:
    assert why(hostile[name]) == HOSTILE[name][1]


def test_there_are_more_than_twenty() -> None:
    assert len(HOSTILE) > 20


def test_none_of_them_stops_the_rest_or_writes_anything(hostile: dict[str, Path], tmp_path: Path) -> None:
    """What a folder holds besides is read; nothing is left behind, wherever a file's names point."""
    good = [write(tmp_path / f"{z}.dcm", mr(z * 5, SOPInstanceUID=f"1.2.{z}")) for z in range(3)]
    evil = write(tmp_path / "evil.dcm", mr(15, SeriesInstanceUID="../../evil", SOPInstanceUID="../../evil"))
    before = sorted(path for path in tmp_path.parent.rglob("*") if "hostile" not in str(path))
    refused: list[str] = []

    found = collect([*hostile.values(), *good, evil], lambda _, error: refused.append(error.reason))

    assert [len(stack.frames) for stack in found] == [3, 1]
    # No place in the patient, and so no frame, in files of which a header alone could be read.
    assert len(refused) == len(HOSTILE)
    assert sorted(path for path in tmp_path.parent.rglob("*") if "hostile" not in str(path)) == before


def test_no_value_of_a_file_is_said_or_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The library logs the values that it finds strange, and a strange value may be a patient's name."""
    tags = ((8, 5, "CS"), (0x10, 0x10, "UI"), (0x10, 0x20, "DA"), (0x18, 0x50, "DS"))
    strange = b"".join(element((group, number), vr, b"K7NAME??") for group, number, vr in tags)
    path = tmp_path / "x.dcm"
    path.write_bytes(part10(strange + image(4, 4, 16, bytes(30))))

    reason = why(path)
    text(read_header(path), "PatientID")
    text(read_header(path), "SliceThickness")

    assert reason == Reason.TRUNCATED
    assert "K7NAME" not in caplog.text


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """A named pipe would never answer."""
    pipe = tmp_path / "pipe.dcm"
    os.mkfifo(pipe)

    assert why(pipe) == Reason.NOT_DICOM
    assert why(tmp_path) == Reason.NOT_DICOM
    assert why(tmp_path / "absent") == Reason.NOT_DICOM


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, cut: int) -> None:
    whole = part10(image(16, 16))
    path = tmp_path / "cut.dcm"
    path.write_bytes(whole[: len(whole) - 1 - cut])

    assert why(path) in {Reason.TRUNCATED, Reason.NO_PIXELS}


def test_without_its_bounds_the_reader_would_be_caught(
    hostile: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each guard is what refuses: taken away, the file is refused later, for another reason, or never."""
    monkeypatch.setattr(structure, "MOST_DEEP", 10**6)
    assert why(hostile["3,000 deep"]) == Reason.TOO_DEEP  # Python's own limit, caught
    monkeypatch.setattr(structure, "MOST_ITEMS", 10**9)
    monkeypatch.setattr(structure, "MOST_ELEMENTS", 10**9)
    assert why(hostile["too many items"]) == Reason.NO_PIXELS
    for module in (dicom, decoding):
        monkeypatch.setattr(module, "MOST_HEADER", 2**30)
    assert read_pixels(hostile["deflate bomb"]).shape == (1, 4, 6)
    assert read_pixels(hostile["a header without end"]).shape == (1, 4, 6)
    monkeypatch.setattr(decoding, "MOST_RATIO", 10**9)
    monkeypatch.setattr(decoding, "MOST_PIXELS", 2**40)
    assert why(hostile["pixels that are not there"]) == Reason.TRUNCATED


_COST = """
import json, re, sys
from pathlib import Path
from imaging import contained
from imaging.dicom import read_header
from imaging.pixels import read_pixels
from protocol.errors import DicomError

def peak(process):  # in MiB; the kernel's own count begins anew with every program, unlike getrusage's
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) // 1024

def attempt(read, path):
    try:
        read(path)
    except DicomError as error:
        return error.reason

first, *paths = map(Path, json.load(sys.stdin))
read_pixels(first)
before, worker_before, worst = peak("self"), peak(contained.worker_pid()), 0
for path in paths:
    attempt(read_header, path)
    attempt(read_pixels, path)
    if contained.worker_pid():
        worst = max(worst, peak(contained.worker_pid()))
print(json.dumps([peak("self") - before, worst - worker_before]))
"""


@pytest.mark.slow
def test_none_of_them_costs_more_than_256_mib(hostile: dict[str, Path], tmp_path: Path) -> None:
    """Neither here nor in the process that decodes."""
    paths = [str(path) for path in (write_encoded(tmp_path / "good.dcm"), *hostile.values())]

    done = subprocess.run(
        [sys.executable, "-c", _COST], input=json.dumps(paths), capture_output=True, text=True, check=True
    )

    here, there = json.loads(done.stdout)
    assert 32 <= here <= MOST_MIB  # it has read a header without end
    assert 0 <= there <= MOST_MIB


def test_a_hostile_header_alone_is_read_or_refused(hostile: dict[str, Path]) -> None:
    """And nothing but a DicomError is ever raised."""
    for path in hostile.values():
        try:
            header = read_header(path)
        except DicomError:
            continue
        assert header.file_meta.TransferSyntaxUID is not None
