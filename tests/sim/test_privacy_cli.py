"""`consilium privacy plan|key`: the price at every site before anybody trains."""

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from client import spending
from privacy.accounting import Event
from privacy.keys import signer
from privacy.ledger import Ask, spending_from
from protocol.errors import SettingsError
from sim import privacy_cli
from sim.privacy_cli import privacy

RECIPE = Path(__file__).parents[2] / "recipes" / "heart4.yaml"
SMALL = ["rounds=2", "training.steps=5", "privacy.delta=1e-3"]


@pytest.fixture(autouse=True)
def _wide_and_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.setattr(privacy_cli, "BUDGETS", (1.0,))
    monkeypatch.setattr(privacy_cli, "LENGTHS", (1.0,))


def _plan(*words: str) -> Result:
    return CliRunner().invoke(privacy, ["plan", str(RECIPE), *SMALL, "--epsilon", "8", *words])


def _noise(result: Result) -> float:
    assert result.exit_code == 0, result.output
    (row,) = (line for line in result.output.splitlines() if "north" in line and "│" in line)
    return float(row.split("│")[7])


def test_the_plan_names_noise_steps_and_the_trade_off_of_each_site() -> None:
    result = _plan("--patients", "north=400,south=40")
    assert result.exit_code == 0, result.output
    assert "north: noise for epsilon" in result.output
    assert "south: noise for epsilon" in result.output
    assert "add-or-remove one patient" in result.output


@pytest.mark.slow
def test_more_patients_and_more_epsilon_need_less_noise_and_what_was_spent_needs_more(tmp_path: Path) -> None:
    with spending_from(tmp_path) as ledger:
        ledger.reserve(Ask("old", 1, "a", "base"), ledger.patients(["one"]), Event(1.0, 0.1, 20), ())
    few, many = _noise(_plan("--patients", "north=40")), _noise(_plan("--patients", "north=400"))
    after = _noise(_plan("--patients", "north=400", "--ledger", f"north={tmp_path}"))
    assert many < few
    assert many < after


@pytest.mark.slow
def test_the_measured_figure_of_the_handbook_comes_out() -> None:
    """N = 2,000, B = 64, 1,600 steps, epsilon 8, delta 1e-5: noise multiplier 1.03."""
    large = ["rounds=16", "training.steps=100", "training.batch=64", "privacy.delta=1e-5"]
    assert _noise(_plan(*large, "--patients", "north=2000")) == pytest.approx(1.03, abs=0.01)


@pytest.mark.parametrize(
    "words",
    [[], ["--patients", "north"], ["--patients", "north=0"], ["--patients", "north=9", "--ledger", "east=."]],
)
def test_a_question_that_makes_no_sense_is_refused(words: list[str]) -> None:
    assert isinstance(_plan(*words).exception, SettingsError)


STAGED = """
stages:
  - {name: before, rounds: 1, epsilon: 4.0}
"""


def _staged(folder: Path) -> list[list[float]]:
    """Return of each stage's row the noise multiplier, and epsilon before, after a round, and at its end."""
    (folder / "staged.yaml").write_text(RECIPE.read_text() + STAGED)
    words = ["plan", str(folder / "staged.yaml"), *SMALL, "--epsilon", "8", "--patients", "north=400"]
    result = CliRunner().invoke(privacy, words)
    assert result.exit_code == 0, result.output
    rows = [line.split("│") for line in result.output.splitlines() if "north" in line and "│" in line]
    assert [row[3].strip() for row in rows] == ["1-1 before", "2-3"]
    return [[float(row[place]) for place in (7, 9, 10, 11)] for row in rows]


@pytest.mark.slow
def test_every_stage_is_planned_after_what_those_before_it_cost(tmp_path: Path) -> None:
    first, last = _staged(tmp_path)
    assert first[1] == 0
    assert 3.9 < first[3] <= 4.0
    assert last[1] == first[3]
    assert 7.9 < last[3] <= 8.0


@pytest.mark.slow
def test_a_plan_that_forgets_the_earlier_stage_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgetful = spending.priced
    monkeypatch.setattr(spending, "priced", lambda recipe, floor, n, spent: forgetful(recipe, floor, n))
    with pytest.raises(AssertionError):
        test_every_stage_is_planned_after_what_those_before_it_cost(tmp_path)


def test_a_key_is_shown_by_its_public_half(tmp_path: Path) -> None:
    path = tmp_path / "board.key"
    result = CliRunner().invoke(privacy, ["key", str(path)])
    assert result.output.strip() == signer(path).public.hex()
