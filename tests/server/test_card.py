"""The model card says what whoever uses the model must know, and is a function of the record alone."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.spending import planned
from privacy.statement import ADJACENCY, OUTSIDE, UNIT
from protocol.recipe import Privacy, Training, recipe_hash
from server.card import FILE, card, pace
from server.record import SiteSummary
from server.report import render
from sim.attacks.hospital import cases, hospital
from tests.federation import Federation, cohorts, recipe
from tests.server import records


def test_the_card_names_recipe_code_and_sites() -> None:
    text = card(records.record(), records.recipe())
    assert recipe_hash(records.recipe()) in text
    assert "0123456789abcdef" in text
    assert all(f"| {site} |" in text for site in records.OWNED)


def test_the_guarantee_stands_with_all_that_it_depends_on() -> None:
    text = card(records.record(), records.recipe())
    for words in (ADJACENCY, f"level of a {UNIT}", "Gaussian mechanism", "clip norm 1", OUTSIDE, "delta"):
        assert words in text
    # East has 30 training patients: batch 16 is a rate of 0.533, two steps a round, twelve rounds.
    assert "| east | 7.275 | 7.265 | 1.64e-03 | 1.030 | 0.533 | 24 | 12 |" in text


def test_without_privacy_nothing_is_promised() -> None:
    text = card(records.record(private=False), records.recipe(private=False))
    assert "nothing is promised" in text
    assert ADJACENCY not in text


def test_what_is_absent_is_told() -> None:
    text = card(records.record(), records.recipe())
    assert "| t1c | east, north | south, west |" in text
    assert "| t1 | east, south, west | north |" in text


def test_scores_are_there_by_subset_with_the_worst_site() -> None:
    text = card(records.record(), records.recipe())
    assert re.search(r"\| flair\+t1 \| 0\.73\d \| east \| 0\.730 \|", text)
    assert "Scores: tumour/hd95_mm" in text


def test_it_is_no_medical_device() -> None:
    assert "not a medical device" in card(records.record(), records.recipe())


@pytest.mark.parametrize("changes", [{"rounds": 0, "status": "failed"}, {"rounds": 1, "status": "running"}])
def test_a_run_that_did_not_get_far_has_a_card_too(changes: dict[str, object]) -> None:
    assert "No held-out patients were scored" in card(records.record(**changes), records.recipe())


def test_what_sites_say_stays_text() -> None:
    evil = "x | y\n# Heading <img src=x> [link](http://evil)"
    record = records.record()
    told = (*record.sites, SiteSummary(evil, {"train": 1}, {"train": 1}, {evil: 1}, {}))
    text = card(replace(record, sites=told), records.recipe())
    assert "\n# Heading" not in text
    assert "<img" not in text
    assert not re.search(r"(?<!\\)\]\(", text)
    (row,) = (line for line in text.splitlines() if line.startswith("| x"))
    assert len(re.findall(r"(?<!\\)\|", row)) == len(re.findall(r"(?<!\\)\|", row_of(text, "east")))


def row_of(text: str, site: str) -> str:
    """The site's row in the table of cohorts, the last that begins with its name."""
    return [line for line in text.splitlines() if line.startswith(f"| {site} | ") and " / " in line][-1]


@settings(max_examples=15)
@given(
    st.integers(1, 200),
    st.integers(1, 300),
    st.integers(1, 3),
    st.sampled_from([None, 7]),
    st.sampled_from([None, 0.2]),
)
def test_rate_and_steps_are_those_that_the_site_plans(
    patients: int, batch: int, epochs: int, steps: int | None, rate: float | None
) -> None:
    whole = replace(
        recipe(),
        training=Training(batch=batch, epochs=epochs, steps=steps),
        privacy=Privacy(epsilon=8.0, noise_multiplier=1.0, sampling_rate=rate),
    )
    event = planned(hospital(whole, cases(whole, patients, 0))).event
    assert pace(whole, patients) == (event.sampling_rate, event.steps)


def test_correlated_noise_is_not_called_a_poisson_sample() -> None:
    drawn = records.recipe()
    in_turn = replace(drawn, privacy=replace(drawn.privacy, mechanism="ftrl"))
    assert "Poisson" in card(records.record(), drawn)
    text = card(records.record(), in_turn)
    assert "Poisson" not in text
    assert "DP-FTRL" in text
    event = planned(hospital(in_turn, cases(in_turn, 9, 0))).event
    assert pace(in_turn, 9) == (event.sampling_rate, event.steps) == (1.0, in_turn.training.epochs)


def test_the_report_holds_the_card() -> None:
    html = render(records.record(), records.recipe(), ())
    assert "Intended use" in html
    assert "not a medical device" in html


def test_a_finished_run_leaves_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = Federation(tmp_path, cohorts(), monkeypatch)
    private = recipe(
        rounds=1, training=Training(batch=4, steps=1), privacy=Privacy(epsilon=8.0, noise_multiplier=2.0)
    )
    record = federation.run(private)
    assert (tmp_path / "run" / FILE).read_text() == card(record, private)
