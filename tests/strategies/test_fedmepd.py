"""Which filters a site keeps, what becomes of them, and of which encoder none may stay."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.catalogue import build_model
from models.flat import Flat
from protocol.groups import Layout, Slot
from protocol.recipe import Part
from protocol.update import Update
from server.checkpoint import load
from strategies import fedmepd as module
from strategies.base import Local, Received, State
from strategies.fedmepd import agreement, fedmepd, filters, judged, model_for
from tests.federation import Federation, cohorts, recipe
from tests.models.cases import recipe_for
from tests.strategies.federations import laid_out

UP, DOWN = torch.tensor([1.0, 1.0]), torch.tensor([-1.0, 1.0])
"""A layer of two filters, one number each: the second is agreed on."""
TWO = Layout({"shared": (Slot("kernel", (2, 1), 0),), "modality:flair": (Slot("kernel", (2, 1), 0),)})


def sent(name: str, delta: Tensor, cases: int = 10) -> Update:
    deltas = {"shared": delta, "modality:flair": delta}
    return Received(deltas, dict.fromkeys(deltas, cases), site=name)


def play(rounds: int, patience: int, *last: Update) -> State:
    """Two go up and one down in the first filter, all up in the second; then what comes last."""
    strategy = laid_out(fedmepd(patience=patience), TWO)
    state = strategy.init({"shared": torch.zeros(2), "modality:flair": torch.zeros(2)})
    for _ in range(rounds):
        state = strategy.step(state, [sent("a", UP), sent("b", UP), sent("c", DOWN)])
    return strategy.step(state, last) if last else state


def at(state: State, name: str, group: str = "shared") -> list[float]:
    return [round(value, 4) for value in model_for(state, name)[group].tolist()]


def check_a_filter_that_goes_its_own_way_stays() -> None:
    """Until its patience is gone c has the mean; then what it ended at, of which others get no more."""
    assert at(play(1, 2), "c") == at(play(1, 2), "a") == [0.3333, 1.0]
    state = play(2, 2)
    assert at(state, "a") == [0.6667, 2.0]
    assert at(state, "c") == [-0.6667, 2.0]
    state = play(3, 2)
    assert at(state, "a") == [1.6667, 3.0]
    assert at(state, "c") == [-1.6667, 3.0]


def test_a_filter_that_goes_its_own_way_stays() -> None:
    check_a_filter_that_goes_its_own_way_stays()


def _by_layer(slots: object, size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.int64)


def _as_sent(delta: Tensor, moved: Tensor, numbers: Tensor) -> Tensor:
    return delta


def _without_memory(left: Tensor, agreed: Tensor, whole: Tensor) -> Tensor:
    return torch.where(agreed < 0, torch.zeros_like(whole), whole)


@pytest.mark.parametrize(
    ("what", "broken"),
    [
        ("filters", _by_layer),
        ("agreement", lambda delta, moved, numbers: -agreement(delta, moved, numbers)),
        ("judged", _without_memory),
        ("mean_of_sharers", lambda sent, left: sum(delta for delta, _ in sent.values()) / len(sent)),
    ],
)
def test_another_decision_is_caught(
    what: str, broken: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By layers, against its sign, at once, and a mean with what was kept."""
    monkeypatch.setattr(module, what, broken)
    with pytest.raises(AssertionError):
        check_a_filter_that_goes_its_own_way_stays()


def test_encoders_are_everybodys_however_they_disagree() -> None:
    state = play(5, 1)
    assert at(state, "a", "modality:flair") == at(state, "c", "modality:flair") == [1.6667, 5.0]
    assert "modality:flair" not in state.memory["patience:c"]


def test_a_round_of_agreement_makes_patience_whole_and_nothing_brings_it_back() -> None:
    left, whole = torch.tensor([2.0, 1.0, 0.0, 1.0]), torch.full((4,), 3.0)
    agreed = torch.tensor([1.0, -1.0, 1.0, 0.0])
    assert judged(left, agreed, whole).tolist() == [3.0, 0.0, 0.0, 1.0]


def test_a_site_that_was_not_asked_has_the_common_filters_of_today_and_its_own() -> None:
    state = play(1, 1, sent("a", UP), sent("b", UP))
    assert at(state, "c") == [-1.0, 2.0]
    assert at(state, "new") == [1.3333, 2.0]


def test_what_nobody_shares_stays() -> None:
    """The first filter is c's own; a round of c alone does not move the common one."""
    state = play(1, 1, sent("c", DOWN))
    assert [round(value, 4) for value in state.parameters["shared"].tolist()] == [0.3333, 2.0]
    assert at(state, "c") == [-2.0, 2.0]


def test_sites_know_nothing_of_it() -> None:
    """What is sent is FedAvg's, private or not, and the decision is made of it."""
    assert (fedmepd().local, fedmepd().sends) == (Local(), ())


def test_filters_of_a_network() -> None:
    """One for each output of a convolution, with its norm's two numbers; all of them, none twice."""
    layout = Flat(build_model(recipe_for("encoders_unet"))).layout
    numbers = filters(layout.groups["shared"], layout.size("shared"))
    kernels = [slot for slot in layout.groups["shared"] if len(slot.shape) > 1]
    assert numbers.unique().tolist() == list(range(sum(slot.shape[0] for slot in kernels)))
    for slot, scale, bias in zip(*(iter(layout.groups["shared"]),) * 3, strict=True):
        one = numbers[slot.offset : slot.offset + slot.size].view(slot.shape[0], -1)
        assert all(torch.equal(row, row[:1].expand_as(row)) for row in one)
        for vector in (scale, bias):
            assert torch.equal(numbers[vector.offset : vector.offset + vector.size], one[:, 0])


def test_a_vector_that_fits_no_layer_is_one_filter() -> None:
    slots = (Slot("alone", (3,), 0), Slot("kernel", (2, 1), 3), Slot("bias", (2,), 5), Slot("other", (4,), 7))
    assert filters(slots, 11).tolist() == [0, 0, 0, 1, 2, 1, 2, 3, 3, 3, 3]


@pytest.mark.slow
def test_a_federation_keeps_filters_by_its_model_s_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every number of a filter has the filter's patience, and no layer stays or goes whole."""
    federation = Federation(tmp_path, cohorts(), monkeypatch)
    split = recipe(strategy=Part("fedmepd", {"patience": 1}), rounds=2)
    federation.run(split)
    vectors = load(tmp_path / "run" / "checkpoints").vectors
    layout = Flat(build_model(split)).layout
    sites = [f"patience:{site}" for site in federation.held]
    left = {site: vectors[f"memory/{site}/shared"] for site in sites}
    numbers = filters(layout.groups["shared"], layout.size("shared"))
    for vector in left.values():
        assert {len(vector[numbers == each].unique()) for each in numbers.unique()} == {1}
    assert any(0 < int((vector == 0).sum()) < len(vector) for vector in left.values())
