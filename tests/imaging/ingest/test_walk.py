"""What is found under folders and in zip files, and what is left where it is."""

import os
import zipfile
from pathlib import Path

import pytest

from imaging.ingest import walk as module
from imaging.ingest.walk import Entry, opened, walk
from protocol.errors import DicomError


def names(*sources: Path) -> list[str]:
    return [entry.parts[-1] for entry in walk(sources)]


def test_every_file_once_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a/3", "b/.hidden", ".git/x", "b/DICOMDIR", "b/dicomdir"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)

    assert names(tmp_path) == ["3", "1", "2"]
    assert names(tmp_path / "b", tmp_path, tmp_path / "b" / "1") == ["3", "1", "2"]
    assert names(tmp_path / "b" / "DICOMDIR") == ["1", "2"]


def test_nothing_outside_is_read(tmp_path: Path) -> None:
    """Neither through links, nor by names in a zip file that climb."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "export" / "folder").symlink_to(tmp_path)
    with zipfile.ZipFile(tmp_path / "export" / "a.zip", "w") as archive:
        archive.writestr("../../escaped", "mine")

    (entry,) = walk([tmp_path / "export"])
    (tmp_path / "work").mkdir()
    with opened(entry, tmp_path / "work") as path:
        assert path.read_text() == "mine"
        assert path.is_relative_to(tmp_path / "work")

    assert not [*(tmp_path / "work").iterdir()]
    assert not (tmp_path / "escaped").exists()


def test_a_member_never_unpacks_to_more_than_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its header says."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(4 * 2**20))
    monkeypatch.setattr(module, "MOST_FILE", 2**20)
    (entry,) = walk([tmp_path])

    with pytest.raises(DicomError, match="too_large"), opened(entry._replace(size=1), tmp_path):
        pass
    assert [*tmp_path.iterdir()] == [tmp_path / "a.zip"]


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 and no more", bytes(200)])
def test_a_broken_zip_file_is_one_file_that_is_not_read(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(data)

    assert names(tmp_path) == ["a.zip"]


def test_a_broken_member_has_its_reason(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("scan", os.urandom(1000))
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[60:90] = bytes(30)
    (tmp_path / "a.zip").write_bytes(data)
    (entry,) = walk([tmp_path])

    with pytest.raises(DicomError, match="unreadable"), opened(entry, tmp_path):
        pass


def test_a_stamp_changes_when_a_file_does(tmp_path: Path) -> None:
    path = tmp_path / "scan"
    path.write_text("a")
    (before,) = walk([tmp_path])
    os.utime(path, ns=(1, 1))

    assert [*walk([tmp_path])] == [Entry(str(path), "", 1, 1)] != [before]
