"""What a doctor finds: one line a check, and for each that failed what to do about it.

    ok       as it should be
    note     worth knowing; stops nothing
    failed   must be put right first

The checks of a site (`client.doctor`) and of the coordinator (`server.doctor`) share those below.
"""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from rich.table import Table
from rich.text import Text

from protocol.errors import SettingsError

SOON = timedelta(days=30)
LEAST_FREE_BYTES = 10 * 2**30
"""Checkpoints, cached tensors and logs of some runs."""
_COLOURS = {"ok": "green", "note": "yellow", "failed": "red"}


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, how it is, what was found, and the remedy."""

    what: str
    state: Literal["ok", "note", "failed"]
    found: str
    remedy: str = ""


def ok(what: str, found: str) -> Check:
    """As it should be."""
    return Check(what, "ok", found)


def note(what: str, found: str, remedy: str = "") -> Check:
    """Worth knowing."""
    return Check(what, "note", found, remedy)


def failed(what: str, found: str, remedy: str) -> Check:
    """Must be put right; `remedy` says how."""
    return Check(what, "failed", found, remedy)


def table(checks: Iterable[Check]) -> Table:
    """Return the checks as one table."""
    found = Table("check", "", "found", "what to do")
    for check in checks:
        state = Text(check.state, style=_COLOURS[check.state])
        found.add_row(check.what, state, Text(check.found), Text(check.remedy))
    return found


def require(checks: Sequence[Check]) -> None:
    """Raise SettingsError that names what failed, if anything did."""
    wrong = [check.what for check in checks if check.state == "failed"]
    if wrong:
        raise SettingsError(f"{len(wrong)} of {len(checks)} checks failed: {', '.join(wrong)}")


# -- Checks of any machine -----------------------------------------------------------------------


def present(what: str, path: Path, remedy: str) -> Check:
    """Check that a file is there and can be read."""
    try:
        with path.open("rb"):
            return ok(what, path.name)
    except OSError as error:
        return failed(what, f"{path}: {error.strerror}", remedy)


def private(path: Path, remedy: str) -> Check:
    """Check that a file with a secret is there and that its owner alone may read it."""
    found = present(path.name, path, remedy)
    if found.state == "failed":
        return found
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        return failed(path.name, f"others may open it ({mode:04o})", f"chmod 600 {path}")
    return ok(path.name, f"only its owner may open it ({mode:04o})")


def dated(what: str, not_before: datetime, not_after: datetime, now: datetime, remedy: str) -> Check:
    """Check that something is valid, and say it when it ends soon."""
    until = f"valid until {not_after:%Y-%m-%d}"
    if now < not_before:
        return failed(
            what, f"not valid before {not_before:%Y-%m-%d %H:%M} UTC", "set this machine's clock, by NTP"
        )
    if now >= not_after:
        return failed(what, f"expired on {not_after:%Y-%m-%d}", remedy)
    if not_after - now < SOON:
        return note(what, until, remedy)
    return ok(what, until)


def disk(folder: Path, least_bytes: int = LEAST_FREE_BYTES) -> Check:
    """Check that the disk under `folder` has room."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return failed("disk", f"{folder}: {error.strerror}", "give the right folder by --home")
    found = f"{free / 2**30:.1f} GiB free"
    if free < least_bytes:
        return failed("disk", found, f"make room: {least_bytes / 2**30:.0f} GiB at {folder}")
    return ok("disk", found)
