"""Accept or refuse: whatever a poisoned or broken reply holds, nothing of it is summed (A3)."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import AdmissionError
from protocol.messages import Reply, Task
from protocol.update import Update
from server import admission
from server.admission import check, numbers, scores

DECLARED = {"shared": 5, "modality:flair": 3, "head:tumour": 5}


def _task() -> Task:
    vectors = {"shared": torch.zeros(4), "modality:flair": torch.zeros(2)}
    return Task("train", "run", 2, "", "a", vectors, {"control": {"shared": torch.zeros(4)}})


def _reply(**changes: object) -> Reply:
    deltas = {"shared": torch.ones(4), "modality:flair": torch.full((2,), 2.0)}
    extras = {"control": {"shared": torch.ones(4)}}
    update = Update(deltas, {"shared": 5, "modality:flair": 3}, 3.0, extras)
    return replace(Reply("north", "train", "run", 2, replace(update, **changes)))


def test_a_good_reply_passes_with_its_norm() -> None:
    reply = _reply()
    update, norm = check(reply, _task(), DECLARED)
    assert update is reply.update
    assert norm == pytest.approx(update.norm())  # the extra is not part of it


def _deltas(**vectors: torch.Tensor) -> dict[str, object]:
    return {"deltas": {"shared": torch.ones(4), "modality:flair": torch.ones(2)} | vectors}


POISONS: dict[str, dict[str, object]] = {
    "nan": _deltas(shared=torch.tensor([1.0, float("nan"), 1, 1])),
    "inf": _deltas(shared=torch.tensor([1.0, float("inf"), 1, 1])),
    "minus inf": _deltas(shared=torch.tensor([1.0, -float("inf"), 1, 1])),
    "broadcasts": _deltas(shared=torch.ones(1)),
    "scalar": _deltas(shared=torch.ones(())),
    "longer": _deltas(shared=torch.ones(5)),
    "matrix": _deltas(shared=torch.ones(2, 2)),
    "double": _deltas(shared=torch.ones(4).double()),
    "integer": _deltas(shared=torch.ones(4).long()),
    "half": _deltas(shared=torch.ones(4).half()),
    "missing group": {"deltas": {"shared": torch.ones(4)}, "counts": {"shared": 5}},
    "foreign group": _deltas(**{"head:tumour": torch.ones(1)}),
    "private group": _deltas(private=torch.ones(1)),
    "count absurd": {"counts": {"shared": 10**18, "modality:flair": 3}},
    "count negative": {"counts": {"shared": -5, "modality:flair": 3}},
    "count zero": {"counts": {"shared": 0, "modality:flair": 3}},
    "count infinite": {"counts": {"shared": float("inf"), "modality:flair": 3}},
    "count nan": {"counts": {"shared": float("nan"), "modality:flair": 3}},
    "count missing": {"counts": {"shared": 5}},
    "count of another group": {"counts": {"shared": 5, "modality:flair": 3, "head:tumour": 5}},
    "steps zero": {"steps": 0.0},
    "steps negative": {"steps": -1.0},
    "steps nan": {"steps": float("nan")},
    "steps infinite": {"steps": float("inf")},
    "extra missing": {"extras": {}},
    "extra not asked for": {"extras": {"momentum": {"shared": torch.ones(4)}}},
    "extra of another size": {"extras": {"control": {"shared": torch.ones(3)}}},
    "extra nan": {"extras": {"control": {"shared": torch.full((4,), float("nan"))}}},
}


@pytest.mark.parametrize("name", POISONS)
def test_poison_is_refused(name: str) -> None:
    with pytest.raises(AdmissionError):
        check(_reply(**POISONS[name]), _task(), DECLARED)


@pytest.mark.parametrize(
    ("look", "name"),
    [
        ("_square", "nan"),
        ("_square", "broadcasts"),
        ("_square", "half"),
        ("_right_counts", "count absurd"),
        ("_right_counts", "count negative"),
        ("_same_names", "missing group"),
    ],
)
def test_a_door_that_does_not_look_is_caught(monkeypatch: pytest.MonkeyPatch, look: str, name: str) -> None:
    monkeypatch.setattr(admission, look, lambda *looked_at: 0.0)
    with pytest.raises(pytest.fail.Exception):
        test_poison_is_refused(name)


@pytest.mark.parametrize("field", [{"round": 1}, {"run": "other"}, {"kind": "evaluate"}, {"update": None}])
def test_an_answer_to_another_question_is_refused(field: dict[str, object]) -> None:
    with pytest.raises(AdmissionError):
        check(replace(_reply(), **field), _task(), DECLARED)


@given(st.lists(st.floats(width=32), min_size=4, max_size=4))
def test_finite_passes_and_nothing_else(values: list[float]) -> None:
    vector = torch.tensor(values)
    reply = _reply(**_deltas(shared=vector))
    if bool(torch.isfinite(vector).all()):
        check(reply, _task(), DECLARED)
    else:
        with pytest.raises(AdmissionError, match="NaN or Inf"):
            check(reply, _task(), DECLARED)


def test_a_norm_that_overflows_is_not_mistaken_for_poison() -> None:
    check(_reply(**_deltas(shared=torch.full((4,), 3e38))), _task(), DECLARED)


def test_reasons_say_where() -> None:
    for poison, words in (
        ("nan", "group 'shared'"),
        ("double", "float64"),
        ("count absurd", "1000000000000000000"),
    ):
        with pytest.raises(AdmissionError, match=words):
            check(_reply(**POISONS[poison]), _task(), DECLARED)


@pytest.mark.parametrize("value", ["0.5", None, [1.0], {"a": 1}, True])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(AdmissionError, match="loss"):
        numbers({"loss": value, "seconds": 1.0}, ("loss", "seconds"))


def test_numbers_that_nobody_asked_for_are_left_out() -> None:
    assert numbers({"loss": 1, "name": "Jane"}, ("loss", "epsilon")) == {"loss": 1.0}


@pytest.mark.parametrize(
    "told",
    [
        None,
        {},
        {"scores": 3},
        {"scores": {"own": 3}},
        {"scores": {"own": {"y/dice": {"kind": "dice"}}}},
        {"scores": {"own": {"y/dice": {"kind": "best", "sums": [1, 1]}}}},
        {"scores": {"own": {"y/dice": {"kind": "dice", "sums": [float("nan"), 1]}}}},
        {"scores": {"own": {"y/dice": {"kind": "dice", "sums": ["a", 1]}}}},
    ],
)
def test_scores_that_are_none_stop_nobody(told: object, caplog: pytest.LogCaptureFixture) -> None:
    assert scores(Reply("north", "evaluate", "run", 1, facts=told)) == {}
    assert "site north" in caplog.text
