"""The command line as a researcher uses it: started, interrupted, killed, resumed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from server import checkpoint
from server.record import read_record
from sim.phantom import write_phantom

ROOT = Path(__file__).parents[2]
SMALL = ["rounds=4", "training.steps=3", "training.batch=4", "model.channels=[8,8]", "strategy=fedadam"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder, sites=2, patients=6, size=16, seed=1)
    return folder


def _start(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "consilium", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment
    )


def _launch(data: Path, out: Path) -> subprocess.Popen[str]:
    recipe = ROOT / "recipes" / "phantom.yaml"
    return _start("sim", "run", recipe, *SMALL, "--data", data, "--out", out, "--threads", 1)


def _until_rounds(out: Path, number: int, process: subprocess.Popen[str]) -> Path:
    closes = time.monotonic() + 120
    while time.monotonic() < closes and process.poll() is None:
        for lines in out.glob("*/rounds.jsonl"):
            if lines.read_text().count("\n") >= number:
                return lines.parent
        time.sleep(0.01)
    text = process.communicate()[0]
    pytest.fail(f"no {number} rounds were seen: {text}")


def _parameters(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoints").vectors


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_killed_run_resumes_to_the_same_bits(
    data: Path, tmp_path: Path, how: signal.Signals, code: int
) -> None:
    straight = _launch(data, tmp_path / "straight")
    text = straight.communicate()[0]
    assert straight.returncode == 0, text
    (whole,) = (tmp_path / "straight").glob("phantom-*")
    assert "report" in text

    broken = _launch(data, tmp_path / "broken")
    folder = _until_rounds(tmp_path / "broken", 2, broken)
    broken.send_signal(how)
    text = broken.communicate()[0]
    assert broken.returncode == code, text
    assert "Traceback" not in text

    resumed = _start("run", "resume", folder.name, "--out", tmp_path / "broken")
    text = resumed.communicate()[0]
    assert resumed.returncode == 0, text
    left, right = _parameters(whole), _parameters(folder)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[g], right[g]) for g in left)
    assert read_record(whole).subsets == read_record(folder).subsets


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["rounds=0"], 10, "rounds"),
        (["strategy=fedprx"], 10, "fedprox"),
        (["privacy.epsilom=8"], 10, "privacy.epsilon"),
        (["training.batch=many"], 10, "training.batch"),
    ],
)
def test_a_bad_override_is_one_clear_line(
    data: Path, tmp_path: Path, words: list[str], code: int, told: str
) -> None:
    process = _start(
        "sim", "run", ROOT / "recipes/phantom.yaml", *words, "--data", data, "--out", tmp_path / "runs"
    )
    text = process.communicate()[0]
    assert process.returncode == code
    assert told in text
    assert "Traceback" not in text
    assert not (tmp_path / "runs").exists()


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    process = _start(
        "sim", "run", ROOT / "recipes/phantom.yaml", "--data", tmp_path / "nowhere", "--out", tmp_path / "r"
    )
    text = process.communicate()[0]
    assert process.returncode == 20
    assert "nowhere" in text
    assert not (tmp_path / "r").exists()
