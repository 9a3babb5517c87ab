"""`consilium site policy`: what a hospital is told before anybody trains."""

from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from client.cli import site
from client.home import HOSPITAL
from client.policy import parse_policy
from client.policy_cli import first_refused
from client.spending import priced
from privacy.accounting import Event, epsilon
from protocol.errors import PolicyError, SettingsError
from protocol.recipe import load_recipe, recipe_hash
from tests.client.hospital import POLICY, RECIPE, Hospital, changed


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hospital:
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(dict(RECIPE)))
    return Hospital(tmp_path, monkeypatch)


def _asked(hospital: Hospital, verb: str, *words: str) -> Result:
    folder = hospital.settings.data
    files = [str(folder / "recipe.yaml"), *words, "--policy", str(folder / "policy.yaml")]
    return CliRunner().invoke(site, ["policy", verb, *files])


def test_a_recipe_that_is_allowed_is_said_to_be_with_its_hash(hospital: Hospital) -> None:
    result = _asked(hospital, "check", "--data", str(hospital.settings.data))
    assert result.exit_code == 0, result.output
    assert recipe_hash(load_recipe(yaml.safe_dump(dict(RECIPE)))) in result.output
    assert result.output.endswith("allowed\n")


def test_without_the_data_nothing_is_said_about_the_cohort(hospital: Hospital) -> None:
    assert "if the cohort is large enough" in _asked(hospital, "check").output
    assert hospital.reads == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["privacy.epsilon=null"], "privacy.required"),
        (["privacy.epsilon=5"], "privacy.epsilon: 5 is above"),
        (["--patients", "7"], "counts.least_patients"),
        (["rounds=100000000", "--patients", "36"], "no noise affords"),
    ],
)
def test_a_recipe_that_is_refused_ends_in_the_policy_s_exit_status(
    hospital: Hospital, words: list[str], reason: str
) -> None:
    result = _asked(hospital, "check", *words)
    assert isinstance(result.exception, PolicyError)
    assert reason in str(result.exception)
    assert f"refused: {reason}"[:40] in " ".join(_asked(hospital, "explain", *words).output.split())


def test_the_price_is_that_of_the_round_that_is_then_trained(hospital: Hospital) -> None:
    text = _asked(hospital, "explain", "--data", str(hospital.settings.data)).output
    floor = parse_policy(yaml.safe_dump(dict(POLICY))).privacy
    event, delta = priced(load_recipe(yaml.safe_dump(dict(RECIPE))), floor, 36)
    assert f"{event.noise_multiplier:.4g}" in text
    assert f"{epsilon([event], delta):.3f}" in text
    assert "suppressed" in text
    assert "counts as 40 cases" in text
    trained = hospital.train(RECIPE).reply
    assert trained is not None
    assert trained.facts["noise_multiplier"] == event.noise_multiplier
    spent = _asked(hospital, "explain", "--patients", "36", "--state", str(hospital.settings.state)).output
    assert f"epsilon so far, all runs │ {trained.facts['epsilon']:.3f}" in " ".join(spent.split())


@pytest.mark.slow
def test_the_round_at_which_a_budget_ends_is_that_of_a_plain_count() -> None:
    event, delta = Event(1.0, 0.2, 5), 1e-5
    for limit in (0.1, 2.0, 100.0):
        plain = next((n for n in range(1, 7) if epsilon([event] * n, delta) > limit), 7)
        assert first_refused(event, delta, 6, limit, ()) == plain


def test_without_privacy_it_says_what_that_means(hospital: Hospital) -> None:
    hospital.rule(changed(POLICY, privacy={"required": False}))
    assert "may reveal single patients" in _asked(hospital, "explain", "privacy.epsilon=null").output


def test_a_new_policy_is_the_shipped_one_and_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    assert CliRunner().invoke(site, ["policy", "new", str(path)]).exit_code == 0
    assert path.read_text() == HOSPITAL.read_text()
    assert isinstance(CliRunner().invoke(site, ["policy", "new", str(path)]).exception, SettingsError)


def test_noise_that_others_add_is_shown_with_what_is_left_without_them(hospital: Hospital) -> None:
    hospital.rule(changed(POLICY, secure={"least_colluders": 1}))
    words = ["secure.enabled=true", "secure.noise_over=2", "privacy.noise_multiplier=2", "rounds=2"]
    text = _asked(hospital, "explain", *words, "privacy.sampling_rate=1", "--patients", "36").output
    alone = epsilon([Event(2.0 / 2**0.5, 1.0, 2)], 1e-3)
    assert f"epsilon of the run, no other site honest │ {alone:.3f}" in " ".join(text.split())
    assert "accounted: in sums of at least 2 honest sites" in text


@pytest.mark.slow
def test_each_stage_is_priced_after_those_before_it(hospital: Hospital) -> None:
    recipe = changed(RECIPE, stages=[{"name": "before", "rounds": 1, "epsilon": 1.0}])
    (hospital.settings.data / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    text = _asked(hospital, "explain", "--patients", "36").output
    first, second = (text.split("what one")[place] for place in (1, 2))

    def told(table: str, row: str) -> float:
        (line,) = (line for line in table.splitlines() if row in line)
        return float(line.split("│")[2])

    assert "for before" in first
    assert 0.9 < told(first, "epsilon after it") <= 1.0
    assert told(second, "epsilon so far") == told(first, "epsilon after it")
    assert 1.9 < told(second, "epsilon after it") <= 2.0
    assert "allowed" in text
