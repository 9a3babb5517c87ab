"""The command line as a researcher uses it: started, interrupted, killed, resumed."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from server.record import read_record
from sim.phantom import write_phantom
from tests.sim.command import RECIPE, done, final, finish, same, start

SMALL = ["rounds=4", "training.steps=3", "training.batch=4", "model.channels=[8,8]", "strategy=fedadam"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder, sites=2, patients=6, size=16, seed=1)
    return folder


def _launch(data: Path, out: Path) -> subprocess.Popen[str]:
    return start("sim", "run", RECIPE, *SMALL, "--data", data, "--out", out, "--threads", 1)


def _until_rounds(out: Path, number: int, process: subprocess.Popen[str]) -> Path:
    closes = time.monotonic() + 120
    while time.monotonic() < closes and process.poll() is None:
        for lines in out.glob("*/rounds.jsonl"):
            if lines.read_text().count("\n") >= number:
                return lines.parent
        time.sleep(0.01)
    text = finish(process)[1]
    pytest.fail(f"no {number} rounds were seen: {text}")


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_killed_run_resumes_to_the_same_bits(
    data: Path, tmp_path: Path, how: signal.Signals, code: int
) -> None:
    code_of_whole, text = finish(_launch(data, tmp_path / "straight"))
    assert code_of_whole == 0, text
    assert "report" in text
    (whole,) = (tmp_path / "straight").glob("phantom-*")

    broken = _launch(data, tmp_path / "broken")
    folder = _until_rounds(tmp_path / "broken", 2, broken)
    broken.send_signal(how)
    found, text = finish(broken)
    assert found == code, text
    assert "Traceback" not in text

    done("run", "resume", folder.name, "--out", tmp_path / "broken")
    assert same(final(whole), final(folder))
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
    found, text = finish(start("sim", "run", RECIPE, *words, "--data", data, "--out", tmp_path / "runs"))
    assert found == code
    assert told in text
    assert "Traceback" not in text
    assert not (tmp_path / "runs").exists()


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    found, text = finish(start("sim", "run", RECIPE, "--data", tmp_path / "nowhere", "--out", tmp_path / "r"))
    assert found == 20
    assert "nowhere" in text
    assert not (tmp_path / "r").exists()
