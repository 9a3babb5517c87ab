"""The image, built and run for real: locked in as the compose files say, and at work all the same."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from server.home import CoordinatorHome
from tests.deploy.podman import DEPLOY, MISSING, Container, locks, podman, service, until, weaknesses
from tests.deploy.proxy import proxy
from tests.test_project import PINNED, WANTED

IDLE = ["python", "-c", "import signal; signal.pause()"]
SITE = service("compose.site.yaml", "site")
SERVER = service("compose.coordinator.yaml", "server")
HOME = "/var/lib/consilium"
PROXY = (DEPLOY / "proxy.conf").read_text()
SMALL = ["rounds=1", "training.steps=2", "training.batch=4", "model.channels=[8,8]"]

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(bool(MISSING), reason=f"deploy/ci-tools was not run: no {', '.join(MISSING)}"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that the image's account may write."""
    os.chown(tmp_path, 1000, 1000)
    return tmp_path


def idle(image: str, *, locked: list[str], words: list[str] = IDLE) -> Container:
    """A container that has its locks, and nothing to do."""
    options = [*locked, "--network=none", f"--entrypoint={json.dumps(words)}"]
    return Container.start(image, options)


# -- Locked in -----------------------------------------------------------------------------------


@pytest.mark.parametrize("found", [SITE, SERVER], ids=["site", "server"])
def test_nothing_is_open(image: str, found: dict[str, object]) -> None:
    with idle(image, locked=locks(found)) as container:
        assert weaknesses(container) == set()


@pytest.mark.parametrize(
    ("change", "weakness"),
    [
        ({"user": "0:0"}, "root"),
        ({"read_only": False}, "writable root"),
        ({"cap_drop": []}, "capabilities"),
        ({"security_opt": []}, "new privileges"),
    ],
)
def test_a_lock_left_off_is_seen(image: str, change: dict[str, object], weakness: str) -> None:
    with idle(image, locked=locks(SITE | change)) as container:
        assert weaknesses(container) == {weakness}


@pytest.mark.parametrize(("address", "found"), [("127.0.0.1", set()), ("0.0.0.0", {"listener"})])
def test_a_port_open_to_others_is_seen(image: str, address: str, found: set[str]) -> None:
    listen = f"import signal, socket; s = socket.create_server(('{address}', 8000)); print(1); signal.pause()"
    with idle(image, locked=locks(SITE), words=["python", "-u", "-c", listen]) as container:
        until(container.logs)
        assert weaknesses(container) == found


def test_without_any_option_the_account_is_not_root(image: str) -> None:
    (config,) = json.loads(podman("image", "inspect", image))

    assert config["Config"]["User"] == "1000:1000"
    assert config["Config"]["Entrypoint"] == ["consilium"]


# -- What is in it -------------------------------------------------------------------------------


def test_no_compiler_no_installer_of_pythons_and_no_way_to_become_another(image: str) -> None:
    look = "command -v cc gcc g++ ld make pip pip3 python3.11-config; find / -xdev -type f -perm /6000"

    assert podman("run", "--rm", "--network=none", "--entrypoint=sh", image, "-c", f"{look} || true") == ""


def test_packages_are_the_pinned_ones_and_the_bill_of_materials_names_them(image: str) -> None:
    bill = json.loads(
        podman("run", "--rm", "--network=none", "--entrypoint=cat", image, "/opt/consilium/sbom.cdx.json")
    )
    found = {canonicalize_name(part["name"]): Version(part["version"]).public for part in bill["components"]}
    runtime = {canonicalize_name(wanted.name) for wanted in WANTED} & found.keys()

    assert bill["bomFormat"] == "CycloneDX"
    assert {"torch", "flwr", "mlflow", "psycopg"} <= found.keys()
    assert {name: pinned for name, pinned in found.items() if PINNED.get(name) != pinned} == {
        "consilium": found["consilium"]
    }
    assert "pytest" not in runtime


def test_byte_code_is_there_and_is_taken_as_it_is(image: str) -> None:
    """PEP 552: flags 1 is byte code by hash, unchecked."""
    look = (
        "from importlib.util import find_spec\n"
        "for name in ('torch', 'monai', 'flwr', 'client.app'):\n"
        "    print(open(find_spec(name).cached, 'rb').read()[4])"
    )
    flags = podman("run", "--rm", "--network=none", "--entrypoint=python", image, "-c", look)

    assert flags.split() == ["1"] * 4


# -- At work -------------------------------------------------------------------------------------


def test_a_simulation_runs_where_only_its_folder_can_be_written(image: str, folder: Path) -> None:
    options = ["--rm", *locks(SITE), "--network=none", f"--volume={folder}:{HOME}"]
    podman("run", *options, image, "sim", "phantom", "phantom", "--sites=2", "--patients=6")
    recipe = ["/opt/consilium/recipes/phantom.yaml", *SMALL, "--data=phantom", "--tracking=off"]
    podman("run", *options, image, "sim", "run", *recipe)

    assert len(list(folder.glob("runs/*/report.html"))) == 1


@pytest.fixture
def network() -> Iterator[str]:
    """A network of its own; this machine is 10.89.77.1 in it."""
    name = "consilium-test"
    podman("network", "create", "--subnet=10.89.77.0/24", name)
    yield name
    podman("network", "rm", "--force", name)


def test_two_sites_and_a_coordinator_train_with_privacy(image: str, folder: Path, network: str) -> None:
    """The sites reach the server through the proxy, by the name that is in its certificate."""
    there, proxied = "10.89.77.10", "10.89.77.1"
    volumes = [f"--volume={DEPLOY / 'found.py'}:/found.py:ro", f"--volume={folder}:/federation"]
    words = ["/found.py", "/federation", "server", "north", "south"]
    podman(
        "run", "--rm", *locks(SITE), *volumes, "--network=none", "--entrypoint=python", image, "-P", *words
    )
    home = CoordinatorHome(folder / "coordinator")

    def start(found: dict[str, Any], name: str, *options: str) -> Container:
        phantom = f"--volume={folder / 'phantom'}:/federation/phantom:ro"
        places = (f"--volume={folder / name}:{HOME}", phantom, f"--network={network}")
        return Container.start(image, [*locks(found), *places, *options], *found["command"], patience_s=30)

    with (
        start(SERVER, "coordinator", f"--ip={there}") as server,
        proxy(PROXY, home, here=f"{proxied}:8443", server=f"{there}:8443"),
        start(SITE, "north", f"--add-host=server:{proxied}") as north,
        start(SITE, "south", f"--add-host=server:{proxied}") as south,
    ):
        until(lambda: "may connect" in server.logs(), server.logs)
        recipe = ["/opt/consilium/recipes/phantom.yaml", *SMALL, "privacy.epsilon=8"]
        server.run("consilium", "run", "start", *recipe, "--tracking=off")
        (run,) = home.runs.glob("phantom-*")
        until((run / "report.html").exists, lambda: _logs(folder))

        assert weaknesses(north) | weaknesses(south) == set()
        assert weaknesses(server) == {"listener"}
        for site in (north, south):
            podman("healthcheck", "run", site.number)
        (only,) = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
        assert [site["status"] for site in only["sites"]] == ["accepted", "accepted"]
        assert all(0 < site["epsilon"] <= 8 for site in only["sites"])


def _logs(folder: Path) -> str:
    paths = sorted([*folder.glob("*/logs/*.log"), *folder.glob("coordinator/runs/*/*.log")])
    return "\n".join(f"--- {path.relative_to(folder)}\n{path.read_text()[-1500:]}" for path in paths)
