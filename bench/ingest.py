"""How fast files become a cohort, and in how much memory, beside what only reads them.

    python -m bench.ingest [SLICES]

pydicom    header and pixels of every file, one process: the floor
dcm2niix   the same files to NIfTI, without de-identification: what radiology uses
ours       de-identified, recognised, on one grid, hashed, reported; with one process and with two

Memory is the largest of any one process, as the kernel counts it (VmHWM), looked at every 10 ms. Each runs in
a process of its own, start included.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from pydicom import dcmread

from imaging.ingest.desk import Desk
from imaging.ingest.run import ingest
from imaging.volume import Volume
from sim.phantom_dicom import write_series

SIDE, SLICES = 256, 100
"""Of each series."""


def write_files(folder: Path, count: int) -> None:
    """Write `count` slices, a series of T1 for each patient."""
    rng = np.random.default_rng(0)
    for number, first in enumerate(range(0, count, SLICES)):
        shape = (SIDE, SIDE, min(SLICES, count - first))
        volume = Volume(rng.integers(0, 2000, shape).astype(np.float32), np.eye(4))
        write_series(folder / f"{number:03}", volume, "t1", "siemens", f"P{number}")


def read_alone(folder: Path) -> None:
    """Do what any reader must."""
    for path in sorted(folder.rglob("*.dcm")):
        dcmread(path).pixel_array  # noqa: B018 - decoding is what it is for


def bring(folder: Path, home: Path, workers: int) -> None:
    """Do what we do."""
    desk = Desk.at(str(home / "cohort"), str(home / "key"))
    ingest([folder], desk, workers=workers, watch=lambda *_: None)


def measured(command: list[str]) -> tuple[float, int]:
    """Return seconds and the largest process' bytes."""
    start, most = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 - two programs named below
    while process.poll() is None:
        most = max([most, *map(high_water, family(process.pid))])
        time.sleep(0.01)
    if process.returncode:
        raise SystemExit(f"{command[0]} failed with {process.returncode}")
    return time.perf_counter() - start, most


def family(pid: int) -> list[int]:
    """Return a process and those it has started, and they in turn."""
    try:
        texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it has just ended
        return [pid]
    return [pid, *(each for text in texts for child in text.split() for each in family(int(child)))]


def high_water(pid: int) -> int:
    """Return the most bytes that a process has had in memory; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def main(count: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        root, own = Path(name), [sys.executable, "-m", "bench.ingest"]
        write_files(root / "files", count)
        for folder in ("nifti", "one", "two"):
            (root / folder).mkdir()
        jobs = {"pydicom alone (floor)": [*own, "alone", str(root / "files")]}
        if converter := shutil.which("dcm2niix"):
            jobs["dcm2niix"] = [
                converter,
                "-z",
                "n",
                "-f",
                "%j",
                "-o",
                str(root / "nifti"),
                str(root / "files"),
            ]
        for workers, folder in ((1, "one"), (2, "two")):
            again = [*own, "bring", str(root / "files"), str(root / folder), str(workers)]
            jobs |= {f"ours, {workers} processes": again, f"ours, {workers} processes, again": again}
        print(f"{count} slices of {SIDE} x {SIDE}")
        for what, command in jobs.items():
            seconds, most = measured(command)
            print(f"{what:26} {seconds:8.1f} s {count / seconds:8.0f} files/s {most / 2**20:7.0f} MiB")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["alone", folder]:
            read_alone(Path(folder))
        case ["bring", folder, home, workers]:
            bring(Path(folder), Path(home), int(workers))
        case [*number]:
            main(int(number[0]) if number else 2000)
