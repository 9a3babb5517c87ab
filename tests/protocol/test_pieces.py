"""Messages in pieces: what is taken is what was given, and a model is held once on either side."""

import threading
import tracemalloc
from collections.abc import Callable, Collection
from hashlib import sha256
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Error, Message, RecordDict
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
from protocol.pieces import FOLDED, Parcel, Parts, Place, Pull, given, is_whole, packed, put, taken
from protocol.room import Room
from protocol.update import Vectors
from sim.inprocess import identify

LARGE = pieces.SMALL_BYTES // 4 + 1
"""Numbers in a vector that is too large to go with its head."""


def _message(vectors: Vectors) -> Message:
    identify()
    return Message(pack_task(Task("train", "r", 1, "recipe", vectors=vectors)), 3, "train")


def _parcel(vectors: Vectors, before: dict[str, Parts] | None = None) -> Parcel:
    with no_object_id_recompute():
        return packed(_message(vectors), before or {})


def _given(parcel: Parcel) -> dict[str, bytes]:
    """Bytes by name, as a server has them."""
    store: dict[str, bytes] = {}
    given(parcel.pieces, lambda name, parts: store.update({name: b"".join(parts)}), set(parcel.pieces))
    return store


def _over(head: Message) -> Message:
    return message_from_proto(message_to_proto(head))


def _take(parcel: Parcel, pull: Pull) -> Message:
    return taken(_over(parcel.head), parcel.tree.object_id, pull)


def _from(store: dict[str, bytes], block: int = 1000) -> Pull:
    """Pull as a line does: what is stored, in blocks."""

    def pull(place: Place) -> None:
        held = store[place.name]
        put(place, (held[at : at + block] for at in range(0, len(held), block)))

    return pull


@pytest.mark.parametrize(("numbers", "more"), [(0, 0), (200_000, 0), (LARGE, 1), (9 * LARGE, 1)])
def test_a_message_is_its_head_and_its_pieces_under_their_names(numbers: int, more: int) -> None:
    vectors = {"shared": torch.rand(numbers)} if numbers else {}
    parcel = _parcel(vectors)
    root, store = parcel.tree.object_id, _given(parcel)
    assert store.keys() == {tree.object_id for tree in iterate_object_tree(parcel.tree)}
    assert len(store) == 1 + more
    assert get_object_id(store[root]) == root
    assert is_whole(parcel.head) == (not more)
    found = _take(parcel, _from(store, 1_000_000))
    assert found.metadata.message_id == root == parcel.head.metadata.message_id
    told = unpack_task(found)
    assert (told.kind, told.vectors.keys()) == ("train", vectors.keys())
    assert all(torch.equal(told.vectors[group], vectors[group]) for group in vectors)


def test_an_error_goes_with_its_head() -> None:
    failed = Message(Error(1, "gone"), reply_to=_message({}))
    parcel = packed(failed)
    assert parcel.head is failed
    assert is_whole(failed)
    assert taken(failed, parcel.tree.object_id, _from({})).error.reason == "gone"


SIZES = st.lists(st.integers(0, 40), min_size=0, max_size=6)


@settings(max_examples=60, deadline=None)
@cases(sizes=SIZES, constant=st.booleans(), piece=st.integers(1, 90), small=st.integers(0, 60))
def test_what_is_taken_is_what_was_given(sizes: list[int], *, constant: bool, piece: int, small: int) -> None:
    vectors = {f"g{n}": torch.ones(size) if constant else torch.rand(size) for n, size in enumerate(sizes)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_BYTES", piece)
        patch.setattr(pieces, "SMALL_BYTES", small)
        parcel = _parcel(vectors)
        store = _given(parcel)
        found = _take(parcel, _from(store, 7))
    root = parcel.tree.object_id
    assert all(sha256(held).hexdigest() == name for name, held in store.items() if name != root)
    assert all(len(held) <= piece for name, held in store.items() if name != root)
    told = unpack_task(found).vectors
    assert list(told) == list(vectors)
    assert all(torch.equal(told[group], vectors[group]) for group in vectors)


def test_equal_vectors_have_memory_of_their_own() -> None:
    parcel = _parcel({"head:a": torch.zeros(LARGE), "head:b": torch.zeros(LARGE)})
    assert len(parcel.pieces) == 2  # the root, and the one that both are
    found = unpack_task(_take(parcel, _from(_given(parcel), 1_000_000))).vectors
    found["head:a"].add_(1)
    assert torch.equal(found["head:b"], torch.zeros(LARGE))


def test_a_large_vector_is_the_same_pieces_among_whatever_others() -> None:
    shared, apart = torch.rand(LARGE), _parcel({"shared": torch.rand(2 * LARGE)})
    one = _parcel({"head:a": torch.rand(5), "shared": shared, "head:b": torch.rand(5)})
    other = _parcel({"shared": shared, "head:c": torch.rand(70)})
    assert len(one.pieces.keys() & other.pieces.keys()) == 1
    assert not one.pieces.keys() & apart.pieces.keys()


def test_what_lies_where_it_lay_is_not_hashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, other = torch.rand(LARGE), torch.rand(LARGE)
    first = _parcel({"shared": shared})
    hashed = list[Any]()
    monkeypatch.setattr(pieces, "sha256", lambda: hashed.append(1) or sha256())
    second = _parcel({"shared": shared}, dict(first.pieces))
    assert not hashed
    third = _parcel({"shared": other}, dict(first.pieces))
    assert len(hashed) == 1
    assert second.pieces.keys() & first.pieces.keys()
    assert not third.pieces.keys() & first.pieces.keys()


def test_only_what_is_wanted_is_given() -> None:
    parcel = _parcel({"shared": torch.rand(LARGE), "head:a": torch.rand(LARGE)})
    some, store = set(list(parcel.pieces)[::2]), dict[str, Parts]()
    given(parcel.pieces, store.__setitem__, some)
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


def test_a_model_is_held_once_on_either_side(monkeypatch: pytest.MonkeyPatch) -> None:
    piece, whole = 1_000_000, 32_000_000
    monkeypatch.setattr(pieces, "PIECE_BYTES", piece)
    parcel = _parcel({"shared": torch.rand(whole // 4)})
    message, store = _message({"shared": torch.rand(whole // 4)}), _given(parcel)
    assert _peak(lambda: _take(parcel, _from(store))) < 6 * piece  # and the room, which is not counted
    assert _peak(lambda: given(parcel.pieces, lambda name, parts: None, set(parcel.pieces))) < piece
    ids = [tree.object_id for tree in iterate_object_tree(get_object_tree(message))]
    theirs = {name: each.deflate() for name, each in get_all_nested_objects(message).items()}
    held = _peak(
        lambda: flower.inflate_object_from_contents(ids[-1], flower.pull_objects(ids, theirs.__getitem__))
    )
    assert held > 1.5 * whole  # else ours is needless


def test_no_more_comes_at_a_time_than_is_asked_for() -> None:
    parcel, now, most = _parcel({f"g{n}": torch.rand(LARGE) for n in range(6)}), 0, 0
    store, lock = _given(parcel), threading.Lock()

    def pull(place: Place) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        _from(store, 1_000_000)(place)
        with lock:
            now -= 1

    _take(parcel, pull)
    assert most <= pieces.AT_ONCE


class Hall:
    """Memory that is used again, and what is pulled into it."""

    def __init__(self, parcel: Parcel) -> None:
        self.store, self.room, self.pulled = _given(parcel), Room(), list[str]()

    def take(self, parcel: Parcel, lying: Collection[str]) -> Vectors:
        self.pulled.clear()
        assert self.room.is_free()

        def pull(place: Place) -> None:
            self.pulled.append(place.name)
            put(place, [self.store[place.name]])

        head = _over(parcel.head)
        return unpack_task(taken(head, parcel.tree.object_id, pull, self.room.views, lying)).vectors


def _names(parcel: Parcel) -> set[str]:
    return {piece.object_id for piece in parcel.tree.children}


def test_what_lies_in_its_place_is_not_pulled_and_is_believed_by_its_content_alone() -> None:
    vectors = {"shared": torch.rand(9 * LARGE), "head:a": torch.rand(LARGE)}
    parcel = _parcel(vectors)
    hall, names = Hall(parcel), _names(parcel)
    for lying, spoiled, pulled in [((), 0, 2), (names, 0, 0), ((), 0, 2), (names, 1, 1), (names, 0, 0)]:
        # whoever looks at it may write to it
        hall.room.views([36 * LARGE])[0][5] ^= spoiled
        found = hall.take(parcel, lying)
        assert all(torch.equal(found[group], vectors[group]) for group in vectors)
        assert len(hall.pulled) == pulled
        del found


def test_a_place_that_is_believed_for_its_piece_s_name_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_name", lambda place, name=pieces._name: _Any(name(place)))
    with pytest.raises(AssertionError):
        test_what_lies_in_its_place_is_not_pulled_and_is_believed_by_its_content_alone()


class _Any(str):
    """A name that is never another one."""

    __slots__ = ()

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


def test_a_piece_that_is_on_its_way_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    parcel = _parcel({"shared": torch.rand(LARGE)})
    store, missing, pauses = _given(parcel), 5, list[float]()
    monkeypatch.setattr(pieces.time, "sleep", pauses.append)

    def pull(place: Place) -> None:
        nonlocal missing
        if missing:
            missing -= 1
            raise flower.ObjectUnavailableError(place.name)
        put(place, [store[place.name]])

    assert unpack_task(_take(parcel, pull)).round == 1
    assert len(pauses) == 5
    assert max(pauses) < 1.0  # Flower's first


def test_a_piece_that_is_never_delivered_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def pull(place: Place) -> None:
        raise flower.ObjectUnavailableError(place.name)

    monkeypatch.setattr(pieces, "PULL_MAX_TIME", -1)
    with pytest.raises(flower.ObjectPullError, match="did not deliver"):
        _take(_parcel({"shared": torch.rand(LARGE)}), pull)


def _forged(**facts: object) -> tuple[Parcel, Pull]:
    """A message whose head says something else of its pieces."""
    parcel = _parcel({"shared": torch.rand(LARGE)})
    told: Any = parcel.head.content[FOLDED]
    for fact, value in facts.items():
        told[fact] = value
    return parcel, _from(_given(parcel), 1_000_000)


@pytest.mark.parametrize(
    "facts",
    [
        {"content": b"\xff"},
        {"content": "text"},
        {"content": [1]},
        {"sizes": []},
        {"sizes": [4 * LARGE, 0]},
        {"sizes": [4 * LARGE - 4]},
        {"sizes": [4 * LARGE + 4]},
        {"sizes": [10**18]},
        {"sizes": [2**62]},
        {"sizes": [-4]},
        {"sizes": 7},
        {"sizes": ["9"]},
        {"sizes": [1.5]},
        {"pieces": ["0" * 64]},
        {"pieces": [7]},
        {"pieces": b"x"},
    ],
)
def test_a_head_that_says_something_else_is_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(WireError, match="its sender runs something else"):
        _take(*_forged(**facts))


NAMELESS = ["", "../../coordinator.key", "/dev/zero", "A" * 64, "0" * 63, "0" * 64 + "\n", "0" * 63 + "/"]


@pytest.mark.parametrize("name", NAMELESS)
def test_a_piece_that_has_no_piece_s_name_is_never_looked_for(name: str) -> None:
    """The server application reads files of these names: a site could say those of the coordinator's keys."""
    parcel, _ = _forged(pieces=[name])

    def pull(place: Place) -> None:
        put(place, [bytes(4 * LARGE)])

    with pytest.raises(WireError, match="no piece's name"):
        _take(parcel, pull)


def test_a_taker_that_looks_for_any_name_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "is_name", lambda name: True)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_piece_that_has_no_piece_s_name_is_never_looked_for(NAMELESS[1])


def test_sizes_that_no_vector_has_are_given_no_memory() -> None:
    """A million of one byte are a small head, and as many places of sixty-four bytes, each with its words."""
    parcel, _ = _forged(sizes=[1] * 1_000)
    asked = list[Any]()
    with pytest.raises(WireError, match="as many sizes"):
        taken(_over(parcel.head), parcel.tree.object_id, _from({}), lambda sizes: asked.append(sizes) or [])
    assert not asked


def test_pieces_of_another_length_are_refused() -> None:
    parcel = _parcel({"shared": torch.rand(LARGE)})
    for change in (lambda held: held[:-4], lambda held: held + b"more", lambda held: b""):
        store = {name: change(held) for name, held in _given(parcel).items()}
        with pytest.raises(WireError, match="bytes than announced"):
            _take(parcel, _from(store, 1_000_000))


def test_a_size_that_is_claimed_touches_no_memory() -> None:
    claimed = 125 * pieces.PIECE_BYTES
    parcel, pull = _forged(sizes=[claimed])
    told: Any = parcel.head.content[FOLDED]
    told["pieces"] = 125 * told["pieces"]
    before = _resident()
    with pytest.raises(WireError, match="fewer bytes"):
        _take(parcel, pull)
    assert _resident() - before < claimed / 20


def _resident() -> int:
    """The most memory this process has ever had, in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123 - a line of the kernel's
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))


@pytest.mark.parametrize("content", [{}, {"vectors": ConfigRecord({"a": 1})}, {FOLDED: ConfigRecord({})}])
def test_a_head_that_holds_nothing_of_ours_is_refused(content: dict[str, Any]) -> None:
    identify()
    with pytest.raises(WireError, match="is not whole"):
        taken(Message(RecordDict(content), 3, "train"), "0" * 64, _from({}))


def test_what_a_push_raises_ends_the_giving() -> None:
    parcel, tried = _parcel({f"g{n}": torch.rand(LARGE) for n in range(6)}), list[str]()

    def push(name: str, parts: Parts) -> None:
        del parts
        tried.append(name)
        raise OSError("the line broke")

    with pytest.raises(OSError, match="broke"):
        given(parcel.pieces, push, set(parcel.pieces))
    assert len(tried) < len(parcel.pieces)
