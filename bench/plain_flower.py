"""Plain Flower beside us: FedAvg as Flower's own documents write it, between the same machines.

    Flower's SuperLink     TLS with our certificates, node authentication, SQLite; it starts the executor
    Flower's SuperNodes    one a site, with the site's node key; each starts an executor, which starts a
                           process for every message
    the application        `APP`: sends a model of `size` float32 to every site for training and for
                           evaluation, which return it; nothing is learned, nothing is imported but numpy

What is compared is therefore the way of the model, and what goes with each message.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab

from protocol.bundle import bundle_hash, packed
from protocol.children import QUIET
from protocol.errors import WireError
from server.control import control, node_key
from tests.deploy.federation import Federation

DESCRIPTION = """\
[project]
name = "plain"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "bench"
fab-include = ["plain/*.py"]
[tool.flwr.app.components]
serverapp = "plain.app:server"
clientapp = "plain.app:client"
[tool.flwr.app.config]
size = 0
rounds = 0
sites = 0
laps = ""
"""
APP = """\
import time

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

client, server = ClientApp(), ServerApp()


@client.train()
def train(message, context):
    arrays = ArrayRecord(message.content["arrays"].to_numpy_ndarrays())
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)


@client.evaluate()
def evaluate(message, context):
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": 0.0})}), reply_to=message)


@server.main()
def main(grid, context):
    size, rounds, sites, laps = (context.run_config[name] for name in ("size", "rounds", "sites", "laps"))

    def lap(number, arrays):
        with open(laps, "a") as file:
            file.write(f"{time.time()}\\n")

    strategy = FedAvg(min_train_nodes=sites, min_evaluate_nodes=sites, min_available_nodes=sites)
    arrays = ArrayRecord([np.random.default_rng(0).random(size, np.float32)])
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=rounds, evaluate_fn=lap)
"""
LONGEST_S, STOP_S, LOOK_S = 3600.0, 10.0, 0.05


@dataclass(frozen=True)
class Plain:
    """Seconds of the median round, and the highest resident bytes of each kind of process."""

    seconds: float
    peaks: dict[str, int]


def plain(federation: Federation, sites: Sequence[str], size: int, rounds: int, folder: Path) -> Plain:
    """Run FedAvg over Flower's own processes with the federation's certificates and keys."""
    folder.mkdir()
    port, laps = _port(), folder / "laps"
    address, ca = f"127.0.0.1:{port}", federation.coordinator.ca
    started = [_start(folder, "superlink", *_superlink(federation, port, folder))]
    try:
        _until(lambda: _answers(address, ca))
        with control(address, ca) as link:
            for site in sites:
                link.register(node_key(federation.site(site).auth_public), site)
                started.append(_start(folder, site, *_supernode(federation, site, address)))
            _until(lambda: sum(node.connected for node in link.nodes()) == len(sites))
            config = {"size": size, "rounds": rounds, "sites": len(sites), "laps": str(laps)}
            code = packed({"pyproject.toml": DESCRIPTION.encode(), "plain/app.py": APP.encode()})
            asked = StartRunRequest(
                fab=Fab(hash_str=bundle_hash(code), content=code),
                override_config=user_config_to_proto(config),
            )
            number = link._client.StartRun(asked).run_id  # noqa: SLF001 - code that is not ours
            peaks: dict[str, int] = {}

            def over() -> bool:
                _look(peaks, folder)
                return link.ended(number) is not None

            _until(over)
            why = link.ended(number) or ""
    finally:
        for process in reversed(started):
            _stop(process)
    at = [float(line) for line in laps.read_text().split()] if laps.exists() else []
    if len(at) != rounds + 1:
        raise WireError(f"plain Flower gave up after {max(len(at) - 1, 0)} of {rounds} rounds: {why}")
    return Plain(median(after - before for before, after in pairwise(at)), peaks)


def _superlink(federation: Federation, port: int, folder: Path) -> list[str]:
    home = federation.coordinator
    return [
        *("flower-superlink", "--host", "127.0.0.1", "--port", str(port)),
        *("--ssl-ca-certfile", str(home.ca), "--ssl-certfile", str(home.server_certificate)),
        *("--ssl-keyfile", str(home.server_key), "--database", str(folder / "state.db")),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
    ]


def _supernode(federation: Federation, site: str, address: str) -> list[str]:
    home = federation.site(site)
    return [
        *("flower-supernode", "--superlink", address, "--root-certificates", str(home.ca)),
        *("--auth-supernode-private-key", str(home.auth_key)),
        *("--host", "127.0.0.1", "--port", str(_port())),
    ]


def _port() -> int:
    """Return a port that nobody listens at, another at each call."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _start(folder: Path, name: str, program: str, *words: str) -> subprocess.Popen[bytes]:
    scripts = Path(sys.executable).parent
    environment = {**os.environ, **QUIET, "FLWR_HOME": str(folder / f"{name}.home"), "BENCH": str(folder)}
    environment["PATH"] = f"{scripts}:{environment.get('PATH', '')}"
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - words of our own
            [str(scripts / program), *words],
            stdout=log,
            stderr=log,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a program and the executors that it has started, which are of its session."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _look(peaks: dict[str, int], folder: Path) -> None:
    """Note how much memory each kind of process of this run has had at most."""
    mark = f"BENCH={folder}".encode()
    for process in Path("/proc").iterdir():
        try:
            if not process.name.isdigit() or mark not in (process / "environ").read_bytes().split(b"\0"):
                continue
            name = (process / "comm").read_text().strip()
            status = (process / "status").read_text()
        except OSError:
            continue
        resident = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
        peaks[name] = max(peaks.get(name, 0), *(1024 * int(size) for size in resident), 0)


def _answers(address: str, ca: Path) -> bool:
    try:
        with control(address, ca) as link:
            return link.nodes() == []
    except WireError:
        return False


def _until(found: Callable[[], object]) -> None:
    closes = time.monotonic() + LONGEST_S
    while not found():
        if time.monotonic() > closes:
            raise WireError(f"plain Flower has done nothing for {LONGEST_S:g} s")
        time.sleep(LOOK_S)
