"""Methods side by side, from numbers that are made up."""

import math
from dataclasses import replace
from statistics import stdev

import numpy as np
import pytest

from protocol.errors import SettingsError
from server.ranking import forest, lines, markdown, verdict
from server.robustness import Estimate, Replicates, Robustness, key
from tests.server.test_robustness import FOUND

RNG = np.random.default_rng(0)
PATIENTS = RNG.normal(0, 0.1, 201)
"""How easy the patients of each draw are, for every model alike; the first is the data's."""


def model(level: float, seed: int, worst: float = 0.4) -> tuple[Robustness, Replicates]:
    """A model that is good to `level`, a little more or less by its seed."""
    values = level + PATIENTS + 0.01 * seed + np.random.default_rng(seed).normal(0, 0.002, 201)
    headlines = {"own": Estimate(values[0], 0, 1), "worst site": Estimate(worst + 0.1 * seed, 0, 1)}
    return replace(FOUND, headlines=headlines), {key("own", "own", "tumour/dice"): values}


MODELS = {
    "early fusion": [model(0.5, seed) for seed in range(3)],
    "better": [model(0.55, seed) for seed in range(3)],
    "alike": [model(0.5, seed) for seed in range(3, 6)],
    "worse": [model(0.4, seed) for seed in range(3)],
}


def test_a_line_is_the_mean_over_seeds_of_every_draw() -> None:
    line = lines(MODELS, "tumour/dice", "early fusion")[1]
    values = [told["own|own|tumour/dice"] for _, told in MODELS["better"]]
    mean = [sum(each) / 3 for each in zip(*values, strict=True)]

    assert line.own == pytest.approx((mean[0], *np.quantile(mean[1:], (0.025, 0.975))))
    assert line.deviation == pytest.approx(stdev(each[0] for each in values))
    assert line.others["worst site"] == pytest.approx(0.5)


def test_a_gain_is_taken_draw_by_draw() -> None:
    """Patients differ much more than models do: only the paired difference can tell."""
    told = {line.label: line for line in lines(MODELS, "tumour/dice", "early fusion")}
    better = told["better"]

    assert better.gain is not None
    assert better.gain.value == pytest.approx(0.05, abs=0.01)
    assert better.own.low < told["early fusion"].own.high  # unpaired intervals overlap
    assert [verdict("tumour/dice", told[name].gain) for name in MODELS] == [
        "the control",
        "gain",
        "gain",
        "loss",
    ]


def test_one_lucky_seed_is_no_gain() -> None:
    """The interval is about patients: what one seed alone brings must not pass for a method's."""
    lucky = [model(0.9, 0), model(0.49, 1), model(0.49, 2)]
    told = lines({"early fusion": MODELS["early fusion"], "lucky": lucky}, "tumour/dice", "early fusion")[1]

    assert told.gain is not None
    assert told.gain.low > 0
    assert verdict("tumour/dice", told.gain, agreed=told.agreed) == "no gain measured: seeds disagree"


def test_no_gain_is_said_where_the_interval_holds_zero_or_has_no_end() -> None:
    assert verdict("tumour/dice", Estimate(0.1, -0.01, 0.2)) == "no gain measured"
    assert verdict("tumour/dice", Estimate(math.nan, math.nan, math.nan)) == "no gain measured"
    assert verdict("tumour/ece", Estimate(-0.1, -0.2, -0.01)) == "gain"
    assert verdict("tumour/hd95_mm", Estimate(1.0, 0.5, 2.0)) == "loss"


@pytest.mark.parametrize(
    "change",
    [{"patients": {"north": 6, "south": 4}}, {"seed": 1}, {"replicates": 99}, {"metric": "grade/auroc"}],
)
def test_models_of_different_patients_or_draws_are_not_compared(change: dict[str, object]) -> None:
    (found, told), *rest = MODELS["better"]
    with pytest.raises(SettingsError, match="like with like"):
        lines({"a": [(replace(found, **change), told), *rest]}, "tumour/dice", "a")


def test_the_table_and_the_plot_name_every_method() -> None:
    told = lines(MODELS, "tumour/dice", "early fusion")
    table, plot = markdown(told, "tumour/dice"), forest(told, "tumour/dice")

    assert [line.split(" | ")[0].strip("| ") for line in table.splitlines()[2:]] == list(MODELS)
    assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "emm/avg" not in table  # nobody measured it
    assert all(f">{name}</text>" in plot for name in MODELS)
    assert plot.startswith("<svg")
    assert plot.count("<circle") == 4
