"""MLflow from the image, with its records in PostgreSQL, wired as compose.coordinator.yaml says."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.deploy.podman import MISSING, Container, locks, service, until

POSTGRES = Path("/usr/lib/postgresql/15/bin")
MLFLOW = service("compose.coordinator.yaml", "mlflow")
A_RUN = """
import mlflow

mlflow.set_tracking_uri("http://127.0.0.1:5000")
with mlflow.start_run() as run:
    mlflow.log_metric("dice", 0.5)
    mlflow.log_text("a report", "report.html")
print(mlflow.get_run(run.info.run_id).data.metrics)
"""

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(bool(MISSING), reason=f"deploy/ci-tools was not run: no {', '.join(MISSING)}"),
    pytest.mark.skipif(not POSTGRES.exists(), reason="deploy/ci-tools was not run: no PostgreSQL"),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """The three volumes, of the image's account; `tmp_path` is in a folder that only we may enter."""
    with TemporaryDirectory() as name:
        found = Path(name)
        for path in (found, *(found / name for name in ("database", "socket", "artifacts"))):
            path.mkdir(exist_ok=True)
            os.chown(path, 1000, 1000)
        yield found


@pytest.fixture
def database(folder: Path) -> Iterator[None]:
    """PostgreSQL, that only its socket leads to."""
    data, socket = folder / "database", folder / "socket"
    _as_1000("initdb", "--pgdata", data, "--username=consilium", "--auth=trust")
    options = ["-D", data, "-c", "listen_addresses=", "-c", f"unix_socket_directories={socket}"]
    process = subprocess.Popen([POSTGRES / "postgres", *options], user=1000, group=1000, extra_groups=[])
    try:
        ready = [POSTGRES / "pg_isready", "--quiet", "--host", socket]
        until(lambda: subprocess.run(ready, check=False).returncode == 0)
        _as_1000("createdb", "--host", socket, "--username=consilium", "mlflow")
        yield
    finally:
        process.terminate()
        process.wait(20)


def _as_1000(program: str, *words: str | Path) -> None:
    command = [POSTGRES / program, *words]
    subprocess.run(command, user=1000, group=1000, extra_groups=[], check=True, capture_output=True)


@pytest.mark.usefixtures("database")
def test_a_run_is_recorded(image: str, folder: Path) -> None:
    options = [
        *locks(MLFLOW),
        "--network=none",
        f"--entrypoint={json.dumps(MLFLOW['entrypoint'])}",
        f"--volume={folder / 'socket'}:/var/run/postgresql",
        f"--volume={folder / 'artifacts'}:/artifacts",
    ]
    with Container.start(image, options, *MLFLOW["command"], patience_s=10) as container:
        until(lambda: "Application startup complete" in container.logs(), container.logs)

        assert "{'dice': 0.5}" in container.run("python", "-c", A_RUN)
        assert container.run(*MLFLOW["healthcheck"]["test"][1:]) == ""
    assert [path.read_text() for path in folder.glob("artifacts/**/report.html")] == ["a report"]
