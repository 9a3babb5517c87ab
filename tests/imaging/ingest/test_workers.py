"""Processes that do the work, and die of it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from imaging.ingest.desk import Desk
from imaging.ingest.journal import ADMITTED, CRASHED, FileRow
from imaging.ingest.walk import Entry, walk
from imaging.ingest.workers import Worker, hired
from protocol.errors import SettingsError
from tests.imaging.ingest.exports import brought, desk, product, write_export, write_scan

pytestmark = pytest.mark.slow  # each process imports for a second or two


@pytest.fixture
def at(tmp_path: Path) -> Desk:
    found = desk(tmp_path / "home")
    found.work.mkdir(parents=True)
    return found


@pytest.fixture
def worker(at: Desk) -> Iterator[Worker]:
    found = Worker(at)
    yield found
    found.close()


def entries(tmp_path: Path, count: int) -> list[Entry]:
    for number in range(count):
        write_scan(tmp_path / "pacs", number, "t1")
    return [*walk([tmp_path / "pacs"])]


def done(at: Desk, worker: Worker, items: list[Entry]) -> list[str]:
    """Verdicts of a crew of this worker, which ends with the test."""
    with hired(at, 2) as crew:
        crew._idle.put(worker)
        crew._hired = 2
        return [FileRow(*row).verdict for rows in crew.through("admit", items, len(items)) for row in rows]


def test_the_file_that_kills_its_worker_is_lost_alone(at: Desk, worker: Worker, tmp_path: Path) -> None:
    os.kill(worker.pid, signal.SIGKILL)

    assert done(at, worker, entries(tmp_path, 1)) == [CRASHED]


def test_its_neighbours_are_done_one_by_one(at: Desk, worker: Worker, tmp_path: Path) -> None:
    os.kill(worker.pid, signal.SIGKILL)

    assert done(at, worker, entries(tmp_path, 2)) == [ADMITTED] * 2


def test_a_disk_that_is_full_ends_the_run_and_is_no_files_fault(
    at: Desk, worker: Worker, tmp_path: Path
) -> None:
    """Here: a folder that cannot be written."""
    (at.folder / ".clean").write_text("a file where a folder should be")

    with pytest.raises(SettingsError, match="cannot be written"):
        worker.ask("admit", entries(tmp_path, 1))


def test_two_processes_make_what_one_makes(tmp_path: Path) -> None:
    """In the same order, to the last byte; and none of them is left."""
    write_export(tmp_path / "export")
    one, two = (desk(tmp_path / name) for name in ("one", "two"))
    (tmp_path / "two" / "key").write_bytes((tmp_path / "one" / "key").read_bytes())
    two = desk(tmp_path / "two")

    brought([tmp_path / "export"], one)
    brought([tmp_path / "export"], two, workers=2)

    assert product(one.folder) == product(two.folder)


def test_a_crew_stays_from_one_job_to_the_next(at: Desk, tmp_path: Path) -> None:
    """A process takes a second to begin; none is left when the crew is dismissed."""
    items = entries(tmp_path, 3)
    with hired(at, 2) as crew:
        pids = set[int]()
        for _ in range(2):
            assert len([*crew.through("admit", items, 1)]) == 3
            pids |= {worker.pid for worker in crew._idle.queue}
    assert len(pids) == 2
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_whoever_stops_listening_ends_the_workers(at: Desk, tmp_path: Path) -> None:
    with hired(at, 2) as crew:
        results = crew.through("admit", entries(tmp_path, 3), 1)
        next(results)
        results.close()
