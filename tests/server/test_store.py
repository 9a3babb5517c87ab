"""Pieces of messages as files: the store answers as Flower's does, and a crash leaves nothing behind."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)

from protocol.messages import Task, pack_task
from protocol.pieces import given, taken
from server.store import FOLDER, PieceStore, ShortState
from sim.inprocess import identify

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")  # Flower's migrations

RUN = 7


def _opened(folder: Path) -> PieceStore:
    store = PieceStore(str(folder / "state.db"))
    store.initialize()
    return store


def _files(folder: Path) -> set[str]:
    return {path.name for path in (folder / FOLDER).iterdir()}


@pytest.fixture
def message() -> Message:
    identify()
    vectors = {"shared": torch.rand(400_000), "head:a": torch.rand(3)}
    return Message(pack_task(Task("train", "r", 1, "recipe", vectors=vectors)), 3, "train")


def _put(store: PieceStore, message: Message) -> str:
    with no_object_id_recompute():
        pieces, tree = get_all_nested_objects(message), get_object_tree(message)
        given(pieces, lambda n, c: store.put(n, store.aside(n, c)), set(store.preregister(RUN, tree)))
    return tree.object_id


def test_what_is_kept_is_found_by_the_next_process_and_goes_with_its_run(
    tmp_path: Path, message: Message
) -> None:
    root = _put(_opened(tmp_path), message)
    assert len(_files(tmp_path)) == 1  # the large one
    store = _opened(tmp_path)

    def pull(name: str) -> bytes:
        content = store.get(name)
        assert content
        return content

    head = Message(message.content, 3, "train")
    kept = taken(head, root, pull).content["vectors"]
    assert {k: bytes(a.data) for k, a in kept.items()} == {
        k: bytes(a.data) for k, a in message.content["vectors"].items()
    }
    store.delete_objects_in_run(RUN)
    assert len(store) == 0
    assert not _files(tmp_path)


def test_a_large_piece_that_another_message_needs_stays(tmp_path: Path, message: Message) -> None:
    store = _opened(tmp_path)
    first = _put(store, message)
    second = _put(store, Message(message.content, 4, "train"))
    store.delete(first)
    assert len(_files(tmp_path)) == 1
    store.delete(second)
    assert not _files(tmp_path)


def test_what_a_crash_left_is_removed_and_what_is_in_use_stays(tmp_path: Path, message: Message) -> None:
    _put(_opened(tmp_path), message)
    (there,) = _files(tmp_path)
    (tmp_path / FOLDER / f"{there}.half").write_bytes(b"half")
    (tmp_path / FOLDER / ("0" * 64)).write_bytes(b"nobody's")
    store = _opened(tmp_path)
    assert _files(tmp_path) == {there}
    (tmp_path / FOLDER / there).unlink()
    assert store.get(there) is None


def test_a_piece_under_another_name_is_refused(tmp_path: Path, message: Message) -> None:
    store = _opened(tmp_path)
    with no_object_id_recompute():
        pieces = get_all_nested_objects(message)
        contents = [piece.deflate() for piece in pieces.values()]
    for content, name in zip(contents, [*list(pieces)[1:], next(iter(pieces))], strict=True):
        with pytest.raises(ValueError, match="is another one"):
            store.aside(name, content)
    assert not _files(tmp_path)


def test_a_piece_that_nobody_announced_leaves_no_file(tmp_path: Path, message: Message) -> None:
    manager: Any = SimpleNamespace()
    state = ShortState(str(tmp_path / "state.db"), manager, _opened(tmp_path))
    state.initialize()
    with no_object_id_recompute():
        for name, piece in get_all_nested_objects(message).items():
            assert not state.store_object(RUN, "no session", name, piece.deflate())
    assert not _files(tmp_path)


def test_who_may_not_store_a_piece_does_not_remove_what_another_has_put_there(
    tmp_path: Path, message: Message
) -> None:
    store = _opened(tmp_path)
    with no_object_id_recompute():
        pieces = get_all_nested_objects(message)
        store.preregister(RUN, get_object_tree(message))
        name, content = max(((n, p.deflate()) for n, p in pieces.items()), key=lambda each: len(each[1]))
    one, other = store.aside(name, content), store.aside(name, content)
    store.put(name, one)
    store.forget(name, other)
    assert _files(tmp_path) == {name}
    assert store.get(name) == content
