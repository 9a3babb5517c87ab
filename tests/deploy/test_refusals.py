"""Who is not let in, and who is put out; the others go on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from client.home import SiteHome
from privacy.audit import read
from server.enrol import revoke
from server.federation import add_site, new_federation
from server.home import CoordinatorHome
from server.provision import provision
from tests.deploy.federation import ROOT, Federation

pytestmark = pytest.mark.deploy

CLOCK = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def test_another_authority_is_refused_and_a_revoked_site_is_put_out(federation: Federation) -> None:
    home, west = federation.coordinator, federation.site("west")
    add_site(home.federation, "west", "")
    provision(home)
    federation.join("west", federation.folder / "data" / "site_1")
    ours = west.ca.read_bytes()

    stranger = CoordinatorHome(federation.folder / "stranger")
    new_federation(stranger.federation, "brain", "127.0.0.1", federation.port)
    provision(stranger)
    shutil.copy(stranger.ca, west.ca)
    words = [sys.executable, "-m", "consilium", "site", "start", "--home", str(west.folder)]
    refused = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 46
    assert "not of this federation's CA" in refused.stderr
    (entry,) = read(west.ledger)
    assert (entry["asked"]["kind"], entry["decided"]) == ("connect", "refused")

    west.ca.write_bytes(ours)
    federation.start("west")
    federation.until_connected("north", "south", "west")
    revoke(home, "west")
    federation.until_connected("north", "south")
    log = west.logs / "supernode.log"
    federation.until(lambda: "not let in" in log.read_text(), "west was sent away")
    federation.stop("west")

    run = federation.begin("rounds=1")
    federation.until_finished(run)
    assert federation.connected() == {"north", "south"}


@pytest.mark.skipif(CLOCK is None, reason="no libfaketime here: deploy/ci-tools")
def test_a_site_whose_clock_is_wrong_is_told_so(federation: Federation) -> None:
    """By the doctor alone: under a wrong clock of libfaketime no Python that sleeps lives."""
    north = federation.site("north")
    assert "set this machine's clock" not in _doctor(north, {}).stdout
    wrong = {"LD_PRELOAD": str(CLOCK), "FAKETIME": "+10m", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    doctor = _doctor(north, wrong)
    assert doctor.returncode == 21
    assert "set this machine's clock" in " ".join(doctor.stdout.split())


def _doctor(home: SiteHome, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "consilium", "site", "doctor", "--home", str(home.folder)]
    return subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | environment
    )
