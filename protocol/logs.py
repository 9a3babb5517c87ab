"""Logs for machines, and for people: one JSON object a line, and no word of a stranger's error.

    {"time": "2026-11-26T03:21:53.120+00:00", "level": "warning", "program": "launcher",
     "logger": "consilium.site", "message": "train of round 3 failed",
     "error": ["KeyError", "client/training.py:88 train", ...]}

A process of ours says such lines itself (`begin`). Whoever keeps it adds the program's name, and makes such a
line of what another's program prints (`entry`). People read them as `readable` shows them.

An error that is not ours is told by its class and by the lines of code that it passed: its own words may
quote the name of a file, and so of a patient.
"""

import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from protocol.errors import ConsiliumError

log = logging.getLogger("consilium")

HERE = Path(__file__).resolve().parents[1]
LEVELS = ("debug", "info", "warning", "error", "critical")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LEVELLED = re.compile(rf"\s*({'|'.join(LEVELS)})\s*:\s*(.*)", re.IGNORECASE | re.DOTALL)


class JsonLines(logging.Formatter):
    """A record as a line of JSON; what `program` it comes from is said where it is known."""

    def __init__(self, program: str = "") -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        error = record.exc_info[1] if record.exc_info else None
        return line(
            record.levelname.lower(),
            self._program,
            record.getMessage(),
            time=record.created,
            logger=record.name,
            error=list(told(error)) if error else None,
        )


def line(level: str, program: str, message: str, *, time: float, **more: object) -> str:
    """Return one line; `time` in seconds since the epoch, and of `more` what is not empty."""
    at = datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds")
    fields = {"time": at, "level": level, "program": program, **more, "message": message}
    return json.dumps({name: value for name, value in fields.items() if value}, ensure_ascii=False)


def begin() -> None:
    """Let this process say all in such lines, on its standard error; what ends it too."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    handler.setLevel(logging.INFO)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("flwr").handlers.clear()  # it has its own, and would say all twice
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every question whether there is work
    sys.excepthook = _ended
    threading.excepthook = lambda ended: _ended(ended.exc_type, ended.exc_value, ended.exc_traceback)


def told(error: BaseException) -> Iterator[str]:
    """Yield what may be told of an error: its class, its text where it is ours, the code that it passed."""
    yield f"{type(error).__name__}: {error}" if isinstance(error, ConsiliumError) else type(error).__name__
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        yield f"{_short(frame.filename)}:{frame.lineno} {frame.name}"
    if cause := error.__cause__ or error.__context__:
        yield from told(cause)


def entry(program: str, said: str, time: float) -> str:
    """Return the log's line for what a kept program has said at `time`."""
    if fields := _fields(said):
        return json.dumps({"time": fields.pop("time"), "program": program, **fields}, ensure_ascii=False)
    plain = _COLOURS.sub("", said).rstrip()
    levelled = _LEVELLED.fullmatch(plain)
    level, message = (levelled[1].lower(), levelled[2]) if levelled else ("info", plain)
    return line(level, program, message, time=time)


def readable(said: str) -> str:
    """Return a log's line as a person reads it; one that is not of this form as it is."""
    if not (fields := _fields(said)):
        return said
    first = f"{fields['time'][:19]} {fields['level'].upper():<7} {fields['message']}"
    return "\n".join([first, *(f"    {each}" for each in fields.get("error", ()))])


def _fields(said: str) -> dict[str, Any]:
    """Return the fields of such a line; {} where it is none."""
    try:
        fields = json.loads(said)
    except ValueError:
        return {}
    ours = isinstance(fields, dict) and {"time", "level", "message"} <= cast("dict[str, Any]", fields).keys()
    return cast("dict[str, Any]", fields) if ours else {}


def _short(filename: str) -> str:
    """Return where code stands, without where its installation stands."""
    path = Path(filename)
    if path.is_relative_to(HERE):
        return str(path.relative_to(HERE))
    return str(Path(*path.parts[-2:]))


def _ended(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    log.critical("ended by an error", exc_info=(kind, error or kind(), trace))
