"""The run in MLflow: numbers beside each other, files beside the numbers.

    experiment = the recipe's name
      run      = this run: the recipe as parameters, hash and environment as tags, federation-wide metrics
        run    = one site: its loss, its epsilon, its bytes, its scores (tag mlflow.parentRunId)
    registered model = the recipe's name, one version a finished run

A round is logged once. Every batch carries the metric `round`, so a run's last value says how
far it got, and what was logged before a kill is not logged again: MLflow would keep both
values. The book hands a round over when a checkpoint covers it, so a round that a crash
takes back was never here.

Training does not wait for this: one thread logs the rounds in order, and what a server that
is down did not take is offered again with the next round and at the end. The record in the
run's folder is the truth; this is an index to it. No patient, user or host is named.

The only file that imports MLflow.
"""

import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from protocol.errors import TrackingError
from protocol.recipe import Recipe, parse_cached
from server import checkpoint, export
from server.record import Round, RunRecord, Scores, SiteRound, SiteSummary, read_record
from server.scores import emm_average, mean_over_sites, over_subsets, overall, worst

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Read when MLflow is imported, which happens in `_connect`.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")

STATUSES = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
FILES = ("recipe.yaml", "record.json", "report.html", "model-card.md", "best.safetensors")

RUN_FILE = "tracking.json"
"""In a run's folder: which run of the store it is."""

_PARENT = "mlflow.parentRunId"
_SITE = "consilium.site"
_CONCLUDED = "consilium.concluded"
_SQLITE = "sqlite:///"
_MOST_PARAMETERS = 100
_MOST_METRICS = 1000

log = logging.getLogger("consilium.tracking")

Numbers = Mapping[str, float]


class Tracker:
    """One run's door to MLflow. `uri` None: SQLite beside the run's folder.

    Artifacts go beside the run's folder too, unless `uri` is a server's, which keeps its own.
    """

    def __init__(self, uri: str | None, experiment: str, folder: Path) -> None:
        self._uri = _address(uri, folder)
        # A server keeps artifacts itself; a database has no place for them, and MLflow would take
        # the folder that the command happens to be called in.
        served = self._uri.startswith(("http://", "https://"))
        self._artifacts = None if served else (folder.parent.resolve() / "mlartifacts").as_uri()
        self._experiment = experiment
        self._folder = folder
        self._run = ""
        self._sites: dict[str, str] = {}
        self._logged: dict[str, int] = {}
        self._waiting: list[Round] = []
        self._concluded = False
        self._thread = ThreadPoolExecutor(1, "tracking")

    def start(
        self,
        recipe_text: str,
        recipe_hash: str,
        summaries: Sequence[SiteSummary],
        environment: Mapping[str, str],
        resume_id: str | None,
    ) -> str:
        """Open the run in MLflow, a new one or `resume_id`, and return its id.

        Raises `TrackingError` when the store cannot be reached or does not know `resume_id`.
        """
        try:
            self._client = _connect(self._uri)
            if resume_id is None:
                self._create(recipe_text, recipe_hash, environment)
                cohorts = {summary.site: asdict(summary) for summary in summaries}
                self._client.log_text(self._run, json.dumps(cohorts, indent=1), "cohorts.json")
            else:
                self._reopen(resume_id)
            self._open_sites([summary.site for summary in summaries])
            self._waiting.extend(read_record(self._folder).rounds)
        except Exception as error:
            raise TrackingError(
                f"MLflow at {self._uri} does not open this run ({_one_line(error)}): "
                "check the address, or go on without it: tracking=off"
            ) from error
        return self._run

    def log_round(self, ended: Round) -> None:
        """Log a round, soon; one that was logged before is passed over."""
        self._waiting.append(ended)
        self._thread.submit(self._offer)

    def log_artifact(self, path: Path) -> None:
        """Put a file, or a folder under its own name, beside the run's numbers."""
        if path.is_dir():
            self._client.log_artifacts(self._run, str(path), path.name)
        else:
            self._client.log_artifact(self._run, str(path))

    def finish(self, status: str) -> None:
        """Log what is left, the files and the final model, and close the run.

        A store that is down now costs a warning, not the run: the folder has everything.
        """
        self._thread.shutdown()
        try:
            self._log_rounds()
            self._log_files()
            if status == "finished" and not self._concluded:
                self._conclude(read_record(self._folder))
            for run in (*self._sites.values(), self._run):
                self._client.set_terminated(run, STATUSES[status])
        except Exception as error:  # noqa: BLE001 - whatever a store may raise
            log.warning("MLflow at %s did not take the end of the run: %s", self._uri, _one_line(error))

    # -- Opening ---------------------------------------------------------------------------------

    def _create(self, recipe_text: str, recipe_hash: str, environment: Mapping[str, str]) -> None:
        experiment = self._experiment_id()
        tags = {"consilium.recipe_hash": recipe_hash, "mlflow.source.name": "consilium"}
        tags |= {f"consilium.{name}": value for name, value in environment.items()}
        if commit := environment.get("commit"):
            tags["mlflow.source.git.commit"] = commit
        self._run = self._client.create_run(experiment, tags=tags, run_name=self._folder.name).info.run_id
        self._log_parameters(dict(flatten(yaml.safe_load(recipe_text))))
        self._client.log_text(self._run, recipe_text, "recipe.yaml")

    def _reopen(self, run: str) -> None:
        parent = self._client.get_run(run)
        self._run = run
        self._concluded = _CONCLUDED in parent.data.tags
        query = f"tags.`{_PARENT}` = '{run}'"
        children = self._client.search_runs([parent.info.experiment_id], query, max_results=50_000)
        self._sites = {child.data.tags[_SITE]: child.info.run_id for child in children}
        for each in (parent, *children):
            self._logged[each.info.run_id] = int(each.data.metrics.get("round", 0))
            self._client.update_run(each.info.run_id, status="RUNNING")

    def _open_sites(self, sites: Iterable[str]) -> None:
        experiment = self._client.get_run(self._run).info.experiment_id
        for site in sites:
            if site not in self._sites:
                tags = {_PARENT: self._run, _SITE: site}
                self._sites[site] = self._client.create_run(experiment, tags=tags, run_name=site).info.run_id

    def _experiment_id(self) -> str:
        known = self._client.get_experiment_by_name(self._experiment)
        if known is not None:
            return known.experiment_id
        return self._client.create_experiment(self._experiment, artifact_location=self._artifacts)

    def _log_parameters(self, parameters: Mapping[str, Any]) -> None:
        from mlflow.entities import Param  # noqa: PLC0415 - see `_connect`

        params = [Param(name, str(value)) for name, value in parameters.items()]
        for start in range(0, len(params), _MOST_PARAMETERS):
            self._client.log_batch(self._run, params=params[start : start + _MOST_PARAMETERS])

    # -- Rounds ----------------------------------------------------------------------------------

    def _offer(self) -> None:
        try:
            self._log_rounds()
        except Exception as error:  # noqa: BLE001 - whatever a store may raise, training goes on
            number = self._waiting[0].number
            log.warning("MLflow did not take round %d, it is offered again: %s", number, _one_line(error))

    def _log_rounds(self) -> None:
        while self._waiting:
            ended = self._waiting[0]
            self._open_sites(site.site for site in ended.sites)
            self._log(self._run, ended.number, federation_metrics(ended))
            for site in ended.sites:
                self._log(
                    self._sites[site.site], ended.number, site_metrics(site, ended.scores.get(site.site, {}))
                )
            self._waiting.pop(0)

    def _log(self, run: str, step: int, numbers: Numbers) -> None:
        if step > self._logged.get(run, 0):
            self._log_batch(run, step, {"round": step, **numbers})
            self._logged[run] = step

    def _log_batch(self, run: str, step: int, numbers: Numbers) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415 - see `_connect`

        now = int(time.time() * 1000)
        metrics = [Metric(name.replace("+", "."), float(value), now, step) for name, value in numbers.items()]
        for start in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(run, metrics=metrics[start : start + _MOST_METRICS])

    def _conclude(self, record: RunRecord) -> None:
        """Log what stands at the end, once: held-out scores and the final model."""
        recipe, last = parse_cached(record.recipe), len(record.rounds)
        for site, subsets in record.subsets.items():
            values = {f"test/{s}/{m}": t.value for s, scores in subsets.items() for m, t in scores.items()}
            self._log_batch(self._sites[site], last, values)
        self._log_batch(self._run, last, held_out_metrics(record))
        if not (self._folder / export.MODEL).exists():
            why = f"strategy {recipe.strategy.name} leaves part of the network at the sites"
            self._client.set_tag(self._run, "consilium.model", f"not exported: {why}")
        else:
            self._register(recipe)
        self._client.set_tag(self._run, _CONCLUDED, "true")

    # -- Files -----------------------------------------------------------------------------------

    def _log_files(self) -> None:
        for name in FILES:
            if (self._folder / name).exists():
                self.log_artifact(self._folder / name)
        if newest := checkpoint.newest(self._folder / "checkpoints"):
            self._client.log_artifact(self._run, str(newest), "checkpoints")

    def _register(self, recipe: Recipe) -> None:
        """Register the final parameters as a model that `mlflow.pyfunc` loads."""
        with tempfile.TemporaryDirectory() as place:
            _save_pyfunc(Path(place) / "pyfunc", recipe, self._folder / export.MODEL)
            self._client.log_artifacts(self._run, str(Path(place) / "pyfunc"), "model")
        self._new_version(recipe)

    def _new_version(self, recipe: Recipe) -> None:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - see `_connect`

        try:
            self._client.create_registered_model(recipe.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self._client.get_run(self._run).info.artifact_uri}/model"
        self._client.create_model_version(
            recipe.name, source, self._run, tags={"consilium.run": self._folder.name}
        )


# -- What is logged ------------------------------------------------------------------------------


def federation_metrics(ended: Round) -> dict[str, float]:
    """Return a round's numbers over all sites."""
    numbers: dict[str, float] = {"update_norm": ended.update_norm}
    numbers |= {f"seconds/{name}": value for name, value in ended.seconds.items()}
    numbers["bytes/down"] = sum(site.bytes_down for site in ended.sites)
    numbers["bytes/up"] = sum(site.bytes_up for site in ended.sites)
    for status in ("accepted", "refused", "failed", "late", "spent"):
        numbers[f"sites/{status}"] = sum(site.status == status for site in ended.sites)
    told = [(site.loss, site.cases) for site in ended.sites if site.loss is not None]
    if cases := sum(count for _, count in told):
        numbers["loss"] = sum(loss * count for loss, count in told) / cases
    if spent := [site.epsilon for site in ended.sites if site.epsilon is not None]:
        numbers["epsilon/max"] = max(spent)
    return numbers | dict(_over_sites("validation", ended.scores))


def held_out_metrics(record: RunRecord) -> dict[str, float]:
    """Return the held-out scores over all sites, by modality subset and over the subsets."""
    numbers: dict[str, float] = {}
    for subset in dict.fromkeys(name for subsets in record.subsets.values() for name in subsets):
        here = {site: subsets[subset] for site, subsets in record.subsets.items() if subset in subsets}
        numbers |= dict(_over_sites(f"test/{subset}", here))
    for metric in {name for subsets in record.subsets.values() for told in subsets.values() for name in told}:
        numbers[f"test/emm_average/{metric}"] = emm_average(over_subsets(record.subsets, metric))
    return numbers


def site_metrics(site: SiteRound, scores: Scores) -> dict[str, float]:
    """Return one site's numbers in a round."""
    numbers: dict[str, float | None] = {
        "loss": site.loss,
        "cases": site.cases,
        "seconds": site.seconds,
        "bytes/down": site.bytes_down,
        "bytes/up": site.bytes_up,
        "accepted": site.status == "accepted",
        "epsilon": site.epsilon,
        "epsilon_pld": site.epsilon_pld,
        "epsilon_alone": site.epsilon_alone,
        "delta": site.delta,
        "noise_multiplier": site.noise_multiplier,
    }
    known = {name: float(value) for name, value in numbers.items() if value is not None}
    return known | {f"validation/{metric}": tally.value for metric, tally in scores.items()}


def flatten(tree: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, Any]]:
    """Yield `a.b.c` and its value for every leaf of nested mappings."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _over_sites(prefix: str, scores: Mapping[str, Scores]) -> Iterable[tuple[str, float]]:
    for metric in sorted({metric for told in scores.values() for metric in told}):
        yield f"{prefix}/{metric}/mean", mean_over_sites(scores, metric)
        yield f"{prefix}/{metric}/worst", worst(scores, metric)[1]
        yield f"{prefix}/{metric}/overall", overall(scores, metric)


# -- MLflow --------------------------------------------------------------------------------------


def attach(folder: Path, uri: str, paths: Iterable[Path], numbers: Numbers) -> None:
    """Put files and numbers that were made later beside the run of `folder`, if it is tracked.

    A store that is down costs a warning: the folder has everything.
    """
    known = folder / RUN_FILE
    if not known.exists():
        return
    run = json.loads(known.read_text(encoding="utf-8"))["run"]
    try:
        client = _connect(_address(uri, folder))
        for path in paths:
            client.log_artifact(run, str(path))
        for name, value in numbers.items():
            client.log_metric(run, name, value)
    except Exception as error:  # noqa: BLE001 - whatever a store may raise
        log.warning("MLflow did not take what was found of %s: %s", folder.name, _one_line(error))


def _address(uri: str | None, folder: Path) -> str:
    return uri or f"{_SQLITE}{folder.parent.resolve() / 'mlflow.db'}"


def _connect(uri: str) -> "MlflowClient":
    # Imported here: it takes seconds, and most commands track nothing.
    from mlflow import MlflowClient  # noqa: PLC0415

    if uri.startswith(_SQLITE) and Path(uri.removeprefix(_SQLITE)).is_dir():
        raise IsADirectoryError("a folder: name a file in it")  # MLflow would try for 100 s
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # SQLAlchemy says this of MLflow's own models, when they are first used.
    warnings.filterwarnings("ignore", "The ``noload`` loader strategy", module="mlflow")
    return MlflowClient(uri, uri)


def _save_pyfunc(place: Path, recipe: Recipe, model: Path) -> None:
    from mlflow import pyfunc  # noqa: PLC0415 - see `_connect`

    with warnings.catch_warnings():
        # An example of what goes in would be a patient.
        warnings.filterwarnings("ignore", ".*An input example was not provided", UserWarning)
        pyfunc.save_model(
            place,
            loader_module=export.__name__,
            data_path=str(model),
            signature=signature(recipe),
            pip_requirements=["consilium"],
        )


def signature(recipe: Recipe) -> Any:
    """Return what the model takes and gives, as MLflow's `ModelSignature`."""
    import numpy as np  # noqa: PLC0415
    from mlflow.models import ModelSignature  # noqa: PLC0415 - see `_connect`
    from mlflow.types import Schema, TensorSpec  # noqa: PLC0415

    float32 = np.dtype("float32")
    inputs, outputs = export.shapes(recipe)
    found = ModelSignature(
        Schema([TensorSpec(float32, shape, name) for name, shape in inputs.items()]),
        Schema([TensorSpec(float32, shape, name) for name, shape in outputs.items()]),
    )
    # MLflow would demand every named tensor; this hands the check to the model, which takes any subset.
    found._is_signature_from_type_hint = True  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return found


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
