"""A file that one process holds at a time, and gives back however it ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.claim import claim, holder
from protocol.errors import SettingsError

HOLD = """
import sys, time
from pathlib import Path
from protocol.claim import claim
with claim(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_claim_is_refused_with_the_holders_number(tmp_path: Path) -> None:
    with claim(tmp_path / "lock"):
        assert holder(tmp_path / "lock") == os.getpid()
        with (
            pytest.raises(SettingsError, match=rf"process {os.getpid()} is at work"),
            claim(tmp_path / "lock"),
        ):
            pass
    assert holder(tmp_path / "lock") is None
    with claim(tmp_path / "lock"):
        pass


def test_nobody_holds_what_is_not_there(tmp_path: Path) -> None:
    assert holder(tmp_path / "lock") is None


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert holder(lock) == process.pid
        process.kill()
        process.wait()
    assert lock.exists()
    assert holder(lock) is None
