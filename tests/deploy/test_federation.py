"""A private run over a federation of real processes, by the commands that people type."""

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from bench.deployment import STAGES, stages
from client.cli import accounts
from consilium import cli
from privacy.ledger import reading
from server.record import read_record
from tests.deploy.federation import RECIPE, SITES, SMALL, Federation, rounds

pytestmark = pytest.mark.deploy

# Noise that leaves something over: the round that is stopped may have to be paid twice.
PRIVATE = [
    *("rounds=3", "training.steps=20"),
    *("privacy.epsilon=8", "privacy.delta=0.01", "privacy.noise_multiplier=10"),
]


def _typed(federation: Federation, *words: str) -> str:
    home = {"CONSILIUM_HOME": str(federation.coordinator.folder), "COLUMNS": "200"}
    done = CliRunner().invoke(cli, words, env=home)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def _tracked(federation: Federation) -> dict[str, float]:
    """Site -> its last round in MLflow; "" is the federation's."""
    uri = f"sqlite:///{federation.coordinator.runs / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    return {run.data.tags.get("consilium.site", ""): run.data.metrics["round"] for run in runs}


def test_a_private_run_is_started_stopped_gone_on_with_and_finished(federation: Federation) -> None:
    said = _typed(federation, "run", "start", str(RECIPE), *SMALL, *PRIVATE)
    run = federation.coordinator.runs / said.split()[1]
    federation.until_rounds(run, 1)
    _typed(federation, "run", "stop")
    federation.until(lambda: "stopped" in _typed(federation, "run", "status"), "the run is stopped")
    _typed(federation, "run", "resume")
    federation.until_finished(run)

    record = read_record(run)
    assert len(record.rounds) == rounds(run) == 3
    for ended in record.rounds:
        assert [site.status for site in ended.sites] == ["accepted"] * len(SITES)
    for name in SITES:
        spent = [s.epsilon for r in record.rounds for s in r.sites if s.site == name]
        assert spent == sorted(e for e in spent if e is not None)
        with reading(federation.site(name).ledger) as ledger:
            (account,) = accounts(ledger)
        # One round that was stopped may be counted twice, never not at all.
        assert account.rounds in {3, 4}
        assert account.spent >= (spent[-1] or 0) > 0

    spans = stages(federation, run)
    assert spans.keys() > set(STAGES.values())
    assert spans[STAGES["answered"]] > 0  # a small task is there with its announcement

    assert _tracked(federation) == {"": 3, "north": 3, "south": 3}
    told = _typed(federation, "federation", "status")
    assert all(name in told for name in SITES)
    assert "3: accepted" in told
    assert "of 8" in told
    assert "round 3 ended: 2 of 2 sites accepted" in _typed(federation, "run", "logs", run.name)
    assert "superlink" in _typed(federation, "server", "status")
