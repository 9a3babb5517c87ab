"""A federation of real processes on the loopback interface: provisioned, joined, started as people do.

Every process is found by what its keeper wrote down, and killed by its number. Nothing waits for
a length of time: everything polls for a state, and gives up loudly with the logs.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from client.enrol import accept, begin
from client.home import SiteHome
from client.machine import Machine
from privacy.kit import read_kit
from protocol.children import kept
from protocol.claim import holder
from protocol.errors import SettingsError, WireError
from protocol.recipe import load_recipe
from server import enrol
from server.control import control
from server.federation import add_site, new_federation
from server.folders import Wanted, status_of
from server.home import CoordinatorHome
from server.operate import local_address
from server.operate_cli import CATALOGUES
from server.operate_cli import begin as begin_run
from server.provision import provision
from server.record import CONDUCTOR, LOG
from sim.phantom import write_phantom

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "phantom.yaml"
SMALL = ["training.steps=2", "training.batch=4", "evaluation.every=50", "model.channels=[8,8]"]
SITES = ("north", "south")
POLICY = """\
recipes: {rules: [{name: ["*"]}]}
privacy: {required: false, largest_delta: null, largest_epsilon_run: null, largest_epsilon_cohort: null}
counts: {least_patients: 1, least_contributors: 1, least_told: 1, told_in_steps_of: 1}
leaves: {metrics: ["*"], loss: true}
"""
T = TypeVar("T")
PORTS = range(25000, 32000)


@dataclass
class Federation:
    """Homes under one folder.

    By name: `ways`, other addresses of the server; `processes`, the keepers. `names` of the founding sites.
    """

    folder: Path
    port: int
    ways: Mapping[str, str] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    names: Sequence[str] = ()

    @property
    def coordinator(self) -> CoordinatorHome:
        return CoordinatorHome(self.folder / "coordinator")

    def site(self, name: str) -> SiteHome:
        return SiteHome(self.folder / name)

    # -- founding ----------------------------------------------------------------------------

    def found(self, sites: Sequence[str] = SITES) -> "Federation":
        """Provision the federation, let every site join."""
        home, self.names = self.coordinator, sites
        write_phantom(self.folder / "data", sites=len(sites), patients=6, size=16, seed=1)
        new_federation(home.federation, "brain", "127.0.0.1", self.port)
        for number, name in enumerate(sites, start=1):
            add_site(home.federation, name, "")
            provision(home)
            self.join(name, self.folder / "data" / f"site_{number}")
        for name in sites:  # a site knows those that joined after it only from a newer membership
            accept(self.site(name), home.of(name).membership.read_bytes())
        return self

    def join(self, name: str, data: Path) -> None:
        """Make a site's home, and make it a member."""
        kit, here = read_kit(self.coordinator.of(name).kit.read_bytes()), self.site(name)
        server = self.ways.get(name, kit.facts.server)
        machine = Machine(name, kit.facts.federation, server, data, threads=1)
        begin(here, kit, machine)
        here.policy.write_text(POLICY)
        enrol.sign(self.coordinator, here.request.read_bytes())
        accept(here, self.coordinator.of(name).membership.read_bytes())

    # -- processes ---------------------------------------------------------------------------

    def start(self, *names: str, **environment: str) -> None:
        """Start keepers: `server`, or a site's by its name; what they start has their environment."""
        for name in names:
            group, home = (
                ("server", self.coordinator.folder) if name == "server" else ("site", self.folder / name)
            )
            words = [sys.executable, "-m", "consilium", group, "start", "--home", str(home)]
            whole = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
            with (self.folder / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    words, stdout=log, stderr=log, cwd=self.folder, env=whole
                )

    def connected(self) -> set[str]:
        """The sites that the server sees; none while it is not there itself."""
        with suppress(WireError), control(local_address(self.coordinator), self.coordinator.ca) as link:
            return {node.name for node in link.nodes() if node.connected}
        return set()

    def until_connected(self, *names: str) -> None:
        """Wait until the server sees exactly these sites."""
        self.until(lambda: self.connected() == set(names), f"{names} are connected")

    def pid(self, name: str, program: str) -> int:
        """The process of a keeper's child, once it runs."""
        state = self.coordinator.state if name == "server" else self.site(name).state
        return self.until(lambda: _pid(state, program), f"{program} of {name} runs") or 0

    def conductor(self, run: Path) -> int:
        """The server application's process, once it is at work."""
        return self.until(lambda: holder(run / CONDUCTOR), f"{run.name} is conducted")

    def worker(self, name: str) -> int:
        """The warm worker's process."""
        supernode = self.pid(name, "supernode")
        return self.until(lambda: _worker_of(supernode), f"the worker of {name} runs")

    def said(self, name: str) -> str:
        """All that a site's process has logged."""
        path = self.site(name).logs / "supernode.log"
        return path.read_text() if path.exists() else ""

    def until_at_work(self, name: str, number: int, before: str) -> None:
        """Wait until a site has been given the training of round `number`, after it had said `before`."""
        self.until(
            lambda: f'train, round {number}"' in self.said(name).removeprefix(before),
            f"{name} trains in round {number}",
        )

    def stop(self, *names: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End keepers; all by default."""
        ending = {name: self.processes.pop(name) for name in names or tuple(self.processes)}
        for process in ending.values():
            process.send_signal(how)
        slow = [name for name, process in ending.items() if not _ended(process)]
        assert not slow, f"{slow} had to be killed\n{self.logs()}"

    # -- runs --------------------------------------------------------------------------------

    def begin(self, *words: str, going: bool = True) -> Path:
        """Ask for a run; its folder."""
        recipe = load_recipe(RECIPE, [*SMALL, *words], CATALOGUES)
        return begin_run(self.coordinator, recipe, Wanted(going, len(SITES), "off"))

    def until_rounds(self, run: Path, number: int, seconds: float = 240.0) -> None:
        """Wait for the end of a round."""
        self.until(lambda: rounds(run) >= number, f"{run.name} has {number} rounds", seconds)

    def until_finished(self, run: Path, seconds: float = 240.0) -> None:
        """Wait for the end of a run."""
        self.until(lambda: status_of(run) == "finished", f"{run.name} is finished", seconds)

    def until(self, found: Callable[[], T], what: str, seconds: float = 240.0) -> T:
        """Poll until `found` returns something true, and return it; fail with every log."""
        closes = time.monotonic() + seconds
        while time.monotonic() < closes:
            if result := found():
                return result
            dead = {name: p.returncode for name, p in self.processes.items() if p.poll() is not None}
            assert not dead, f"keepers ended ({dead}) before {what}\n{self.logs()}"
            time.sleep(0.1)
        raise AssertionError(f"not within {seconds:g} s: {what}\n{self.logs()}")

    def logs(self) -> str:
        """The end of every log."""
        paths = sorted(
            [
                *self.folder.glob("*.log"),
                *self.folder.glob("*/logs/*.log"),
                *self.folder.glob(f"*/runs/*/{LOG}"),
            ]
        )
        return "\n".join(f"--- {p.relative_to(self.folder)}\n{p.read_text()[-1500:]}" for p in paths)


def free_port() -> int:
    """A port above 25000 that nobody listens at; any one, as others look for theirs at the same time."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port")


def rounds(run: Path) -> int:
    """How many rounds of a run have ended."""
    path = run / "rounds.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


def _pid(state: Path, program: str) -> int | None:
    try:
        return next((each.pid for each in kept(state) if each.name == program), None)
    except (SettingsError, FileNotFoundError, json.JSONDecodeError):
        return None


def _worker_of(supernode: int) -> int | None:
    children = Path(f"/proc/{supernode}/task/{supernode}/children").read_text().split()
    for child in children:
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    return None
