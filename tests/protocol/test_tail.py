"""Reading a log while it is written."""

from pathlib import Path

import pytest

from protocol import tail
from protocol.errors import SettingsError
from protocol.tail import follow, last_lines, show


def test_the_last_lines(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a\nb\nc\n")
    assert last_lines(tmp_path / "log", 2) == ["b", "c"]
    assert last_lines(tmp_path / "log", 0) == []
    assert last_lines(tmp_path / "none", 2) == []


def test_following_yields_whole_new_lines_also_of_a_rotated_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    log.write_text("old, and longer than what follows\n")

    def add(text: str) -> None:
        with log.open("a") as file:
            file.write(text)

    steps = iter(
        [
            lambda: add("one\ntw"),
            lambda: add("o\n"),
            lambda: log.rename(tmp_path / "log.1"),
            lambda: add("three\n"),
        ]
    )
    monkeypatch.setattr(tail.time, "sleep", lambda _: next(steps)())
    lines = follow(log)
    assert [next(lines), next(lines), next(lines)] == ["one", "two", "three"]


def test_a_log_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing was said yet"):
        show(tmp_path / "log", 5, on=False)


def test_what_was_said_is_shown_and_what_comes_if_one_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").write_text("a\nb\nc\n")
    show(tmp_path / "log", 2, on=False)
    assert capsys.readouterr().out == "b\nc\n"
    monkeypatch.setattr(tail, "follow", lambda path: iter([f"more of {path.name}"]))
    show(tmp_path / "log", 1, on=True)
    assert capsys.readouterr().out == "c\nmore of log\n"
