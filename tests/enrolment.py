"""A federation in a temporary folder, for the tests of provisioning: founded, asked, joined."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.enrol import accept, begin
from client.home import SiteHome
from client.machine import Machine
from privacy.kit import read_kit
from server.enrol import sign
from server.federation import add_site, new_federation
from server.home import CoordinatorHome
from server.provision import provision


def founded(folder: Path, *sites: str, host: str = "localhost", port: int = 25999) -> CoordinatorHome:
    """Return the home of a coordinator who has made everything, a kit for each of `sites` included."""
    home = CoordinatorHome(folder / "coordinator")
    new_federation(home.federation, "brain", host, port)
    for site in sites:
        add_site(home.federation, site, f"it@{site}.example")
    provision(home)
    return home


def asked(coordinator: CoordinatorHome, folder: Path, site: str) -> SiteHome:
    """Return the home of a site that has made its keys and its request."""
    home = SiteHome(folder / site)
    kit = read_kit(coordinator.of(site).kit.read_bytes())
    scans = folder / "scans"
    (scans / "0001").mkdir(parents=True, exist_ok=True)
    facts = kit.facts
    begin(home, kit, Machine(facts.site, facts.federation, facts.server, scans))
    return home


def joined(coordinator: CoordinatorHome, folder: Path, site: str) -> SiteHome:
    """Return the home of a site that is a member."""
    home = asked(coordinator, folder, site)
    sign(coordinator, home.request.read_bytes())
    accept(home, coordinator.of(site).membership.read_bytes())
    return home


def crashes(monkeypatch: pytest.MonkeyPatch, work: Callable[[int], object]) -> Iterator[None]:
    """Do `work(0)`, `work(1)`, ...; let each die at another write to the disk, and yield after it died.

    Ends with the first that has no write left to die at.
    """
    for number in range(1000):
        with monkeypatch.context() as machine:
            machine.setattr(os, "fsync", _dies_after(number))
            try:
                work(number)
            except KeyboardInterrupt:
                pass
            else:
                return
        yield


def _dies_after(writes: int) -> Callable[[int], None]:
    left = iter(range(writes))

    def fsync(_handle: int) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return fsync
