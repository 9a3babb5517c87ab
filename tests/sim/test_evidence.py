"""`consilium privacy audit`, with little effort: what is attacked, written and shown."""

from dataclasses import replace
from html import escape
from pathlib import Path

import pytest
from typer.testing import CliRunner

import consilium
from privacy.accounting import Event
from protocol.errors import PrivacyError
from protocol.recipe import EarlierStage, Head, Part, dump_recipe, recipe_hash
from server import evidence
from server.record import to_json
from sim import evidence_cli
from sim.evidence import Effort, attacks, parts, stage_events, undefended
from tests.server import records
from tests.sim.attacks.rigged import TABLE

LITTLE = Effort(canaries=40, models=4, inversion_starts=1, training_steps=3)
RECIPE = replace(
    TABLE, rounds=2, privacy=replace(TABLE.privacy, epsilon=8.0, noise_multiplier=3.0), name="audited"
)


@pytest.fixture(autouse=True)
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence_cli, "Effort", lambda: LITTLE)


def test_progress_ends_where_it_was_announced() -> None:
    ((_, event),) = stage_events(RECIPE, 40)
    announced = parts(RECIPE, event, LITTLE)
    heard = dict.fromkeys(announced, 0)

    def hear(name: str) -> object:
        heard[name] += 1
        return None

    watch = {name: lambda name=name: hear(name) for name in announced}
    found = list(attacks(RECIPE, event, LITTLE, 0, watch))
    assert heard == announced
    assert [attack.name for attack in found] == list(evidence.KINDS)
    assert all(attack.defended is not None and attack.limit is not None for attack in found)


def test_all_steps_of_a_run_are_audited() -> None:
    assert [event for _, event in stage_events(RECIPE, 40)] == [Event(3.0, 0.4, 6)]
    assert [event for _, event in stage_events(undefended(RECIPE), 40)] == [Event(0.0, 0.4, 6)]


def test_a_recipe_without_privacy_is_its_own_control() -> None:
    naked = undefended(RECIPE)
    ((_, event),) = stage_events(naked, 40)
    watch = dict.fromkeys(parts(naked, event, LITTLE), lambda: None)
    assert all(attack.defended is None for attack in attacks(naked, event, LITTLE, 0, watch))


def test_what_couples_the_batch_is_refused_under_privacy() -> None:
    coupled = replace(RECIPE, heads={"risk": Head("survival", 1, Part("cox"))})
    with pytest.raises(PrivacyError, match="couples"):
        stage_events(coupled, 40)


def test_a_runs_audit_lies_in_its_folder_and_in_its_report(tmp_path: Path) -> None:
    folder = tmp_path / "run-1"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(dump_recipe(RECIPE))
    record = replace(records.record(), recipe=dump_recipe(RECIPE))
    (folder / "record.json").write_text(to_json(record))
    result = CliRunner().invoke(consilium.cli, ["privacy", "audit", "run", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    found = evidence.read_evidence(folder)
    assert found is not None
    assert found.recipe == recipe_hash(RECIPE)
    assert escape(evidence.KINDS["membership"].definition) in (folder / "report.html").read_text()
    assert "attacks on audited" in result.output


def test_a_recipe_is_audited_without_data_or_run(tmp_path: Path) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "heart4.yaml"
    words = ["privacy", "audit", str(recipe), "privacy.epsilon=8", "privacy.noise_multiplier=1", "rounds=1"]
    result = CliRunner().invoke(consilium.cli, [*words, "training.steps=2", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert evidence.read_evidence(tmp_path / "heart4-audit") is not None


STAGED = replace(
    RECIPE,
    rounds=1,
    privacy=replace(TABLE.privacy, epsilon=8.0),
    stages=(EarlierStage("first", rounds=1, epsilon=2.0),),
)


@pytest.mark.slow
def test_every_stage_is_attacked_with_the_noise_that_is_left_to_it() -> None:
    found = evidence_cli.gather(STAGED, 40, 0, LITTLE).attacks
    expected = [(name, stage) for stage in ("first", "") for name in evidence.KINDS]
    assert [(attack.name, attack.stage) for attack in found] == expected
    ((_, alone),) = stage_events(replace(STAGED, stages=()), 40)
    noise = [attack.setting["noise_multiplier"] for attack in found if attack.name == "epsilon"]
    assert noise[0] > noise[1] > alone.noise_multiplier
    assert evidence.title(found[0]) == "measured epsilon (first)"


@pytest.mark.slow
def test_the_mutant_that_attacks_the_last_stage_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence_cli, "stage_events", lambda recipe, n: stage_events(recipe, n)[-1:])
    with pytest.raises(AssertionError):
        test_every_stage_is_attacked_with_the_noise_that_is_left_to_it()
