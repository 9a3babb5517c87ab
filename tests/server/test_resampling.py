"""Draws of patients: sums over them are the metric of the drawn patients, written out."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from models.metrics import compared, concordance, measure
from protocol.metrics import Tally
from protocol.recipe import Head
from server.resampling import additive, draws, interval, paired, scores

PATIENTS = 6
OWNER = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 5, 5])
DRAW = (0, 2, 2, 5, 5, 5)
"""Patients drawn, one after the other."""
COUNTS = np.array([Counter(DRAW)[p] for p in range(PATIENTS)], dtype=float)


def _numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _written_out() -> tuple[Tensor, Tensor]:
    """Rows of the drawn patients, and each one's own number, so that a patient drawn twice is two."""
    rows = [(row, place) for place, p in enumerate(DRAW) for row in OWNER.eq(p).nonzero().flatten().tolist()]
    return torch.tensor([row for row, _ in rows]), torch.tensor([place for _, place in rows])


CLASSES = {
    "binary": (Head("classification"), _numbers(10, 1), (_numbers(10) > 0).long()),
    "three classes": (Head("classification", 3), _numbers(10, 3), torch.arange(10) % 3),
    "masks": (Head("segmentation"), _numbers(10, 1, 4, 4), (_numbers(10, 1, 4, 4) > 0.3).float()),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_a_draw_is_the_metric_of_the_drawn_patients(kind: str) -> None:
    """For every metric that adds, sums and value."""
    head, logits, targets = CLASSES[kind]
    single = {
        p: measure(head, logits[OWNER.eq(p)], targets[OWNER.eq(p)], OWNER[OWNER.eq(p)], None)
        for p in range(PATIENTS)
    }
    rows, places = _written_out()

    for metric, wanted in measure(head, logits[rows], targets[rows], places, None).items():
        found = additive({p: told[metric] for p, told in single.items()}, PATIENTS)(COUNTS)
        assert found.sums == pytest.approx(wanted.sums)
        assert found.value == pytest.approx(wanted.value)


def test_a_draw_of_pairs_is_the_concordance_of_the_drawn_patients() -> None:
    """A patient drawn twice is compared with others twice, and with itself not at all."""
    risk, time, died = _numbers(10).round(decimals=1), torch.arange(10.0) // 2, torch.arange(10) % 3 > 0
    rows, _ = _written_out()
    found = paired(*(each.numpy() for each in compared(torch.arange(10), risk, time, died)), OWNER.tolist())

    assert found(COUNTS).sums == pytest.approx(concordance(risk[rows], time[rows], died[rows]).sums)
    assert found(np.ones(PATIENTS)).sums == pytest.approx(concordance(risk, time, died).sums)


def test_patients_are_drawn_within_their_site() -> None:
    """As many as there are, whoever else takes part; the first draw is the data; a seed repeats."""
    found = list(draws({"north": 12, "south": 3}, 400, 7))

    assert all((each["north"].sum(), each["south"].sum()) == (12, 3) for each in found)
    assert found[0]["north"].tolist() == [1.0] * 12
    assert np.mean([each["north"] for each in found], axis=0) == pytest.approx(np.ones(12), abs=0.2)
    alone = list(draws({"north": 12}, 400, 7))
    assert all((a["north"] == b["north"]).all() for a, b in zip(found, alone, strict=True))
    assert any(
        (a["north"] != b["north"]).any() for a, b in zip(draws({"north": 12}, 9, 8), alone, strict=False)
    )


def test_an_interval_is_about_two_standard_errors_wide() -> None:
    """Dice of 50 patients, drawn 2,000 times, against the formula of a mean's standard error."""
    dice = np.random.default_rng(0).beta(5, 2, 50)
    sample = {"tumour/dice": additive({p: Tally("dice", (d, 1.0)) for p, d in enumerate(dice.tolist())}, 50)}
    values = [
        scores({"north": sample}, draw)["north"]["tumour/dice"].value
        for draw in draws({"north": 50}, 2000, 0)
    ]
    low, high = interval(values[1:])

    assert values[0] == pytest.approx(dice.mean())
    assert low < values[0] < high
    assert high - low == pytest.approx(2 * 1.96 * dice.std() / np.sqrt(50), rel=0.1)


def test_an_interval_leaves_out_draws_without_a_value() -> None:
    """A draw may miss the one patient who could be scored."""
    assert interval([0.2, float("nan"), 0.2]) == (0.2, 0.2)
    assert all(np.isnan(interval([float("nan")])))
