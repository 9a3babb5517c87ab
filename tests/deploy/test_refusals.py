"""Who is not let in, and who is put out; the others go on."""

import os
import re
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
from tests.deploy.federation import ROOT, SITES, Federation

pytestmark = pytest.mark.deploy

SKEWED = r"this machine's clock is (\d+) s ahead of the coordinator: .*NTP"
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
def test_a_site_whose_clock_is_wrong_says_so_and_joins_when_it_is_right(
    federation: Federation, tmp_path: Path
) -> None:
    north, wrong = federation.site("north"), _Clock(tmp_path)
    assert "set this machine's clock" not in _site(north, "doctor").stdout
    federation.stop("north")
    federation.until_connected("south")
    before = federation.said("north")

    def refused() -> int:
        return federation.said("north").removeprefix(before).count("not let in, tried again")

    wrong.set("+1h")
    federation.start("north", **wrong.environment)
    try:
        federation.until(lambda: refused() > 2, "north has tried again")
        assert federation.connected() == {"south"}
        why = re.search(
            r"this machine's clock is (\d+) s ahead of the coordinator: .*NTP", federation.said("north")
        )
        assert why is not None
        assert int(why[1]) == pytest.approx(3600, abs=60)
        assert re.search(SKEWED, _site(north, "status").stdout)  # of its last try: maybe a second more
        doctor = _site(north, "doctor", **wrong.environment)
        assert doctor.returncode == 21
        assert "set this machine's clock" in " ".join(doctor.stdout.split())

        wrong.set("+0")
        federation.until_connected(*SITES)
        assert "not let in" not in _site(north, "status").stdout
        run = federation.begin("rounds=1")
        federation.until_finished(run)
    finally:
        federation.stop("north")
        federation.start("north")
        federation.until_connected(*SITES)


class _Clock:
    """A wrong clock for Python, which libfaketime alone does not give it.

    Python sleeps until a time of the clock that counts from the machine's start, and libfaketime moves that
    time even where it leaves that clock alone. So sleeping is made a wait for nothing, which counts seconds.
    """

    def __init__(self, folder: Path) -> None:
        self._offset = folder / "offset"
        awake = "import select, time\ntime.sleep = lambda seconds: select.select([], [], [], seconds)\n"
        (folder / "sitecustomize.py").write_text(awake)
        self.environment = {
            "LD_PRELOAD": str(CLOCK),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": f"{folder}:{ROOT}",
        }

    def set(self, offset: str) -> None:
        self._offset.write_text(offset)


def _site(home: SiteHome, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "consilium", "site", command, "--home", str(home.folder)]
    return subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | environment
    )
