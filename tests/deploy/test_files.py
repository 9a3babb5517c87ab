"""What stands in deploy/ is read by the tools it is for, or by their schemas."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.podman import DEPLOY

COMPOSE = sorted(path.name for path in DEPLOY.glob("compose.*.yaml"))
UNITS = sorted(path.name for path in (DEPLOY / "systemd").iterdir())
CHART = DEPLOY / "chart"

pytestmark = pytest.mark.deploy
kubernetes = pytest.importorskip("kubernetes_validate", reason="`make test-deploy` installs it")


# -- Compose files -------------------------------------------------------------------------------


def test_compose_files_are_valid_by_the_specification(tmp_path: Path) -> None:
    good = [str(DEPLOY / name) for name in COMPOSE]
    mutant = tmp_path / "compose.yaml"
    mutant.write_text((DEPLOY / "compose.site.yaml").read_text().replace("read_only:", "readonly:"))

    assert _by_schema(*good) == 0
    assert _by_schema(str(mutant)) == 1


def _by_schema(*files: str) -> int:
    checker = str(Path(sys.executable).with_name("check-jsonschema"))
    words = [checker, "--builtin-schema", "vendor.compose-spec", *files]
    return subprocess.run(words, capture_output=True, check=False).returncode


@pytest.mark.parametrize(
    ("file", "name", "found"),
    [
        (file, name, found)
        for file in COMPOSE
        for name, found in yaml.safe_load((DEPLOY / file).read_text())["services"].items()
    ],
)
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
    """The scale is systemd's own and goes from 0, nothing exposed, to 10; a unit without locks has 9.6."""
    text = (
        (DEPLOY / "systemd" / name).read_text().replace("/opt/consilium/bin/consilium", shutil.which("true"))
    )
    unit, mutant = tmp_path / name, tmp_path / "mutant" / name
    unit.write_text(text)
    mutant.parent.mkdir()
    mutant.write_text(
        re.sub(r"^(Protect|Restrict|Capability|SystemCall|NoNew).*\n", "", text, flags=re.MULTILINE)
    )

    assert _systemd("verify", str(unit)) == (0, "")
    assert _systemd("security", "--offline=yes", "--threshold=20", str(unit))[0] == 0
    assert _systemd("security", "--offline=yes", "--threshold=20", str(mutant))[0] != 0


def _systemd(*words: str) -> tuple[int, str]:
    done = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


# -- The chart -----------------------------------------------------------------------------------


def rendered(template: Path) -> dict[str, Any]:
    """A template as Helm renders it: ours only put values in, so this is all that they need of Helm."""
    known = {".Release.Name": "consilium"}
    known |= {f".Values.{key}": str(value) for key, value in _yaml(CHART / "values.yaml").items()}
    return yaml.safe_load(re.sub(r"\{\{ ([\w.]+) \}\}", lambda hole: known[hole[1]], template.read_text()))


def _yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("name", sorted(path.name for path in (CHART / "templates").iterdir()))
def test_the_chart_makes_objects_that_kubernetes_knows(name: str) -> None:
    found = rendered(CHART / "templates" / name)

    kubernetes.validate(found, "1.37", strict=True)
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(found | {"spce": {}}, "1.37", strict=True)


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
