"""Whole files, and private ones."""

import os
from pathlib import Path

import pytest

from protocol import files


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("mode", [files.PRIVATE, files.PUBLIC])
def test_a_file_has_the_mode_that_was_asked_for_whatever_was_there(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "new" / "file"
    files.write(path, b"one", mode)
    path.chmod(0o777)
    files.write(path, b"two", mode)
    assert (path.read_bytes(), _mode(path)) == (b"two", mode)


def test_a_crash_before_the_last_step_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    files.write(path, b"old")
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(OSError, match="no space"):
        files.write(path, b"new")
    with pytest.raises(OSError, match="no space"):
        files.create(tmp_path / "key", b"new")
    assert path.read_bytes() == b"old"
    assert not (tmp_path / "key").exists()


def test_what_is_there_is_not_created_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    files.create(path, b"one")
    with pytest.raises(FileExistsError):
        files.create(path, b"two")
    assert (path.read_bytes(), _mode(path)) == (b"one", files.PRIVATE)
    assert list(path.parent.iterdir()) == [path]


def _full(_handle: int) -> None:
    raise OSError(28, "no space left on device")


def test_text_is_utf_8_and_for_others_too(tmp_path: Path) -> None:
    files.write_text(tmp_path / "new" / "report", "\u03b5 = 3\n")

    assert (tmp_path / "new" / "report").read_bytes() == b"\xce\xb5 = 3\n"
    assert (tmp_path / "new" / "report").stat().st_mode & 0o777 == files.PUBLIC
