"""A run's folder, read without anything that runs: which there are, what is wanted of them, how far they are.

wanted.json      what somebody asked for: go on, or stop; written by the command line
submitted.json   the newest of Flower's runs for it, and how often that failed (`server.runs`)
record.json      how it goes (`server.record`)
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path

from protocol import files
from protocol.errors import CheckpointError, TrackingError
from server.record import RunRecord, read_record

WANTED, SUBMITTED = "wanted.json", "submitted.json"
MOST_FAILURES = 5


@dataclass(frozen=True)
class Wanted:
    """What somebody wants of a run, and with what it is started (`server.app.conduct`)."""

    going: bool
    sites: int
    tracking: str = ""


@dataclass(frozen=True)
class Submission:
    """Flower's newest run for ours: since when, how many rounds there were then, and what became of it.

    `interrupted`: when it was asked to stop. `left`: when its process was first seen gone after a good end.
    """

    flower: int
    at: float
    rounds: int
    failures: int = 0
    why: str = ""
    ended: bool = False
    interrupted: float = 0.0
    left: float = 0.0


def want(folder: Path, wanted: Wanted) -> None:
    """Ask for a run to go on, or to stop."""
    files.write_text(folder / WANTED, json.dumps(asdict(wanted)))


def read_wanted(folder: Path) -> Wanted:
    """Return what somebody wants; `TrackingError` for a run that nobody started here."""
    if not (folder / WANTED).exists():
        raise TrackingError(f"{folder} was not started by `consilium run start`: see `consilium run list`")
    return Wanted(**json.loads((folder / WANTED).read_text(encoding="utf-8")))


def read_submission(folder: Path) -> Submission | None:
    """Return Flower's newest run; None before the first."""
    path = folder / SUBMITTED
    return Submission(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def wanted_runs(runs: Path) -> Iterator[Path]:
    """Yield the folders of runs that somebody started here."""
    yield from sorted(path.parent for path in runs.glob(f"*/{WANTED}"))


def is_over(folder: Path, last: Submission) -> bool:
    """Say whether a run needs no further submission: finished, or failed for good."""
    return status_of(folder) == "finished" or failures(folder, last) >= MOST_FAILURES


def status_of(folder: Path) -> str:
    """Return what the run's own record says; "" before there is one."""
    record = record_of(folder)
    return record.status if record else ""


def record_of(folder: Path) -> RunRecord | None:
    """Return the run's own record; None before there is one."""
    try:
        return read_record(folder)
    except CheckpointError:
        return None


def failures(folder: Path, last: Submission) -> int:
    """Return how many submissions in a row have not ended one round."""
    return 0 if rounds(folder) > last.rounds else last.failures + 1


def rounds(folder: Path) -> int:
    """Return how many rounds have ended."""
    path = folder / "rounds.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def note(folder: Path, submission: Submission) -> None:
    """Write down Flower's newest run."""
    files.write_text(folder / SUBMITTED, json.dumps(asdict(submission)))


def run_folders(out: Path) -> list[Path]:
    """Return the folders of all runs in `out`, oldest first."""
    found = [path.parent for path in out.glob("*/recipe.yaml")]
    return sorted(found, key=lambda folder: ((folder / "recipe.yaml").stat().st_mtime_ns, folder.name))


def find_run(out: Path, run: str) -> Path:
    """Return the folder of `run`, a name or the beginning of exactly one.

    Raises `TrackingError` that says which names are near.
    """
    names = [folder.name for folder in run_folders(out)]
    matching = [run] if run in names else [name for name in names if name.startswith(run)]
    if len(matching) == 1:
        return out / matching[0]
    if matching:
        raise TrackingError(f"'{run}' may be any of {', '.join(sorted(matching))}: write more of the name")
    near = get_close_matches(run, names, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'?" if near else "see `consilium run list`"
    raise TrackingError(f"there is no run '{run}' in {out}: {hint}")
