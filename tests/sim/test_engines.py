"""One recipe, three engines, the same bits."""

from pathlib import Path

import pytest

from server.record import read_record
from sim.phantom import write_phantom
from tests.sim.command import RECIPE, done, final, same

pytestmark = pytest.mark.slow

SMALL = ["rounds=2", "training.steps=2", "training.batch=4", "evaluation.every=2", "model.channels=[8,8]"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder, sites=3, patients=6, size=16, seed=1)
    return folder


def _run(engine: str, data: Path, out: Path) -> Path:
    # Control variates: sites remember, and the server sends more than parameters.
    words = [
        "sim",
        "run",
        RECIPE,
        *SMALL,
        "strategy=scaffold",
        "--data",
        data,
        "--out",
        out,
        "--tracking",
        "off",
    ]
    done(*words, "--engine", engine, "--threads", 1)
    (folder,) = out.glob("phantom-*")
    return folder


@pytest.fixture(scope="module")
def here(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _run("inprocess", data, tmp_path_factory.mktemp("inprocess"))


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_engines_agree_to_the_last_bit(engine: str, data: Path, here: Path, tmp_path: Path) -> None:
    there = _run(engine, data, tmp_path)
    assert same(final(here), final(there))
    told_here, told_there = read_record(here), read_record(there)
    assert told_here.subsets == told_there.subsets
    assert [r.scores for r in told_here.rounds] == [r.scores for r in told_there.rounds]
