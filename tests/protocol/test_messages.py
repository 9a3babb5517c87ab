"""Tasks and replies survive the wire bit by bit; what we did not send is refused before it is read."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import WireError
from protocol.messages import (
    RAW,
    VERSION,
    Reply,
    Task,
    fingerprint,
    pack_reply,
    pack_task,
    payload_bytes,
    reply_from_bytes,
    reply_to_bytes,
    solidify,
    unpack_reply,
    unpack_task,
)
from protocol.update import Update
from sim.inprocess import identify

SITE_NODE = 2


@pytest.fixture(autouse=True)
def _known_process() -> None:
    identify()


def _message(content: RecordDict) -> Message:
    return Message(content, SITE_NODE, "train")


def _wired(content: RecordDict) -> Message:
    """What arrives after a trip over a real wire."""
    sent = message_to_proto(solidify(_message(content))).SerializeToString()
    return message_from_proto(ProtoMessage.FromString(sent))


TRIPS = pytest.mark.parametrize("trip", [_message, _wired], ids=["in process", "over a wire"])
ODD = torch.tensor([0.0, -0.0, 1e-45, -3.4e38, math.inf, math.nan, 0.1])


def _bits(vector: torch.Tensor) -> list[int]:
    return vector.view(torch.int32).tolist()


@TRIPS
def test_a_task_arrives_as_it_was_sent(trip: Any) -> None:
    task = Task(
        "train",
        "run-1",
        3,
        "name: x\n",
        "ab12",
        {"shared": ODD},
        {"control": {"head:a": ODD[:2]}},
        {"split": "test"},
        "5161",
    )

    arrived = unpack_task(trip(pack_task(task)))

    assert (arrived.kind, arrived.run, arrived.round, arrived.recipe) == ("train", "run-1", 3, "name: x\n")
    assert (arrived.attempt, arrived.facts, arrived.signature) == ("ab12", {"split": "test"}, "5161")
    assert _bits(arrived.vectors["shared"]) == _bits(ODD)
    assert _bits(arrived.received["control"]["head:a"]) == _bits(ODD[:2])


@TRIPS
def test_a_reply_arrives_as_it_was_sent(trip: Any) -> None:
    update = Update({"shared": ODD}, {"shared": 7}, 12.0, {"control": {"shared": ODD + 1}})
    reply = Reply("CS", "train", "run-1", 3, update, {"loss": 0.5, "scores": {"a": [1, 2]}})

    arrived = unpack_reply(trip(pack_reply(reply)))

    assert (arrived.site, arrived.kind, arrived.run, arrived.round) == ("CS", "train", "run-1", 3)
    assert arrived.facts == {"loss": 0.5, "scores": {"a": [1, 2]}}
    assert arrived.error is None
    assert arrived.update is not None
    assert (arrived.update.counts, arrived.update.steps) == ({"shared": 7}, 12.0)
    assert _bits(arrived.update.deltas["shared"]) == _bits(ODD)
    assert _bits(arrived.update.extras["control"]["shared"]) == _bits(ODD + 1)


@TRIPS
def test_a_reply_without_update_says_why(trip: Any) -> None:
    arrived = unpack_reply(trip(pack_reply(Reply("CS", "train", "r", 1, error=("BudgetError", "spent")))))

    assert arrived.update is None
    assert arrived.error == ("BudgetError", "spent")


def test_in_process_no_vector_is_copied() -> None:
    vector = torch.ones(1000)

    arrived = unpack_task(_message(pack_task(Task("train", "r", 1, "", vectors={"shared": vector}))))

    assert arrived.vectors["shared"].data_ptr() == vector.data_ptr()


def test_over_a_wire_what_arrives_may_be_written_to() -> None:
    """Torch has no read-only tensors; writing into the message's own bytes would corrupt it."""
    message = _wired(pack_task(Task("train", "r", 1, "", vectors={"shared": torch.ones(4)})))

    unpack_task(message).vectors["shared"].zero_()

    assert unpack_task(message).vectors["shared"].tolist() == [1.0] * 4


def test_payload_bytes_counts_every_vector() -> None:
    content = pack_task(
        Task("train", "r", 1, "", vectors={"a": torch.ones(3)}, received={"c": {"a": torch.ones(2)}})
    )

    assert payload_bytes(content) == 5 * 4


def test_solidified_vectors_are_the_message_s_own() -> None:
    vector = torch.ones(3)

    message = solidify(_message(pack_task(Task("train", "r", 1, "", vectors={"a": vector}))))
    vector.zero_()

    assert unpack_task(message).vectors["a"].tolist() == [1.0] * 3


def test_an_error_message_has_nothing_to_solidify() -> None:
    failed = Message(Error(1, "gone"), reply_to=_message(pack_task(Task("train", "r", 1, ""))))

    assert solidify(failed).error.reason == "gone"


def _forged(array: Array) -> Message:
    facts = json.loads(str(pack_task(Task("train", "r", 1, "")).config_records["facts"]["json"]))
    arrays = ArrayRecord()
    arrays["shared"] = array
    return _message(RecordDict({"facts": ConfigRecord({"json": json.dumps(facts)}), "vectors": arrays}))


GOOD = np.ones(4, dtype="<f4").tobytes()
ARRAYS = [
    ("truncated", Array("float32", (4,), RAW, GOOD[:-1])),
    ("one element short", Array("float32", (4,), RAW, GOOD[:-4])),
    ("373 GiB claimed", Array("float32", (100_000_000_000,), RAW, GOOD)),
    ("negative size", Array("float32", (-4,), RAW, GOOD)),
    ("two axes", Array("float32", (2, 2), RAW, GOOD)),
    ("no axes", Array("float32", (), RAW, GOOD[:4])),
    ("another type", Array("float64", (2,), RAW, GOOD)),
    ("type with another order", Array(">f4", (4,), RAW, GOOD)),
    ("numpy.save", Array(np.ones(4, dtype=np.float32))),
    ("pickle", Array("float32", (4,), "numpy.ndarray.pickle", GOOD)),
]


@pytest.mark.parametrize("array", [array for _, array in ARRAYS], ids=[name for name, _ in ARRAYS])
def test_a_forged_array_is_refused(array: Array) -> None:
    with pytest.raises(WireError, match="vector 'shared' claims"):
        unpack_task(_forged(array))


def test_the_honest_array_beside_the_forged_ones_is_accepted() -> None:
    assert unpack_task(_forged(Array("float32", (4,), RAW, GOOD))).vectors["shared"].tolist() == [1.0] * 4


def _reply_with(**changes: Any) -> str:
    facts = json.loads(str(pack_reply(Reply("CS", "train", "r", 1)).config_records["facts"]["json"]))
    return json.dumps(facts | changes)


GARBLED = [
    "",
    "{",
    "[]",
    "null",
    "7",
    "[" * 100_000,
    '{"version": ' + "9" * 5000 + "}",
    json.dumps({"version": VERSION}),
    _reply_with(version=VERSION + 1),
    _reply_with(version=None),
    _reply_with(kind="destroy"),
    _reply_with(kind=[]),
    _reply_with(round=None),
    _reply_with(round="x"),
    _reply_with(round=math.inf),
    _reply_with(facts=[1]),
    _reply_with(error="x"),
    _reply_with(error=5),
    _reply_with(update=5),
    _reply_with(update={"steps": 1}),
    _reply_with(update={"counts": [1], "steps": 1}),
    _reply_with(update={"counts": {"a": math.inf}, "steps": 1}),
    _reply_with(update={"counts": {"a": "x"}, "steps": 1}),
    _reply_with(update={"counts": {}, "steps": 10**400}),
]


@pytest.mark.parametrize("text", GARBLED, ids=range(len(GARBLED)))
def test_garbled_facts_are_refused(text: str) -> None:
    content = RecordDict({"facts": ConfigRecord({"json": text}), "vectors": ArrayRecord()})

    with pytest.raises(WireError):
        unpack_reply(_message(content))


@pytest.mark.parametrize("missing", ["facts", "vectors"])
def test_a_message_of_another_application_is_refused(missing: str) -> None:
    content = pack_task(Task("train", "r", 1, ""))
    del content[missing]

    with pytest.raises(WireError, match="not one of Consilium's"):
        unpack_task(_message(content))


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), st.lists, max_leaves=5))
def test_any_json_in_any_field_is_a_reply_or_a_wire_error(value: Any) -> None:
    identify()
    for field in ("version", "site", "kind", "run", "round", "facts", "error", "update"):
        content = RecordDict(
            {"facts": ConfigRecord({"json": _reply_with(**{field: value})}), "vectors": ArrayRecord()}
        )
        try:
            assert isinstance(unpack_reply(_message(content)), Reply)
        except WireError:
            continue


def test_a_kept_reply_is_read_as_it_was_and_written_to_the_same_bytes() -> None:
    update = Update(
        {"shared": ODD, "head:a": ODD[:2]}, {"shared": 3, "head:a": 1}, 2.0, {"control": {"shared": ODD}}
    )
    kept = reply_to_bytes(Reply("north", "train", "r", 4, update, {"epsilon": 0.1 + 0.2}))
    read = reply_from_bytes(kept)
    assert reply_to_bytes(read) == kept
    assert read.update is not None
    assert _bits(read.update.deltas["shared"]) == _bits(ODD)
    assert read.facts == {"epsilon": 0.1 + 0.2}


def test_a_fingerprint_depends_on_every_fact_and_every_number() -> None:
    task = Task("train", "r", 1, "x", vectors={"a": torch.zeros(4), "b": torch.zeros(2)})
    others = [
        task,
        Task("train", "r", 1, "y", vectors=task.vectors),
        Task("train", "r", 1, "x", vectors=task.vectors | {"b": torch.tensor([0.0, -0.0])}),
        Task("train", "r", 1, "x", vectors={"a": torch.zeros(2), "b": torch.zeros(4)}),
        Task("train", "r", 1, "x", vectors={"a": torch.zeros(4)}, received={"a": {"b": torch.zeros(2)}}),
    ]
    digests = [fingerprint(pack_task(each)) for each in others]
    assert len({digest for digest, _ in digests}) == len(others)
    assert fingerprint(_wired(pack_task(task)).content) == digests[0]
