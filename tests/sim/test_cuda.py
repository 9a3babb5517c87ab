"""A card computes what a processor computes, to rounding; without a card nothing here runs.

The oracle is the same code on the CPU, where every other test runs. Tolerances are relative, of norms.
"""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from client import training
from client.evaluation import evaluate
from client.settings import Settings
from models.catalogue import build_model
from privacy.dpsgd import PrivateGradient
from privacy.noise import SecureGenerator
from protocol.batch import Batch
from protocol.errors import ConsiliumError
from protocol.recipe import Recipe
from server.record import RunRecord
from tests.federation import Federation, cohorts, recipe
from tests.models.cases import ALL, batch_for, presence, recipe_for
from tests.models.invariance import results
from tests.privacy.neighbours import plain_loop, released
from tests.privacy.networks import Everything, built, cases, losses
from tests.sim.command import final

CARD = "cuda"
ROUNDING = 1e-4

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device in this machine"),
    # A run before has asked this process for a fixed order; of attention torch says once that it has none.
    pytest.mark.filterwarnings("ignore:Memory Efficient attention defaults to a non-det:UserWarning"),
]


@pytest.fixture(autouse=True)
def whole_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    """In TF32 a card is a thousandth off, which is its format and not a mistake."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


class OnCard(Federation):
    """The federation in memory, with sites that train on a card."""

    def settings(self, run: str, site: str) -> Settings:
        """One site's settings in `run`."""
        return replace(super().settings(run, site), device=CARD)


def moved(batch: Batch) -> Batch:
    return batch.map(lambda x: x.to(CARD))


def apart(found: Tensor, expected: Tensor) -> float:
    """Return the distance of two tensors in norms of the second."""
    return float((found.cpu() - expected).norm()) / max(float(expected.norm()), 1e-30)


def run(where: type[Federation], folder: Path, patch: pytest.MonkeyPatch, asked: Recipe) -> RunRecord:
    return where(folder, cohorts(), patch).run(asked)


def flat(folder: Path) -> Tensor:
    vectors = final(folder / "run")
    return torch.cat([vectors[group] for group in sorted(vectors)])


def test_a_run_on_a_card_is_the_run_on_a_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {where: tmp_path / where.__name__ for where in (Federation, OnCard)}
    for where, folder in folders.items():
        folder.mkdir()
        run(where, folder, monkeypatch, recipe())

    assert apart(flat(folders[OnCard]), flat(folders[Federation])) < ROUNDING


def test_a_card_gives_the_same_bits_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Tensor] = []
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
        run(OnCard, tmp_path / name, monkeypatch, recipe())
        found.append(flat(tmp_path / name))
    assert torch.equal(*found)


def test_a_batch_that_stays_behind_is_no_quiet_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "on_device", lambda site, batch: batch)
    with pytest.raises(ConsiliumError):
        run(OnCard, tmp_path, monkeypatch, recipe())


@pytest.mark.parametrize("name", ALL)
def test_every_model_gives_on_a_card_what_it_gives_on_a_processor(name: str) -> None:
    asked = recipe_for(name)
    names = tuple(asked.modalities)
    batch = batch_for(asked, presence(asked, [names, names, names[:1], names[1:]]), (8, 8))
    expected = results(build_model(asked), batch, asked)
    found = results(build_model(asked).to(CARD), moved(batch), asked)

    assert found.keys() == expected.keys()
    whole = max(float(value.norm()) for key, value in expected.items() if key.startswith("gradient"))
    far = {
        key: distance
        for key, value in expected.items()
        if (distance := float((found[key].cpu() - value).norm())) > ROUNDING * max(float(value.norm()), whole)
    }
    assert not far


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("mode", ["auto", "hooks", "functorch", "ew"])
def test_rows_are_bounded_on_a_card_as_on_a_processor(mode: str, dims: int) -> None:
    model, batch = built(lambda: Everything(dims, transposed=mode != "ew")), cases(5, dims, size=4)
    expected = plain_loop(model, batch, losses)
    assert apart(released(model.to(CARD), moved(batch), losses, mode), expected) < ROUNDING


def test_noise_on_a_card_is_as_large_as_said() -> None:
    """Of an empty draw nothing but noise is left: 2 * 0.5 / 4 on each number, to 5 standard errors."""
    model = torch.nn.Sequential(torch.nn.Linear(400, 250)).to(CARD)
    gradient = PrivateGradient(model, model.parameters(), 0.5, 2.0, 4.0, SecureGenerator())
    with closing(gradient):
        gradient(None, losses)
    drawn = model[0].weight.grad.flatten().double()
    assert drawn.device.type == CARD
    assert float(drawn.std()) == pytest.approx(0.25, rel=5 / (2 * len(drawn)) ** 0.5)
    assert abs(float(drawn.mean())) < 5 * 0.25 / len(drawn) ** 0.5


def test_scores_on_a_card_are_those_on_a_processor() -> None:
    asked, held = recipe(), cohorts()["north"]
    there = evaluate(build_model(asked), held, asked, "validation", None)
    here = evaluate(build_model(asked).to(CARD), held, asked, "validation", None)
    assert {k: v.value for k, v in here["own"].items()} == pytest.approx(
        {k: v.value for k, v in there["own"].items()}, abs=ROUNDING
    )
