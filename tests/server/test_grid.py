"""What we change of Flower's Grid, and that Flower still has it; the whole way is in test_supernode."""

import inspect
from pathlib import Path

import pytest
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid.http_grid import HttpGrid
from httpcore._backends.sync import SyncStream

from protocol.pieces import Place, Pull, put
from server.grid import changes, in_place

REPLACED = [(HttpGrid, "push_messages"), (HttpGrid, "pull_messages"), (SyncStream, "read")]


def test_flower_has_what_we_change_and_calls_it_as_we_answer(tmp_path: Path) -> None:
    ours = {(where, name): value for where, name, value in changes(tmp_path)}
    for where, name in REPLACED:
        theirs = inspect.signature(vars(where)[name]).parameters
        assert len(inspect.signature(ours[where, name]).parameters) == len(theirs)  # pyright: ignore[reportArgumentType]
    assert {name for where, name in ours if where is RuntimeHttpClient} >= {"PushObject", "PullObject"}
    assert hasattr(RuntimeHttpClient, "PushObject")
    assert hasattr(RuntimeHttpClient, "PullObject")


def test_a_piece_is_read_where_it_is_and_fetched_where_it_is_not(tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(b"piece")

    def pull(place: Place) -> None:
        put(place, [b"fetched: ", place.name.encode()])

    assert _read(tmp_path, pull, "here", 2, 3) == b"piece"
    assert _read(tmp_path, pull, "there", 14) == b"fetched: there"
    assert _read(tmp_path / "no folder", pull, "here", 13) == b"fetched: here"


@pytest.mark.parametrize("sizes", [(4,), (2, 2), (6,), (5, 1)])
def test_a_piece_of_another_length_is_noticed(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    (tmp_path / "here").write_bytes(b"piece")
    with pytest.raises(ValueError, match="bytes than announced"):
        _read(tmp_path, lambda place: None, "here", *sizes)


def _read(folder: Path, pull: Pull, name: str, *sizes: int) -> bytes:
    stretches = [bytearray(size) for size in sizes]
    in_place(folder, pull, Place(name, stretches))
    return b"".join(stretches)
