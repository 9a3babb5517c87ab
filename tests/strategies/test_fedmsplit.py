"""What FedMSplit's mixtures do, beside being its twin's."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from protocol.recipe import Part
from protocol.update import Update, Vectors
from server.checkpoint import load
from strategies import fedmsplit as module
from strategies.base import Received, State
from strategies.fedmsplit import fedmsplit, mixtures, model_for
from tests.federation import Federation, cohorts, recipe

UP, DOWN = torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0])


def site(name: str, **moves: torch.Tensor) -> Update:
    """Return what a site sends: how far each of its groups moved."""
    return Received(moves, dict.fromkeys(moves, 10), site=name)


def play(*rounds: list[Update], temperature: float = 0.5) -> State:
    """Start at zero and take the rounds."""
    strategy = fedmsplit(temperature=temperature)
    groups = {group for updates in rounds for update in updates for group in update.deltas}
    state = strategy.init({group: torch.zeros(2) for group in groups})
    for updates in rounds:
        state = strategy.step(state, updates)
    return state


def vertical(state: State, name: str) -> float:
    return float(model_for(state, name)["shared"][1])


TWO_UP = [site("a", shared=UP), site("b", shared=UP), site("c", shared=DOWN)]


def check_each_gets_what_it_is_like() -> None:
    """Two go up and one down, mean 1/3: each site's own block goes more its own way."""
    state = play(TWO_UP)
    assert vertical(state, "a") > 1 / 3 + 0.2
    assert vertical(state, "c") < 1 / 3 - 0.2


def test_each_site_gets_what_it_is_like() -> None:
    check_each_gets_what_it_is_like()


def _uniform(rows: list[torch.Tensor], temperature: float) -> torch.Tensor:
    return torch.full((len(rows), len(rows)), 1 / len(rows))


def _transposed(rows: list[torch.Tensor], temperature: float) -> torch.Tensor:
    return -torch.eye(len(rows)) + 1.5


@pytest.mark.parametrize("broken", [_uniform, _transposed])
def test_an_attention_that_does_not_look_is_caught(
    broken: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_attention", broken)
    with pytest.raises(AssertionError):
        check_each_gets_what_it_is_like()


def test_a_high_temperature_is_the_mean_for_sites_of_the_same_blocks() -> None:
    state = play(TWO_UP, temperature=1e6)
    for each in "abc":
        assert vertical(state, each) == pytest.approx(1 / 3, abs=1e-5)


def test_likeness_in_one_view_counts_in_another() -> None:
    """All go the same way in `shared`; who agrees in FLAIR too is closer there as well."""
    ends: dict[str, Vectors] = {
        name: {"shared": UP, "modality:flair": flair} for name, flair in (("a", UP), ("b", UP), ("c", -UP))
    }
    sites, weights = mixtures(ends, 0.5)["shared"]
    assert sites == ["a", "b", "c"]
    assert weights[0, 0] == weights[0, 1] > weights[0, 2]
    torch.testing.assert_close(weights.sum(1), torch.ones(3))


def test_a_site_goes_on_from_its_own_block() -> None:
    """What it sends is counted from what it was sent, not from the common model."""
    alone = [site("a", shared=UP)]
    both = play(TWO_UP, alone)
    assert vertical(both, "a") == pytest.approx(vertical(play(TWO_UP), "a") + 1.0)


def test_a_site_that_was_not_asked_keeps_its_block() -> None:
    after = play(TWO_UP, [site("a", shared=UP)])
    assert vertical(after, "c") == vertical(play(TWO_UP), "c")


def test_a_newcomer_gets_the_common_model() -> None:
    state = play(TWO_UP)
    assert model_for(state, "new") == state.parameters


def test_a_site_that_did_not_move_divides_nothing_by_zero() -> None:
    state = play([site("a", shared=UP), site("b", shared=torch.zeros(2))])
    assert torch.isfinite(model_for(state, "b")["shared"]).all()


def test_size_does_not_matter() -> None:
    """Ten times the step is no more alike: the weights are those of the directions."""
    one = mixtures({"a": {"shared": UP}, "b": {"shared": DOWN}}, 0.5)["shared"][1]
    other = mixtures({"a": {"shared": UP}, "b": {"shared": 10 * DOWN}}, 0.5)["shared"][1]
    torch.testing.assert_close(one, other)


@pytest.mark.slow
def test_a_federation_keeps_a_model_for_each_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sites' own blocks are in the checkpoint, of what each owns."""
    federation = Federation(tmp_path, cohorts(), monkeypatch)
    split = recipe(strategy=Part("fedmsplit"), rounds=2)
    federation.run(split)
    vectors = load(tmp_path / "run" / "checkpoints").vectors
    kept = {tuple(key.split("/")[1:]) for key in vectors if key.startswith("memory/")}
    assert {name for name, _ in kept} == {"site:north", "site:south", "site:west"}
    assert ("site:south", "modality:t1") not in kept
    assert torch.isfinite(torch.cat(list(vectors.values()))).all()
    assert not torch.equal(vectors["memory/site:north/shared"], vectors["memory/site:west/shared"])
