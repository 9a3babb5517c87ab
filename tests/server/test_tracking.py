"""A whole run in a real MLflow store, stopped on its way and resumed."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from models.exported import Predictor, load
from protocol.errors import TrackingError
from protocol.metrics import subsets_of
from protocol.recipe import Part, Privacy, Training, dump_recipe, recipe_hash
from server import checkpoint, export
from server.book import unflatten
from server.record import Round, RunRecord, SiteRound, read_record, to_json
from server.tracking import Tracker, attach, federation_metrics, site_metrics
from tests.federation import MODALITIES, Federation, cohorts, recipe
from tests.server import records

CANARY = "Jane-Doe-1961"
WHOLE = recipe(
    strategy=Part("fedadam"),
    privacy=Privacy(epsilon=8.0, noise_multiplier=4.0),
    training=Training(batch=4, steps=1),
)


def _stop(number: int, news: SiteRound | Round) -> None:
    if number == 2 and isinstance(news, SiteRound):
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that was stopped in the middle of round 2 and then taken to its end."""
    with pytest.MonkeyPatch.context() as patch:
        held = cohorts()
        for cohort in held.values():
            object.__setattr__(cohort, "patients", tuple(f"{CANARY}-{p}" for p in cohort.patients))
        federation = Federation(tmp_path_factory.mktemp("tracked"), held, patch)
        with pytest.raises(KeyboardInterrupt):
            federation.run(WHOLE, "run", _stop, tracking="")
        federation.run(WHOLE, "run", tracking="")
        yield federation.folder / "run"


@pytest.fixture(scope="module")
def client(folder: Path) -> MlflowClient:
    uri = f"sqlite:///{folder.parent / 'mlflow.db'}"
    return MlflowClient(uri, uri)


@pytest.fixture(scope="module")
def tracked(client: MlflowClient) -> dict[str, Run]:
    """Site -> its run; "" is the federation's."""
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    return {run.data.tags.get("consilium.site", ""): run for run in runs}


def _steps(client: MlflowClient, run: Run, metric: str) -> list[int]:
    return [each.step for each in client.get_metric_history(run.info.run_id, metric)]


def test_one_run_and_a_child_a_site(tracked: dict[str, Run]) -> None:
    parent = tracked.pop("")
    assert tracked.keys() == {"north", "south", "west"}
    assert {run.data.tags["mlflow.parentRunId"] for run in tracked.values()} == {parent.info.run_id}
    assert {run.info.status for run in (parent, *tracked.values())} == {"FINISHED"}
    tracked[""] = parent


def test_the_recipe_is_there_key_by_key(tracked: dict[str, Run]) -> None:
    run = tracked[""]
    assert run.data.params["strategy.name"] == "fedadam"
    assert run.data.params["privacy.epsilon"] == "8.0"
    assert run.data.tags["consilium.recipe_hash"] == recipe_hash(WHOLE)
    assert {"consilium.torch", "consilium.flwr", "consilium.python"} <= run.data.tags.keys()


def test_every_round_is_there_once_although_the_run_was_stopped(
    client: MlflowClient, tracked: dict[str, Run]
) -> None:
    assert _steps(client, tracked[""], "update_norm") == [1, 2, 3]
    for site in ("north", "south", "west"):
        for metric in ("epsilon", "epsilon_pld", "delta", "noise_multiplier", "bytes/up", "seconds"):
            assert _steps(client, tracked[site], metric) == [1, 2, 3], (site, metric)


def test_the_numbers_are_the_records(client: MlflowClient, folder: Path, tracked: dict[str, Run]) -> None:
    for ended in read_record(folder).rounds:
        for site in ended.sites:
            history = client.get_metric_history(tracked[site.site].info.run_id, "epsilon")
            assert history[ended.number - 1].value == site.epsilon


def test_files_are_beside_the_numbers(client: MlflowClient, tracked: dict[str, Run]) -> None:
    run = tracked[""].info.run_id
    names = {file.path for file in client.list_artifacts(run)}
    assert {"recipe.yaml", "record.json", "report.html", "best.safetensors", "checkpoints", "model"} <= names
    kept = [file.path for file in client.list_artifacts(run, "checkpoints")]
    assert kept[-1] == "checkpoints/round-000003.checkpoint"


def test_what_was_found_later_is_put_beside_the_run(
    client: MlflowClient, folder: Path, tracked: dict[str, Run], tmp_path: Path
) -> None:
    """A run without tracking is passed over, and a store that is down costs a warning, not the evaluation."""
    (tmp_path / "robustness.csv").write_text("family\n")
    attach(folder, "", [tmp_path / "robustness.csv"], {"robustness/emm/e_p0.1": 0.7})
    run = client.get_run(tracked[""].info.run_id)

    assert "robustness.csv" in {file.path for file in client.list_artifacts(run.info.run_id)}
    assert run.data.metrics["robustness/emm/e_p0.1"] == 0.7
    attach(tmp_path, "", [], {"robustness/own": 0.1})
    attach(folder, f"sqlite:///{tmp_path}/no/such/folder/mlflow.db", [], {"robustness/own": 0.1})


def test_no_patient_is_named_anywhere(folder: Path) -> None:
    files = [path for path in folder.parent.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]


def _images(rows: int = 3) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=(rows, 1, 8, 8)).astype("float32") for name in MODALITIES}


def test_the_registered_model_takes_any_subset(client: MlflowClient, folder: Path) -> None:
    (version,) = client.search_model_versions("name = 'tiny'")
    mlflow.set_tracking_uri(f"sqlite:///{folder.parent / 'mlflow.db'}")
    mlflow.set_registry_uri(f"sqlite:///{folder.parent / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model(f"models:/tiny/{version.version}")
    assert {each.name for each in model.metadata.signature.inputs.inputs} == set(MODALITIES)
    parameters = unflatten(checkpoint.load(folder / "checkpoints").vectors).parameters
    oracle = Predictor(WHOLE, parameters)
    images = _images()
    for subset in subsets_of(MODALITIES):
        found = model.predict({name: images[name] for name in subset})
        assert found["tumour"].shape == (3, 1, 8, 8)
        assert ((found["tumour"] >= 0) & (found["tumour"] <= 1)).all()
        np.testing.assert_array_equal(
            found["tumour"], oracle.predict({n: images[n] for n in subset})["tumour"]
        )


def test_a_model_that_is_partly_at_the_sites_is_not_exported() -> None:
    assert export.kept_at_sites(recipe(strategy=Part("fedbn")))
    assert not export.kept_at_sites(recipe())


def test_a_finished_run_holds_its_model(folder: Path) -> None:
    images = _images()
    parameters = unflatten(checkpoint.load(folder / "checkpoints").vectors).parameters
    expected = Predictor(WHOLE, parameters).predict(images)["tumour"]
    (exported,) = folder.parent.joinpath("mlartifacts").rglob("MLmodel")
    for place in (folder, folder / "model", exported.parent):
        np.testing.assert_array_equal(load(place).predict(images)["tumour"], expected)
    assert not (folder / "model.partial").exists()


def test_a_store_that_cannot_be_reached_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path}/no/such/folder/mlflow.db", "tiny", tmp_path / "run")
    with pytest.raises(TrackingError, match=r"does not open this run.*tracking"):
        tracker.start("name: tiny", "0" * 64, (), {}, None)


def test_a_folder_in_place_of_a_database_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow, "MlflowClient", None)  # who asks MLflow for it waits for a minute and more
    with pytest.raises(TrackingError, match="a folder: name a file in it"):
        Tracker(f"sqlite:///{tmp_path}", "tiny", tmp_path / "run").start("name: tiny", "0" * 64, (), {}, None)


def test_a_database_named_by_its_address_leaves_nothing_where_the_command_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called_in, run = tmp_path / "called-in", tmp_path / "runs" / "run"
    called_in.mkdir()
    run.mkdir(parents=True)
    (run / "record.json").write_text(to_json(records.record()), encoding="utf-8")
    monkeypatch.chdir(called_in)
    Tracker(f"sqlite:///{tmp_path / 'store.db'}", "tiny", run).start("name: tiny", "0" * 64, (), {}, None)
    assert not list(called_in.iterdir())
    assert list((tmp_path / "runs" / "mlartifacts").rglob("recipe.yaml"))


def test_metrics_of_a_round_go_in_one_batch_a_run(
    folder: Path, client: MlflowClient, tracked: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker(None, "tiny", folder)
    record = read_record(folder)
    tracker.start(record.recipe, "", record.sites, {}, tracked[""].info.run_id)
    sent: list[str] = []
    monkeypatch.setattr(
        type(client), "log_batch", lambda self, run_id, metrics=(), params=(): sent.append(run_id)
    )
    tracker.log_round(_renumbered(record.rounds[-1], 4))
    tracker._thread.shutdown()
    assert sorted(sent) == sorted(run.info.run_id for run in tracked.values())


def test_a_site_that_was_not_there_at_the_beginning_is_tracked_too(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    text = dump_recipe(WHOLE)
    record = RunRecord("run", text, "now", ())
    (tmp_path / "run" / "record.json").write_text(to_json(record))
    tracker = Tracker(None, "late", tmp_path / "run")
    parent = tracker.start(text, "", (), {}, None)
    tracker.log_round(Round(1, (SiteRound("north", "late"),)))
    tracker._thread.shutdown()
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("late")
    assert experiment is not None
    children = [run for run in client.search_runs([experiment.experiment_id]) if run.info.run_id != parent]
    assert [(run.data.tags["consilium.site"], run.data.metrics["accepted"]) for run in children] == [
        ("north", 0.0)
    ]


def _renumbered(ended: Round, number: int) -> Round:
    return Round(number, ended.sites, ended.seconds, ended.update_norm, ended.scores)


def test_what_is_logged_of_a_round() -> None:
    ended = records.ended(5)
    numbers = federation_metrics(ended)
    assert numbers["sites/late"] == 1
    assert numbers["sites/accepted"] == 3
    assert numbers["epsilon/max"] == max(site.epsilon for site in ended.sites if site.epsilon)
    assert numbers["validation/tumour/dice/worst"] <= numbers["validation/tumour/dice/mean"]
    east = next(site for site in ended.sites if site.site == "east")
    told = site_metrics(east, ended.scores["east"])
    assert (told["epsilon"], told["cases"]) == (east.epsilon, 61)
    assert "loss" not in site_metrics(SiteRound("x", "late"), {})
