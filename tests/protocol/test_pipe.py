"""Messages between two processes of ours arrive whole, in memory of the receiver's own."""

import subprocess
import sys
from multiprocessing import Pipe
from threading import Thread

import pytest
import torch
from flwr.app import Error, Message, RecordDict
from flwr.common.serde import message_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.messages import Task, pack_task, solidify, unpack_task
from protocol.pipe import Channel
from sim.inprocess import identify


@pytest.fixture(autouse=True)
def _known_process() -> None:
    identify()


def _message(content: RecordDict) -> Message:
    return Message(content, 3, "train")


def _handed(message: Message) -> Message:
    """What another process receives."""
    ours, theirs = Pipe()
    sender = Thread(target=Channel(ours).send, args=(message,))
    sender.start()
    with theirs:
        received = Channel(theirs).receive()
    sender.join()
    ours.close()
    return received


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(0, 70_000), max_size=3))
def test_a_message_is_handed_over_whole_and_can_be_written_to(sizes: list[int]) -> None:
    vectors = {f"g{n}": torch.rand(size) for n, size in enumerate(sizes)}
    asked = _message(pack_task(Task("train", "r", 1, "", vectors=vectors)))
    received = _handed(asked)
    task = unpack_task(received)
    assert received.metadata == asked.metadata
    assert task.vectors.keys() == vectors.keys()
    assert all(torch.equal(task.vectors[g], vectors[g]) for g in vectors)
    for vector in task.vectors.values():
        vector.zero_()
    assert all(torch.equal(unpack_task(asked).vectors[g], vectors[g]) for g in vectors)


def test_an_error_is_handed_over() -> None:
    failed = Message(Error(1, "gone"), reply_to=_message(pack_task(Task("train", "r", 1, ""))))
    assert _handed(failed).error.reason == "gone"


def test_whoever_ends_in_the_middle_of_a_message_is_noticed() -> None:
    ours, theirs = Pipe()
    asked = solidify(_message(pack_task(Task("train", "r", 1, "", vectors={"a": torch.ones(2)}))))
    ours.send_bytes(message_to_proto(asked).SerializeToString())
    ours.send_bytes(b"[8]")
    ours.close()
    with theirs, pytest.raises(EOFError):
        Channel(theirs).receive()


@pytest.mark.slow
def test_what_passes_messages_on_does_without_torch() -> None:
    """Half a gigabyte and seconds of imports."""
    words = "import sys, client.supernode; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0
