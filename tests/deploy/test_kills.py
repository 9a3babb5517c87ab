"""A run over real processes ends in the bits of an uninterrupted one, whatever is killed on the way."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from client.app import app as client_app
from client.machine import read_machine
from client.settings import Settings, to_node_config
from protocol.recipe import parse_cached
from server.app import conduct
from server.book import write_recipe
from server.record import read_record
from sim.inprocess import InProcessGrid, contexts_for
from tests.deploy.federation import SITES, Federation
from tests.sim.command import final, same

pytestmark = pytest.mark.deploy

ENOUGH_WORK = "training.steps=30"


def test_processes_are_killed_in_the_middle_of_rounds(federation: Federation, tmp_path: Path) -> None:
    before = federation.said("north")
    run = federation.begin("rounds=6", ENOUGH_WORK)
    for number, kill in enumerate((_worker, _supernode, _conductor, _superlink, _everything), start=1):
        federation.until_at_work("north", number, before)
        began = time.monotonic()
        kill(federation, run)
        federation.until_rounds(run, number)
        sys.stdout.write(
            f"{kill.__name__}: round {number} ended {time.monotonic() - began:.0f} s after the kill\n"
        )
    federation.until_finished(run)

    record = read_record(run)
    assert [r.number for r in record.rounds] == [1, 2, 3, 4, 5, 6]
    assert all([s.status for s in r.sites] == ["accepted"] * len(SITES) for r in record.rounds)
    assert record.subsets.keys() == set(SITES)
    assert same(final(run), final(_straight(federation, run, tmp_path / "straight")))


def _worker(federation: Federation, run: Path) -> None:
    os.kill(federation.worker("north"), signal.SIGKILL)


def _supernode(federation: Federation, run: Path) -> None:
    """The site's process alone: its keeper starts another, with another worker."""
    os.kill(federation.pid("north", "supernode"), signal.SIGKILL)


def _conductor(federation: Federation, run: Path) -> None:
    conductor = federation.conductor(run)
    assert b"forkserver" in Path(f"/proc/{conductor}/cmdline").read_bytes()  # it had nothing to import
    os.kill(conductor, signal.SIGKILL)


def _superlink(federation: Federation, run: Path) -> None:
    os.kill(federation.pid("server", "superlink"), signal.SIGKILL)


def _everything(federation: Federation, run: Path) -> None:
    """Only the keepers are killed: the kernel takes what they keep."""
    federation.stop(how=signal.SIGKILL)
    federation.start("server", *SITES)


def _straight(federation: Federation, run: Path, folder: Path) -> Path:
    """The same recipe on the same data in this process, with nobody killed."""
    write_recipe(folder, parse_cached((run / "recipe.yaml").read_text()))
    data = {name: read_machine(federation.site(name)).data for name in SITES}
    settings = [Settings(name, data[name], folder / "sites" / name, threads=1) for name in SITES]
    grid = InProcessGrid(client_app, contexts_for(map(to_node_config, settings)))
    conduct(grid, {"folder": str(folder), "sites": len(SITES), "tracking": "off"}, lambda *_: None)
    return folder
