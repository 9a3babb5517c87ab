"""Runs are kept going: every step of a run's life, with real locks and real processes."""

import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from protocol.claim import holder
from protocol.errors import TrackingError
from server import runs
from server.control import Control
from server.folders import MOST_FAILURES, Wanted, is_over, read_submission, read_wanted, want, wanted_runs
from server.record import CONDUCTOR, to_json
from server.runs import tend
from tests.protocol.test_claim import HOLD
from tests.server import records


class Flower(Control):
    """A SuperLink that takes every run, and ends it when the test says so."""

    def __init__(self) -> None:
        self.started: list[Mapping[str, str | int]] = []
        self.stopped: list[int] = []
        self.why: dict[int, str] = {}
        self.recent = False

    def start(self, config: Mapping[str, str | int]) -> int:
        self.started.append(config)
        return len(self.started)

    def ended(self, number: int, *, recent: bool = False) -> str | None:
        self.recent = recent
        return self.why.get(number)

    def stop(self, number: int) -> None:
        self.stopped.append(number)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in a list: the test moves it."""
    now = [1e9]
    monkeypatch.setattr(runs.time, "time", lambda: now[0])
    return now


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "phantom-1"
    folder.mkdir(parents=True)
    want(folder, Wanted(going=True, sites=2))
    return folder


@contextmanager
def conducted(folder: Path) -> Generator[subprocess.Popen[bytes]]:
    """A process that holds the run, as the server application does."""
    words = [sys.executable, "-c", HOLD, str(folder / CONDUCTOR)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def rounds(folder: Path, number: int) -> None:
    (folder / "rounds.jsonl").write_text("{}\n" * number)


def step(folder: Path, flower: Flower) -> None:
    tend(folder, folder.parents[1], flower)


def test_a_wanted_run_is_submitted_once(run: Path, clock: list[float]) -> None:
    flower = Flower()
    for _ in range(3):
        step(run, flower)
    home = run.parents[1]
    assert flower.started == [{"folder": str(run), "sites": 2, "tracking": "", "coordinator": str(home)}]
    assert list(wanted_runs(home / "runs")) == [run]


def test_a_run_whose_process_died_goes_on_although_flower_has_not_noticed(
    run: Path, clock: list[float]
) -> None:
    flower = Flower()
    step(run, flower)
    with conducted(run) as process:
        step(run, flower)
        assert flower.recent, "asked every second while all is well"
        process.kill()
        process.wait()
    step(run, flower)
    assert not flower.recent, "else a run that has ended well is taken for one that died"
    assert flower.stopped == [1]
    clock[0] += 2
    step(run, flower)
    assert len(flower.started) == 2


def test_a_process_that_flower_has_given_up_is_killed_before_the_next_begins(
    run: Path, clock: list[float]
) -> None:
    flower = Flower()
    step(run, flower)
    with conducted(run) as process:
        flower.why[1] = "failed: no heartbeat"
        clock[0] += 100
        step(run, flower)
        assert process.wait() == -9
    assert len(flower.started) == 1
    step(run, flower)
    step(run, flower)
    assert len(flower.started) == 2
    last = read_submission(run)
    assert last is not None
    assert last.failures == 1


def test_pauses_double_and_five_failures_without_a_round_are_the_end(run: Path, clock: list[float]) -> None:
    flower, pauses = Flower(), list[float]()
    step(run, flower)
    while len(flower.started) < MOST_FAILURES:
        flower.why[len(flower.started)] = "failed: ServerApp"
        step(run, flower)
        before, number = clock[0], len(flower.started)
        while len(flower.started) == number:
            clock[0] += 1
            step(run, flower)
        pauses.append(clock[0] - before)
    assert pauses == [2, 4, 8, 16]
    flower.why[MOST_FAILURES] = "failed: ServerApp"
    step(run, flower)
    clock[0] += 1000
    step(run, flower)
    assert len(flower.started) == MOST_FAILURES
    last = read_submission(run)
    assert last is not None
    assert is_over(run, last)
    assert last.why == "failed: ServerApp"


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_clock_that_jumps_keeps_no_run_waiting(run: Path, clock: list[float], jump: float) -> None:
    flower = Flower()
    step(run, flower)
    flower.why[1] = "failed: why"
    step(run, flower)
    clock[0] += jump
    step(run, flower)
    assert len(flower.started) == 2


def test_a_round_that_ended_forgives_all_failures(run: Path, clock: list[float]) -> None:
    flower = Flower()
    for number in range(1, 3 * MOST_FAILURES):
        clock[0] += 1000
        step(run, flower)
        rounds(run, number)
        flower.why[number] = "failed"
        step(run, flower)
    assert len(flower.started) == 3 * MOST_FAILURES - 1


def test_a_finished_run_is_left_alone(run: Path, clock: list[float]) -> None:
    flower = Flower()
    step(run, flower)
    (run / "record.json").write_text(to_json(records.record(private=False, rounds=1, status="finished")))
    flower.why[1] = "completed"
    for _ in range(3):
        clock[0] += 1000
        step(run, flower)
    assert len(flower.started) == 1


@pytest.mark.parametrize("hears", [True, False])
def test_a_run_that_ended_well_is_not_stopped_before_flower_has_heard_of_it(
    run: Path, clock: list[float], *, hears: bool
) -> None:
    flower = Flower()
    step(run, flower)
    with conducted(run) as process:
        (run / "record.json").write_text(to_json(records.record(private=False, rounds=1, status="finished")))
        process.kill()
        process.wait()
    for _ in range(2):
        step(run, flower)
    assert flower.stopped == []
    if hears:
        flower.why[1] = "completed"
    else:
        clock[0] += 1000
    step(run, flower)
    last = read_submission(run)
    assert last is not None
    assert (last.ended, last.why) == (True, "completed" if hears else "its process has ended")
    assert flower.stopped == ([] if hears else [1])
    clock[0] += 1000
    step(run, flower)
    assert len(flower.started) == 1


def test_stopping_is_a_signal_to_the_process_and_a_kill_to_one_that_is_deaf(
    run: Path, clock: list[float]
) -> None:
    flower = Flower()
    step(run, flower)
    with conducted(run) as process:
        want(run, Wanted(going=False, sites=2))
        step(run, flower)
        assert process.wait() == -15
    step(run, flower)
    assert flower.stopped == [1]
    clock[0] += 1000
    step(run, flower)
    assert len(flower.started) == 1
    want(run, Wanted(going=True, sites=2))
    step(run, flower)
    assert len(flower.started) == 2
    assert holder(run / CONDUCTOR) is None


def test_a_folder_that_nobody_started_here_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="run start"):
        read_wanted(tmp_path)
