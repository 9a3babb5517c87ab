"""One recipe, three engines, the same bits."""

from pathlib import Path

import pytest
import torch

from protocol.recipe import Recipe, load_recipe
from server import checkpoint
from server.record import Round, RunRecord, SiteRound, read_record
from sim.phantom import write_phantom
from sim.run import Launch, conduct, new_run

RECIPE = Path(__file__).parents[2] / "recipes" / "phantom.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder, sites=3, patients=6, size=16, seed=1)
    return folder


def _recipe(strategy: str) -> Recipe:
    overrides = [
        "rounds=2",
        "training.steps=2",
        "training.batch=4",
        "evaluation.every=2",
        f"strategy={strategy}",
        "model.channels=[8,8]",
    ]
    return load_recipe(RECIPE, overrides)


def _quiet(number: int, news: SiteRound | Round) -> None:
    del number, news


def _run(engine: str, recipe: Recipe, data: Path, out: Path) -> tuple[dict[str, torch.Tensor], RunRecord]:
    folder = new_run(recipe, Launch(data, engine, "off", threads=1), out)
    conduct(folder, recipe, _quiet)
    return checkpoint.load(folder / "checkpoints").vectors, read_record(folder)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_engines_agree_to_the_last_bit(engine: str, data: Path, tmp_path: Path) -> None:
    recipe = _recipe("scaffold")
    here, told_here = _run("inprocess", recipe, data, tmp_path / "a")
    there, told_there = _run(engine, recipe, data, tmp_path / "b")
    assert here.keys() == there.keys()
    assert all(torch.equal(here[g], there[g]) for g in here)
    assert told_here.subsets == told_there.subsets
    assert [r.scores for r in told_here.rounds] == [r.scores for r in told_there.rounds]
