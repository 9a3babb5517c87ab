"""Tasks and replies, to and from Flower's records. The only file that spells record keys.

    Message.content = RecordDict
        "facts"    ConfigRecord {"json": everything that is not a vector, as JSON text}
        "vectors"  ArrayRecord  {"<group>": Array, "<name>/<group>": Array}

An `Array` here is raw little-endian float32, or int32 where masks were added (`stype` below), not
`numpy.save`: its length says its shape, so there is no header to forge, and no pickle anywhere.
The buffer is the vector's own memory: nothing is copied until a real wire serialises it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeVar, cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as Proto  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

from protocol.errors import WireError
from protocol.pipe import arrays_in, solid
from protocol.update import Update, Vectors

T = TypeVar("T")

RAW = "consilium.float32.le"
MASKED = "consilium.int32.le"
VERSION = 1
KINDS = {
    "describe": "query",
    "train": "train",
    "evaluate": "evaluate",
    "advertise": "query",  # from here on: the steps of secure aggregation
    "share": "query",
    "contribute": "train",
    "agree": "query",
    "reveal": "query",
}
"""What a site can be asked -> Flower's message type."""

WITNESS, HEADS = "witness", "heads"
"""Facts of a task and of a reply: where the site's ledger and audit log stand (`privacy.heads`)."""

_STYPES = {"float32": RAW, "int32": MASKED}
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Task:
    """What a site is asked.

    `vectors`   group -> flat parameters, only groups that the site owns
    `received`  what the strategy sends besides: name -> group -> flat vector
    `facts`     plain data of this kind of task, e.g. the split to evaluate
    `signature` of whoever signed the recipe's text, hexadecimal; "" if nobody did
    """

    kind: str
    run: str
    round: int
    recipe: str
    attempt: str = ""
    vectors: Vectors = field(default_factory=dict)
    received: Mapping[str, Vectors] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    signature: str = ""


@dataclass(frozen=True)
class Reply:
    """What a site answers; `error` is (class name, text) when it could or would not."""

    site: str
    kind: str
    run: str
    round: int
    update: Update | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: tuple[str, str] | None = None


def pack_task(task: Task) -> RecordDict:
    """Write a task as Flower records, without copying a vector."""
    facts = {
        "version": VERSION,
        "kind": task.kind,
        "run": task.run,
        "round": task.round,
        "recipe": task.recipe,
        "attempt": task.attempt,
        "signature": task.signature,
        "facts": task.facts,
    }
    return _records(facts, task.vectors, task.received)


def unpack_task(message: Message) -> Task:
    """Read a task; `WireError` when it is not one of ours."""
    facts, vectors, named = _read(message)
    return _shaped(
        lambda: Task(
            kind=_one_of(facts["kind"], KINDS),
            run=str(facts["run"]),
            round=int(facts["round"]),
            recipe=str(facts["recipe"]),
            attempt=str(facts["attempt"]),
            vectors=vectors,
            received=named,
            facts=dict(facts["facts"]),
            signature=str(facts["signature"]),
        )
    )


def pack_reply(reply: Reply) -> RecordDict:
    """Write a reply as Flower records, without copying a vector."""
    facts: dict[str, Any] = {
        "version": VERSION,
        "site": reply.site,
        "kind": reply.kind,
        "run": reply.run,
        "round": reply.round,
        "facts": reply.facts,
        "error": reply.error,
    }
    if reply.update is None:
        return _records(facts, {}, {})
    facts["update"] = {"counts": dict(reply.update.counts), "steps": reply.update.steps}
    return _records(facts, reply.update.deltas, reply.update.extras)


def unpack_reply(message: Message) -> Reply:
    """Read a reply; `WireError` when it is not one of ours."""
    return _reply(*_read(message))


def reply_to_bytes(reply: Reply) -> bytes:
    """Write a reply as bytes to keep; equal replies give equal bytes."""
    return recorddict_to_proto(solid(pack_reply(reply))).SerializeToString()


def reply_from_bytes(kept: bytes) -> Reply:
    """Read what `reply_to_bytes` wrote."""
    return _reply(*_records_read(recorddict_from_proto(Proto.FromString(kept))))


def fingerprint(content: RecordDict) -> tuple[str, int]:
    """Return SHA-256 and size in bytes of a message's content: its facts, and every vector with its name."""
    written, arrays = cast("ConfigRecord", content["facts"]), cast("ArrayRecord", content["vectors"])
    facts = str(written["json"]).encode()
    digest = sha256(facts)
    for key, array in sorted(arrays.items()):
        digest.update(f"\n{key} {len(array.data)}\n".encode())
        digest.update(array.data)
    return digest.hexdigest(), len(facts) + payload_bytes(content)


def _reply(facts: dict[str, Any], vectors: Vectors, named: dict[str, Vectors]) -> Reply:
    return _shaped(
        lambda: Reply(
            site=str(facts["site"]),
            kind=_one_of(facts["kind"], KINDS),
            run=str(facts["run"]),
            round=int(facts["round"]),
            update=_update(facts.get("update"), vectors, named),
            facts=dict(facts["facts"]),
            error=_error(facts["error"]),
        )
    )


def payload_bytes(content: RecordDict) -> int:
    """Bytes of all vectors in a message's content."""
    return sum(len(array.data) for array in arrays_in(content))


def solidify(message: Message) -> Message:
    """Turn borrowed buffers into bytes of the message's own, for a wire that needs bytes."""
    if message.has_content():
        solid(message.content)
    return message


def _records(facts: Mapping[str, Any], vectors: Vectors, named: Mapping[str, Vectors]) -> RecordDict:
    arrays = ArrayRecord()
    for group, vector in vectors.items():
        arrays[group] = _array(vector)
    for name, inner in named.items():
        for group, vector in inner.items():
            arrays[f"{name}/{group}"] = _array(vector)
    return RecordDict({"facts": ConfigRecord({"json": json.dumps(facts)}), "vectors": arrays})


def _array(vector: Tensor) -> Array:
    kind = str(vector.dtype).removeprefix("torch.")
    array = Array(kind, (vector.numel(),), _STYPES.get(kind, RAW), b"")
    # Flower asks for `bytes`, but reads any buffer; an ndarray lends the vector's memory.
    array.data = vector.detach().cpu().numpy().view(np.uint8)  # pyright: ignore[reportAttributeAccessIssue]
    return array


def _read(message: Message) -> tuple[dict[str, Any], Vectors, dict[str, Vectors]]:
    return _records_read(message.content if message.has_content() else RecordDict())


def _records_read(content: RecordDict) -> tuple[dict[str, Any], Vectors, dict[str, Vectors]]:
    try:
        written, arrays = content["facts"], content["vectors"]
        if not (isinstance(written, ConfigRecord) and isinstance(arrays, ArrayRecord)):
            raise TypeError
        facts = json.loads(str(written["json"]))
        version = facts["version"]
    except _MALFORMED as error:
        msg = "message is not one of Consilium's: update the older side, or see who else uses this link"
        raise WireError(msg) from error
    if version != VERSION:
        msg = f"message has protocol version {version!r}, this side speaks {VERSION}: update the older side"
        raise WireError(msg)
    vectors: Vectors = {}
    named: dict[str, Vectors] = {}
    for key, array in arrays.items():
        name, slash, group = key.partition("/")
        (named.setdefault(name, {}) if slash else vectors)[group or name] = _vector(key, array)
    return facts, vectors, named


def _vector(key: str, array: Array) -> Tensor:
    size = len(array.data)
    known = _STYPES.get(array.dtype) == array.stype and array.stype
    if not known or array.shape != (size // 4,) or size % 4:
        msg = f"vector '{key}' claims {array.stype} {array.dtype} {array.shape} in {size} B: not sent by us"
        raise WireError(msg)
    flat = np.frombuffer(array.data, dtype=np.dtype(array.dtype).newbyteorder("<"))
    # Torch has no read-only tensors: what arrived as bytes is copied, a lent buffer is not.
    return torch.from_numpy(flat if flat.flags.writeable else flat.copy())


def _shaped(make: Callable[[], T]) -> T:
    try:
        return make()
    except _MALFORMED as error:
        msg = f"message lacks or garbles {error}: update the older side"
        raise WireError(msg) from error


def _one_of(value: object, known: Mapping[str, str]) -> str:
    if value not in known:
        msg = f"kind {value!r}"
        raise ValueError(msg)
    return str(value)


def _update(facts: Any, vectors: Vectors, named: Mapping[str, Vectors]) -> Update | None:
    if facts is None:
        return None
    counts = {str(group): int(count) for group, count in facts["counts"].items()}
    return Update(vectors, counts, float(facts["steps"]), named)


def _error(facts: Any) -> tuple[str, str] | None:
    if facts is None:
        return None
    kind, text = facts
    return str(kind), str(text)
