"""Pieces that a site has already are not fetched again, and none is believed for its name alone."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from client.held import Held
from protocol.pieces import Pull

PIECES = {sha256(held).hexdigest(): held for held in (b"one", b"two", b"three")}
ONE, TWO, THREE = PIECES


@pytest.fixture
def fetched() -> list[str]:
    return []


@pytest.fixture
def pull(fetched: list[str]) -> Pull:
    def pulled(name: str) -> Iterator[bytes]:
        fetched.append(name)
        yield from (PIECES[name][:2], PIECES[name][2:])

    return pulled


def test_what_is_held_is_fetched_once_and_until_a_task_is_without_it(
    tmp_path: Path, pull: Pull, fetched: list[str]
) -> None:
    for names in ([ONE, TWO], [ONE, TWO], [TWO, THREE], [ONE]):
        held = Held(tmp_path / "pieces")  # another process each time
        assert [b"".join(held.pull(pull, name, hold=True)) for name in names] == [
            PIECES[name] for name in names
        ]
        held.keep(names)
        assert {path.name for path in (tmp_path / "pieces").iterdir()} == set(names)
    assert fetched == [ONE, TWO, THREE, ONE]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (tmp_path / "pieces").iterdir())


@pytest.mark.parametrize("damage", [b"", b"on", b"ONE"])
def test_a_damaged_piece_is_fetched_anew(
    tmp_path: Path, pull: Pull, fetched: list[str], damage: bytes
) -> None:
    held = Held(tmp_path)
    (tmp_path / ONE).write_bytes(damage)
    for _ in range(2):
        assert b"".join(held.pull(pull, ONE, hold=True)) == b"one"
    assert fetched == [ONE]


def test_a_site_that_believes_a_name_is_caught(
    tmp_path: Path, pull: Pull, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Held, "_read", lambda held, name: [(held._folder / name).read_bytes()])
    with pytest.raises(AssertionError):
        test_a_damaged_piece_is_fetched_anew(tmp_path, pull, fetched, b"ONE")


def test_a_piece_that_cannot_be_read_is_fetched(tmp_path: Path, pull: Pull, fetched: list[str]) -> None:
    (tmp_path / ONE).mkdir()  # nothing that can be read as a file, whoever reads
    assert b"".join(Held(tmp_path).pull(pull, ONE, hold=True)) == b"one"
    assert fetched == [ONE]


def test_a_full_disk_costs_nothing_but_the_next_fetching(tmp_path: Path, pull: Pull) -> None:
    (tmp_path / "a file").touch()
    held = Held(tmp_path / "a file")  # where no folder can be made
    assert b"".join(held.pull(pull, ONE, hold=True)) == b"one"
    held.keep([])


def test_a_model_to_train_from_is_read_and_not_kept(tmp_path: Path, pull: Pull, fetched: list[str]) -> None:
    held = Held(tmp_path)
    list(held.pull(pull, ONE, hold=True))
    for name in (ONE, TWO):
        assert b"".join(held.pull(pull, name, hold=False)) == PIECES[name]
    assert fetched == [ONE, TWO]
    assert {path.name for path in tmp_path.iterdir()} == {ONE}


def test_a_site_that_was_sent_nothing_keeps_nothing(tmp_path: Path) -> None:
    Held(tmp_path / "pieces").keep([])
    assert not (tmp_path / "pieces").exists()
