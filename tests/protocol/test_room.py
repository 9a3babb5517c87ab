"""Memory that one message after the other lies in: used again, but never under the eyes of whoever looks."""

import os
from multiprocessing import Pipe
from pathlib import Path

import pytest
import torch
from flwr.app import Message
from hypothesis import given
from hypothesis import strategies as st

from protocol.messages import Task, pack_task, unpack_task
from protocol.pipe import Channel
from protocol.room import Room, free
from sim.inprocess import identify

VECTOR = torch.arange(50_000, dtype=torch.float32)


def _message(vector: torch.Tensor = VECTOR) -> Message:
    return Message(pack_task(Task("train", "r", 1, "", vectors={"shared": vector})), 3, "train")


@given(sizes=st.lists(st.integers(0, 10_000), max_size=6))
def test_vectors_have_places_of_their_own(sizes: list[int]) -> None:
    room = Room()
    places = room.views(sizes)
    assert [len(place) for place in places] == sizes
    for number, place in enumerate(places):
        place[:] = bytes([number]) * len(place)
    assert all(bytes(place) == bytes([number]) * len(place) for number, place in enumerate(places))
    del places
    assert [bytes(p) for p in Room(os.dup(room.handle)).views(sizes)] == [
        bytes([number]) * size for number, size in enumerate(sizes)
    ]


def test_a_room_is_used_again_once_nobody_looks_at_it() -> None:
    room = Room()
    tensor = torch.frombuffer(room.views([400])[0], dtype=torch.float32).fill_(1)
    other = free(room)
    assert other is not room
    other.views([400])[0][:] = bytes(400)
    assert bool((tensor == 1).all())
    del tensor
    assert free(room) is room
    assert free(None) is not room


def test_a_room_of_impossible_size_is_an_error_of_memory() -> None:
    for sizes in ([2**62], [2**63], [10**30]):
        with pytest.raises(MemoryError, match="no room"):
            Room().views(sizes)


def test_a_room_is_gone_with_whoever_knew_it() -> None:
    before = _handles()
    for _ in range(20):
        Room().views([100_000])
    assert _handles() <= before


def _handles() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _there_and_back(*, look: bool) -> tuple[list[int], list[torch.Tensor]]:
    """Three tasks and their replies; the memory of each task, and what whoever looks has of each."""
    identify()
    ours, theirs = (Channel(end) for end in Pipe())
    rooms, kept = list[int](), list[torch.Tensor]()
    for number in range(3):
        places = ours.room([4 * len(VECTOR)])
        torch.frombuffer(places[0], dtype=torch.float32).copy_(VECTOR + number)
        rooms.append(_number_of(ours))
        task = _message()
        next(iter(task.content["vectors"].values())).data = places[0]
        del places
        ours.send(task)
        del task
        received = unpack_task(theirs.receive()).vectors["shared"]
        assert torch.equal(received, VECTOR + number)
        if look:
            kept.append(received)
        del received
        theirs.send(_message(-VECTOR))
        assert torch.equal(unpack_task(ours.receive()).vectors["shared"], -VECTOR)
    return rooms, kept


def _number_of(channel: Channel) -> int:
    assert channel._room is not None
    return os.fstat(channel._room.handle).st_ino


def test_a_message_goes_with_its_memory_which_comes_back_with_the_reply() -> None:
    rooms, _ = _there_and_back(look=False)
    assert len(set(rooms)) == 1


def test_what_somebody_looks_at_is_not_written_over() -> None:
    rooms, kept = _there_and_back(look=True)
    assert len(set(rooms)) == len(rooms)
    assert all(torch.equal(vector, VECTOR + number) for number, vector in enumerate(kept))


def test_what_somebody_looks_at_does_not_go_with_a_reply_without_vectors() -> None:
    """As a score is: the memory would be the next task's."""
    identify()
    ours, theirs = (Channel(end) for end in Pipe())
    ours.send(_message())
    kept = unpack_task(theirs.receive()).vectors["shared"]
    theirs.send(Message(pack_task(Task("evaluate", "r", 1, "")), 3, "evaluate"))
    ours.receive()
    ours.send(_message(-VECTOR))
    assert torch.equal(unpack_task(theirs.receive()).vectors["shared"], -VECTOR)
    assert torch.equal(kept, VECTOR)


def test_a_room_comes_back_with_a_reply_without_vectors() -> None:
    identify()
    ours, theirs = (Channel(end) for end in Pipe())
    ours.send(_message())
    theirs.receive()
    number = _number_of(theirs)
    theirs.send(Message(pack_task(Task("evaluate", "r", 1, "")), 3, "evaluate"))
    ours.receive()
    assert _number_of(ours) == number


def test_a_room_that_is_taken_for_free_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Room, "is_free", lambda room: True)
    for test in (
        test_a_room_is_used_again_once_nobody_looks_at_it,
        test_what_somebody_looks_at_is_not_written_over,
        test_what_somebody_looks_at_does_not_go_with_a_reply_without_vectors,
    ):
        with pytest.raises(AssertionError):
            test()
