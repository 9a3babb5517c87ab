"""Messages in pieces: what is taken is what was given, and Flower reads and writes the same pieces."""

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.supercore.inflatable import inflatable_utils as flower
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from hypothesis import given as cases
from hypothesis import settings
from hypothesis import strategies as st

from protocol import pieces
from protocol.errors import WireError
from protocol.messages import Task, pack_task, unpack_task
from protocol.pieces import given, is_whole, packed, taken
from protocol.update import Vectors
from sim.inprocess import identify

CHUNK = FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE // 4
"""Numbers in a chunk."""


def _message(vectors: Vectors) -> Message:
    identify()
    message = Message(pack_task(Task("train", "r", 1, "recipe", vectors=vectors)), 3, "train")
    with no_object_id_recompute():
        message.metadata.__dict__["_message_id"] = message.object_id
    return message


def _given(message: Message) -> dict[str, bytes]:
    store: dict[str, bytes] = {}
    found = get_all_nested_objects(message)
    given(found, store.__setitem__, set(found))
    return store


def _take(root: str, pull: Callable[[str], bytes]) -> Message:
    """Take a message whose head holds nothing of it."""
    return taken(Message(RecordDict(), 3, "train"), root, pull)


@pytest.mark.parametrize(("numbers", "most"), [(0, 1), (200_000, 1), (pieces.SMALL_BYTES // 4 + 1, 6)])
def test_a_small_message_goes_with_its_head_and_has_one_piece(numbers: int, most: int) -> None:
    vectors = {"shared": torch.rand(numbers)} if numbers else {}
    task = Task("train", "r", 1, "recipe", vectors=vectors)
    identify()
    store: dict[str, bytes] = {}
    with no_object_id_recompute():
        parcel = packed(Message(pack_task(task), 3, "train"))
        given(parcel.pieces, store.__setitem__, set(parcel.pieces))
    root = parcel.tree.object_id
    assert store.keys() == {tree.object_id for tree in iterate_object_tree(parcel.tree)}
    assert all(get_object_id(content) == name for name, content in store.items())
    assert (len(store), is_whole(parcel.head)) == (most, most == 1)
    over = message_from_proto(message_to_proto(parcel.head))
    found = taken(over, root, store.__getitem__)
    assert found.metadata.message_id == root == parcel.head.metadata.message_id
    told = unpack_task(found)
    assert (told.kind, told.vectors.keys()) == (task.kind, vectors.keys())
    assert all(torch.equal(told.vectors[group], vectors[group]) for group in vectors)


def test_an_error_goes_with_its_head() -> None:
    failed = Message(Error(1, "gone"), reply_to=_message({}))
    parcel = packed(failed)
    assert parcel.head is failed
    assert is_whole(failed)
    assert taken(failed, parcel.tree.object_id, {}.__getitem__).error.reason == "gone"


@pytest.mark.parametrize("content", [{}, {"content": b"\xff"}, {"content": "text"}, {"content": [1]}])
def test_what_was_folded_by_another_is_refused(content: dict[str, Any]) -> None:
    head = Message(RecordDict({pieces.FOLDED: ConfigRecord(content)}), 3, "train")
    with pytest.raises(WireError, match="is not whole"):
        taken(head, "0" * 64, {}.__getitem__)


SIZES = st.lists(st.integers(0, 40), min_size=0, max_size=4)


@settings(max_examples=30, deadline=None)
@cases(sizes=SIZES, constant=st.booleans())
def test_what_is_taken_is_what_was_given(sizes: list[int], *, constant: bool) -> None:
    vectors = {f"g{n}": torch.ones(size) if constant else torch.rand(size) for n, size in enumerate(sizes)}
    message = _message(vectors)
    found = _take(message.metadata.message_id, _given(message).__getitem__)
    assert found.metadata.message_id == message.metadata.message_id
    told = unpack_task(found).vectors
    assert list(told) == list(vectors)
    assert all(torch.equal(told[group], vectors[group]) for group in vectors)


def test_chunks_come_to_their_places_and_equal_ones_to_each_of_theirs() -> None:
    vector = torch.cat([torch.zeros(2 * CHUNK), torch.arange(CHUNK + 7.0), torch.zeros(CHUNK)])
    message = _message({"shared": vector, "head:a": torch.zeros(5), "head:b": torch.zeros(5)})
    found = unpack_task(_take(message.metadata.message_id, _given(message).__getitem__)).vectors
    assert torch.equal(found["shared"], vector)
    found["head:a"].add_(1)  # memory of its own, though both were one piece
    assert torch.equal(found["head:b"], torch.zeros(5))


def test_flower_joins_what_we_cut_and_we_join_what_flower_cuts() -> None:
    message = _message({"shared": torch.rand(CHUNK + 3)})
    root = message.metadata.message_id
    theirs: dict[str, bytes] = {}
    flower.push_objects(get_all_nested_objects(message), theirs.__setitem__)
    assert _given(message) == theirs
    assert all(get_object_id(content) == name for name, content in theirs.items())
    joined = flower.inflate_object_from_contents(root, dict(theirs))
    assert isinstance(joined, Message)
    expected = unpack_task(joined).vectors["shared"]
    assert torch.equal(unpack_task(_take(root, theirs.__getitem__)).vectors["shared"], expected)


def test_only_what_is_wanted_is_given() -> None:
    message = _message({"shared": torch.rand(3)})
    found = get_all_nested_objects(message)
    some = set(list(found)[::2])
    store: dict[str, bytes] = {}
    given(found, store.__setitem__, some)
    assert store.keys() == some


def _peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = work()
        del kept
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_a_model_is_held_once_on_either_side() -> None:
    message = _message({"shared": torch.rand(8 * CHUNK)})
    whole, chunk = 32 * CHUNK, 4 * CHUNK
    store = _given(message)
    root = message.metadata.message_id
    assert _peak(lambda: _take(root, store.__getitem__)) < whole + 6 * chunk
    found = get_all_nested_objects(message)
    assert _peak(lambda: given(found, lambda name, content: None, set(found))) < 8 * chunk
    ids = [tree.object_id for tree in iterate_object_tree(get_object_tree(message))]
    theirs = _peak(
        lambda: flower.inflate_object_from_contents(root, flower.pull_objects(ids, store.__getitem__))
    )
    assert theirs > 1.5 * whole  # else ours is needless


def test_a_piece_that_is_on_its_way_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    message = _message({"shared": torch.rand(3)})
    store, missing, pauses = _given(message), 5, list[float]()
    monkeypatch.setattr(pieces.time, "sleep", pauses.append)

    def pull(name: str) -> bytes:
        nonlocal missing
        if missing:
            missing -= 1
            raise flower.ObjectUnavailableError(name)
        return store[name]

    assert unpack_task(_take(message.metadata.message_id, pull)).round == 1
    assert len(pauses) == 5
    assert max(pauses) < 1.0  # Flower's first


def test_a_piece_that_is_never_delivered_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def pull(name: str) -> bytes:
        raise flower.ObjectUnavailableError(name)

    monkeypatch.setattr(pieces, "PULL_MAX_TIME", -1)
    with pytest.raises(flower.ObjectPullError, match="did not deliver"):
        _take("0" * 64, pull)


def _forged(change: Callable[[dict[str, Any]], object]) -> tuple[str, dict[str, bytes]]:
    """A message whose array says something else of itself; and its pieces."""
    message = _message({"shared": torch.rand(3)})
    store = _given(message)
    (name,) = (name for name, content in store.items() if content.startswith(b"Array "))
    head, _, body = store[name].partition(b"\0")
    facts = json.loads(body)
    change(facts)
    store[name] = head + b"\0" + json.dumps(facts).encode()
    return message.metadata.message_id, store


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts.update(arraychunk_ids=[7]),
        lambda facts: facts.update(arraychunk_ids="x"),
        lambda facts: facts.pop("dtype"),
        lambda facts: facts.update(shape=None),
        lambda facts: facts.update(shape=["9"]),
    ],
)
def test_pieces_that_are_no_message_are_refused(change: Callable[[dict[str, Any]], object]) -> None:
    root, store = _forged(change)
    with pytest.raises(WireError, match="its sender runs something else"):
        _take(root, store.__getitem__)


def test_a_size_that_is_claimed_allocates_nothing() -> None:
    root, store = _forged(lambda facts: facts.update(shape=[10**13]))
    with pytest.raises(WireError, match="not sent by us"):
        unpack_task(_take(root, store.__getitem__))


@pytest.mark.parametrize("content", [b"", b"Array\0", b"Nothing 0\0", b"Message  2\0{}", b"\xff 1\0"])
def test_a_root_that_is_nothing_known_is_refused(content: bytes) -> None:
    with pytest.raises(WireError):
        _take("r", {"r": content}.__getitem__)


def test_a_piece_that_is_no_message_is_refused() -> None:
    record = RecordDict({"vectors": ArrayRecord({"a": Array("float32", (1,), "x", b"1234")})})
    found = get_all_nested_objects(record)
    store = {name: piece.deflate() for name, piece in found.items()}
    with pytest.raises(WireError, match="is a RecordDict"):
        _take(record.object_id, store.__getitem__)


def test_what_a_push_raises_ends_the_giving() -> None:
    message = _message({"shared": torch.rand(4 * CHUNK)})
    found, tried = get_all_nested_objects(message), list[str]()

    def push(name: str, content: bytes) -> None:
        del content
        tried.append(name)
        raise OSError("the line broke")

    with pytest.raises(OSError, match="broke"):
        given(found, push, set(found))
    assert len(tried) < len(found)
