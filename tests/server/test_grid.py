"""What we change of Flower's Grid, and that Flower still has it; the whole way is in test_supernode."""

import inspect
from pathlib import Path

import pytest
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid.http_grid import HttpGrid
from httpcore._backends.sync import SyncStream

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

    def pull(name: str) -> list[bytes]:
        return [b"fetched: ", name.encode()]

    assert b"".join(in_place(tmp_path, pull, "here")) == b"piece"
    assert b"".join(in_place(tmp_path, pull, "there")) == b"fetched: there"
    with pytest.raises(ZeroDivisionError):
        in_place(tmp_path / "no folder", lambda name: [bytes(1 // 0)], "here")
