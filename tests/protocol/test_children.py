"""Programs that are kept running, and end with their keeper."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from protocol import children
from protocol.children import (
    Child,
    Kept,
    Program,
    end_by_signals,
    is_kept,
    keep,
    kept,
    stop_all,
    stop_keeper,
    table,
)
from protocol.errors import SettingsError

SLEEP = ("/bin/sleep", "60")
KEEP = """
import sys
from pathlib import Path
from protocol.children import Child, Program, keep
home = Path(sys.argv[1])
keep(home / "state", [Child(Program("sleep", ("/bin/sleep", "60")), home, home / "logs")], lambda dead: None)
"""


def _until(found: Callable[[], object], seconds: float = 30.0) -> None:
    closes = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < closes
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def _child(folder: Path, *words: str) -> Child:
    return Child(Program("name", words, {"GREETING": "good day"}), folder, folder / "logs")


def test_a_child_that_ends_is_started_again_and_its_words_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "LONGEST_PAUSE_S", 0.0)
    child = _child(tmp_path, "/bin/sh", "-c", "echo $GREETING; exit 3")
    log = tmp_path / "logs" / "name.log"
    assert not child.tend()
    _until(lambda: child.tend() and child.starts >= 2)
    _until(lambda: log.exists() and log.read_text().count("good day") >= 2)
    assert "ended with 3" in log.read_text()
    stop_all([child])


def test_pauses_double_up_to_the_longest_and_begin_anew_after_a_steady_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = _child(tmp_path, *SLEEP)
    log = tmp_path / "logs" / "name.log"
    for lived in (0, 0, 0, 0, 0, 61, 0):
        child.since = time.time() - lived
        child._note_death()
    said = [json.loads(line)["message"] for line in log.read_text().splitlines()]
    assert [message.rpartition("in ")[2] for message in said] == [
        f"{pause} s" for pause in (1, 2, 4, 8, 10, 1, 2)
    ]


def test_a_child_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "STOP_S", 0.2)
    child = _child(tmp_path, "/bin/sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.05; done")
    child.tend()
    pid = child.pid
    assert pid is not None
    log = tmp_path / "logs" / "name.log"
    _until(lambda: log.exists() and "deaf" in log.read_text())
    stop_all([child])
    assert not _runs(pid)


@pytest.mark.parametrize("how", ["stop_keeper", "SIGKILL"])
def test_children_end_with_their_keeper_however_that_ends(tmp_path: Path, how: str) -> None:
    state = tmp_path / "state"
    with subprocess.Popen([sys.executable, "-c", KEEP, str(tmp_path)]) as keeper:
        _until(lambda: is_kept(state) and (state / children.REPORT).exists() and kept(state)[0].pid)
        (child,) = kept(state)
        assert child.pid is not None
        assert _runs(child.pid)
        if how == "SIGKILL":
            keeper.kill()
        else:
            stop_keeper(state)
        assert keeper.wait() == (-signal.SIGKILL if how == "SIGKILL" else 0)
    _until(lambda: not _runs(child.pid or os.getpid()))
    with pytest.raises(SettingsError, match="nothing runs here"):
        kept(state)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Signals are handled afterwards as they were before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_the_first_signal_interrupts_and_no_later_one_is_heard() -> None:
    end_by_signals()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    assert {signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} == {signal.SIG_IGN}


@pytest.mark.usefixtures("handlers")
def test_a_keeper_says_what_it_keeps_until_it_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "TICK_S", 0.0)
    said: list[Kept] = []

    def tick(dead: Sequence[Child]) -> None:
        assert not dead
        said.extend(kept(tmp_path / "state"))
        if len(said) > 1:
            raise KeyboardInterrupt

    keep(tmp_path / "state", [_child(tmp_path, *SLEEP)], tick)
    first, second = said
    assert first == second
    assert not _runs(first.pid or os.getpid())
    assert not is_kept(tmp_path / "state")


def test_a_process_that_is_down_is_shown_as_such() -> None:
    rows = table([Kept("superlink", 12, 0.0, 1), Kept("superexec", None, 0.0, 3)])
    assert list(rows.columns[1].cells) == ["12", "starts again"]
    assert list(rows.columns[2].cells) == ["1970-01-01T00:00:00+00:00"] * 2
