"""Reading a log while it is written, across its rotation: for people, or as it stands (`protocol.logs`)."""

import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import typer

from protocol.errors import SettingsError
from protocol.logs import readable

PAUSE_S = 0.3


def last_lines(path: Path, number: int) -> list[str]:
    """Return the last `number` lines; [] where there is no file yet."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read().splitlines()[-number:] if number else []


def follow(path: Path) -> Iterator[str]:
    """Yield lines as they come, from now on, for ever."""
    place = path.stat().st_size if path.exists() else 0
    while True:
        size = path.stat().st_size if path.exists() else 0
        place = place if size >= place else 0  # a new file stands under the name
        if size > place:
            with path.open(encoding="utf-8", errors="replace") as file:
                file.seek(place)
                whole, newline, _begun = file.read().rpartition("\n")
            place += len((whole + newline).encode())
            yield from whole.splitlines() if newline else ()
        time.sleep(PAUSE_S)


def show(path: Path, lines: int, *, on: bool, as_json: bool = False) -> None:
    """Print the last `lines`; with `on`, every later one until Ctrl-C too; `as_json` as they stand there."""
    if not path.exists() and not on:
        raise SettingsError(f"{path}: nothing was said yet")
    for line in chain(last_lines(path, lines), follow(path) if on else ()):
        typer.echo(line if as_json else readable(line))
