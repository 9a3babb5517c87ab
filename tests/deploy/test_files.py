"""What stands in deploy/ is read by the tools it is for, or by their schemas."""

import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from server.federation import new_federation
from server.home import CoordinatorHome
from server.provision import provision
from tests.deploy.federation import free_port
from tests.deploy.podman import DEPLOY

COMPOSE = sorted(path.name for path in DEPLOY.glob("compose.*.yaml"))
UNITS = sorted(path.name for path in (DEPLOY / "systemd").iterdir())
CHART = DEPLOY / "chart"

pytestmark = pytest.mark.deploy


# -- Compose files -------------------------------------------------------------------------------


def test_compose_files_are_valid_by_the_specification(tmp_path: Path) -> None:
    good = [str(DEPLOY / name) for name in COMPOSE]
    mutant = tmp_path / "compose.yaml"
    mutant.write_text((DEPLOY / "compose.site.yaml").read_text().replace("read_only:", "readonly:"))

    assert _by_schema(*good) == 0
    assert _by_schema(str(mutant)) == 1


def _by_schema(*files: str) -> int:
    words = ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", *files]
    return subprocess.run(words, capture_output=True, check=False).returncode


@pytest.mark.parametrize(("file", "name", "found"), [
    (file, name, found)
    for file in COMPOSE
    for name, found in yaml.safe_load((DEPLOY / file).read_text())["services"].items()
])
def test_every_service_is_locked_in(file: str, name: str, found: dict[str, Any]) -> None:
    assert found["read_only"]
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert name == "volumes" or found["user"] == "1000:1000"
    assert not found.get("privileged")


def test_only_the_proxy_is_published_to_others() -> None:
    services = yaml.safe_load((DEPLOY / "compose.coordinator.yaml").read_text())["services"]
    published = {name: port for name, found in services.items() for port in found.get("ports", [])}

    assert published == {"proxy": "${CONSILIUM_PORT:-8443}:8443", "mlflow": "127.0.0.1:5000:5000"}
    for file in ("compose.site.yaml", "compose.local.yaml"):
        assert "ports:" not in (DEPLOY / file).read_text()


# -- systemd -------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", UNITS)
def test_units_are_valid_and_leave_little_exposed(tmp_path: Path, name: str) -> None:
    """systemd's own scale goes from 0, nothing exposed, to 10; a unit without locks has 9.6."""
    text = (DEPLOY / "systemd" / name).read_text().replace("/opt/consilium/bin/consilium", shutil.which("true"))
    unit, mutant = tmp_path / name, tmp_path / "mutant" / name
    unit.write_text(text)
    mutant.parent.mkdir()
    mutant.write_text(re.sub(r"^(Protect|Restrict|Capability|SystemCall|NoNew).*\n", "", text, flags=re.MULTILINE))

    assert _systemd("verify", str(unit)) == (0, "")
    assert _systemd("security", "--offline=yes", "--threshold=20", str(unit))[0] == 0
    assert _systemd("security", "--offline=yes", "--threshold=20", str(mutant))[0] != 0


def _systemd(*words: str) -> tuple[int, str]:
    done = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


# -- The chart -----------------------------------------------------------------------------------


def rendered(template: Path) -> dict[str, Any]:
    """A template as Helm would render it: ours only put values in, no logic, so this is all of Helm they need."""
    known = {".Release.Name": "consilium"}
    known |= {f".Values.{key}": str(value) for key, value in _yaml(CHART / "values.yaml").items()}
    return yaml.safe_load(re.sub(r"\{\{ ([\w.]+) \}\}", lambda hole: known[hole[1]], template.read_text()))


def _yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("name", sorted(path.name for path in (CHART / "templates").iterdir()))
def test_the_chart_makes_objects_that_kubernetes_knows(name: str) -> None:
    found = rendered(CHART / "templates" / name)

    kubernetes_validate.validate(found, "1.37", strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(found | {"spce": {}}, "1.37", strict=True)


def test_the_charts_pod_is_locked_in() -> None:
    pod = rendered(CHART / "templates" / "statefulset.yaml")["spec"]["template"]["spec"]

    assert pod["securityContext"]["runAsNonRoot"]
    for container in pod["containers"] + pod["initContainers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_chart_and_package_have_one_version() -> None:
    pyproject = (DEPLOY.parent / "pyproject.toml").read_text()
    chart = _yaml(CHART / "Chart.yaml")

    assert f'version = "{chart["appVersion"]}"' in pyproject


# -- The door before the server ------------------------------------------------------------------


class _Server(BaseHTTPRequestHandler):
    """Stands for the SuperLink: answers everything."""

    def do_POST(self) -> None:
        size = len(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{self.path} {size}".encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    """A coordinator with certificates."""
    found = CoordinatorHome(tmp_path / "coordinator")
    new_federation(found.federation, "brain", "localhost")
    text = found.federation.read_text()
    found.federation.write_text(text.replace("also: []", "also: [server]"))
    provision(found)
    return found


@pytest.fixture
def door(home: CoordinatorHome, tmp_path: Path) -> Iterator[int]:
    """The proxy's port; behind it a server with the coordinator's certificate."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home.server_certificate, home.server_key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = free_port()
    text = (DEPLOY / "proxy.conf").read_text()
    for there, here in {
        "/tmp/": f"{tmp_path}/",
        "server:8443;": f"127.0.0.1:{server.server_port};",
        "listen 8443": f"listen 127.0.0.1:{port}",
        "/etc/consilium/": f"{home.folder}/",
        f"{home.folder}/ca.pem": str(home.ca),
    }.items():
        text = text.replace(there, here)
    (tmp_path / "proxy.conf").write_text(text)
    with (tmp_path / "proxy.log").open("wb") as log:
        proxy = subprocess.Popen(["nginx", "-c", tmp_path / "proxy.conf"], stdout=log, stderr=log)
    try:
        yield port
    finally:
        proxy.terminate()
        proxy.wait(10)
        server.shutdown()
        server.server_close()


def ask(port: int, ca: Path, path: str, body: bytes = b"") -> tuple[int, str]:
    """Status and text of an answer; waits until the proxy is there."""
    context = ssl.create_default_context(cafile=str(ca))
    for _ in range(200):
        connection = HTTPSConnection("localhost", port, context=context, timeout=10)
        try:
            connection.request("POST", path, body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except ConnectionRefusedError:
            threading.Event().wait(0.05)
        finally:
            connection.close()
    raise AssertionError("the proxy does not come")


@pytest.mark.skipif(shutil.which("nginx") is None, reason="deploy/ci-tools was not run: no nginx")
def test_the_proxy_shows_sites_what_they_need_and_nothing_else(door: int, home: CoordinatorHome) -> None:
    assert ask(door, home.ca, "/v1/fleet/pull", b"x" * 5_000_000) == (200, "/v1/fleet/pull 5000000")
    for path in (
        "/v1/control/start",
        "/v1/runtime/token",
        "/docs",
        "/openapi.json",
        "/",
        "/v1/fleet/../control/start",
        "/v1/fleet/%2e%2e/control/start",
        "//v1/control/start",
    ):
        assert ask(door, home.ca, path)[0] == 404
