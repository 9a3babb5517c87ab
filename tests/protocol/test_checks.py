"""What every doctor looks at."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from protocol.checks import dated, disk, failed, note, ok, present, private, require, table
from protocol.errors import SettingsError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_failures_are_named_and_notes_stop_nothing() -> None:
    require([ok("a", ""), note("b", "")])
    with pytest.raises(SettingsError, match="2 of 3 checks failed: b, c"):
        require([ok("a", ""), failed("b", "", "x"), failed("c", "", "y")])


def test_a_table_shows_every_check_as_it_is_written() -> None:
    """A path with brackets is no markup."""
    screen = io.StringIO()
    Console(file=screen, width=100).print(
        table([ok("a", "[red]/x/[b]"), failed("b", "gone", "put [it] back")])
    )
    assert "[red]/x/[b]" in screen.getvalue()
    assert "put [it] back" in screen.getvalue()


@pytest.mark.parametrize(
    ("days", "state"),
    [(-1, "failed"), (0, "ok"), (300, "ok"), (340, "note"), (365, "failed"), (366, "failed")],
)
def test_dates(days: int, state: str) -> None:
    check = dated("it", NOW, NOW + timedelta(days=365), NOW + timedelta(days=days), "renew it")
    assert check.state == state


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    assert private(path, "restore").remedy == "restore"
    path.write_bytes(b"")
    path.chmod(0o640)
    assert private(path, "restore").remedy == f"chmod 600 {path}"
    path.chmod(0o600)
    assert (private(path, "").state, present("a", path, "").state) == ("ok", "ok")


def test_a_disk_has_room_or_it_is_said_how_much_is_needed(tmp_path: Path) -> None:
    assert disk(tmp_path, 1).state == "ok"
    assert disk(tmp_path, 1 << 60).state == "failed"
    assert "--home" in disk(tmp_path / "nowhere").remedy
