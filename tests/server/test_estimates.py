"""Rows and headlines against loops over everything that is drawn."""

import math
from itertools import product

import numpy as np
import pytest

from protocol.metrics import Tally, subset_name, subsets_of
from server import estimates
from server.estimates import Condition, Protocol, Seen, condensed, headlines, rows_of
from server.resampling import additive, draws
from server.robustness import OWN, Row, key
from server.scores import emm_average

MODALITIES = ("flair", "t1")
PROTOCOL = Protocol("tumour/dice", "tumour/dice", MODALITIES, ("blur", "ghost"))
PATIENTS = {"north": 5, "south": 3}
DRAWS = list(draws(PATIENTS, 20, 1))
RNG = np.random.default_rng(0)
CONDITIONS = [
    (OWN, OWN),
    *product(("declared", "zeroed"), map(subset_name, subsets_of(MODALITIES))),
    *product(("nm",), ("low", "mid", "high")),
    *product(("blur", "ghost"), "12"),
]
DICE = {c: {site: RNG.uniform(0.2, 0.9, n) for site, n in PATIENTS.items()} for c in CONDITIONS}
"""Condition -> site -> each patient's Dice; a drawing of models that do not exist."""


def seen(condition: tuple[str, str]) -> dict[str, Seen]:
    found = {}
    for site, dice in DICE[condition].items():
        tallies = {p: Tally("dice", (float(d), 1.0)) for p, d in enumerate(dice)}
        found[site] = Seen(len(dice), {"tumour/dice": additive(tallies, len(dice))})
    return found


def measured() -> tuple[list[Row], dict[str, np.ndarray]]:
    told = [each for c in CONDITIONS for each in rows_of(Condition(*c), seen(c), DRAWS)]
    return [row for row, _ in told], {key(row.family, row.level, row.metric): v for row, v in told}


def by_hand(condition: tuple[str, str], draw: int) -> dict[str, list[float]]:
    """Site -> Dice of the drawn patients, each as often as it was drawn."""
    return {
        site: [d for d, n in zip(dice, DRAWS[draw][site], strict=True) for _ in range(int(n))]
        for site, dice in DICE[condition].items()
    }


@pytest.mark.parametrize("condition", CONDITIONS)
def test_rows_are_computed_from_every_draw(condition: tuple[str, str]) -> None:
    ((row, values),) = rows_of(Condition(*condition), seen(condition), DRAWS)
    drawn = [by_hand(condition, draw) for draw in range(21)]
    overall = [sum(map(sum, each.values())) / 8 for each in drawn]
    sites = [{site: sum(dice) / len(dice) for site, dice in each.items()} for each in drawn]
    worst = [min(each.values()) for each in sites]

    assert values.tolist() == pytest.approx(overall)
    assert row.overall == pytest.approx((overall[0], *np.quantile(overall[1:], (0.025, 0.975))))
    assert row.worst == pytest.approx((worst[0], *np.quantile(worst[1:], (0.025, 0.975))))
    assert row.mean.value == pytest.approx(sum(sites[0].values()) / 2)
    assert row.sites["south"].value == pytest.approx(DICE[condition]["south"].mean())
    assert row.patients == 8


def test_headlines_over_patterns_are_the_papers_sums() -> None:
    """Nothing failed is one value for both ways to fail; each draw is condensed by itself."""
    _, found = measured()
    lines = condensed(PROTOCOL, found, None)
    at = 7
    whole = found[key("declared", "flair+t1", "tumour/dice")][at]
    alone = [found[key("declared", name, "tumour/dice")][at] for name in MODALITIES]
    blind = [found[key("zeroed", name, "tumour/dice")][at] for name in MODALITIES]

    assert lines["emm/avg"][at] == pytest.approx((whole + sum(alone)) / 3)
    assert lines["emm/e_p0.1"][at] == pytest.approx((0.81 * whole + 0.09 * sum(alone)) / 0.99)
    assert lines["nm/mid"].tolist() == found[key("nm", "mid", "tumour/dice")].tolist()
    blunt = {k: v for k, v in found.items() if k != key("zeroed", "flair+t1", "tumour/dice")}
    assert condensed(PROTOCOL, blunt, None)["emm_zeroed/avg"][at] == pytest.approx((whole + sum(blind)) / 3)


def test_errors_are_relative_to_the_reference_draw_by_draw() -> None:
    """And 1 for the reference itself, in every draw."""
    _, found = measured()
    better = {name: 1 - (1 - values) / 2 for name, values in found.items()}
    lines = condensed(PROTOCOL, better, found)

    assert lines["be"].tolist() == pytest.approx([0.5] * 21)
    assert condensed(PROTOCOL, found, found)["be"].tolist() == pytest.approx([1.0] * 21)
    assert "be" not in condensed(PROTOCOL, found, None)


def test_headlines_are_the_rows_and_the_sums() -> None:
    rows, found = measured()
    lines = headlines(PROTOCOL, rows, found, None)

    assert lines["own"] == rows[0].overall
    assert lines["worst site"] == rows[0].worst
    assert {name.partition("/")[0] for name in lines} == {
        "own",
        "mean over sites",
        "worst site",
        "emm",
        "emm_zeroed",
        "nm",
    }


def test_a_condition_that_some_site_never_saw_is_over_the_others() -> None:
    samples = seen((OWN, OWN))
    del samples["south"]
    ((row, _),) = rows_of(Condition(OWN, OWN), samples, DRAWS)

    assert row.sites.keys() == {"north"}
    assert row.overall.value == pytest.approx(DICE[OWN, OWN]["north"].mean())


def test_unpaired_draws_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant that condenses the data alone has no interval, and the check above sees it."""
    _, found = measured()
    monkeypatch.setattr(estimates, "emm_average", lambda values: emm_average(dict.fromkeys(values, 0.5)))

    assert condensed(PROTOCOL, found, None)["emm/avg"].std() == 0
    assert not math.isclose(condensed(PROTOCOL, found, None)["emm/e_p0.1"].std(), 0)
