"""Messages that neither a site nor a coordinator of ours sends, each made from one that it does.

Every one leaves the wire as a well-formed message of Flower's: what is forged is what is in it.
"""

import io
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from protocol.messages import MASKED, RAW

OVERSIZED = 20_000_000


class Trap:
    """Whoever unpickles it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Say what unpickling does."""
        return os.system, (f"touch {self._mark}",)


def forged_vectors(content: RecordDict, mark: Path) -> dict[str, RecordDict]:
    """Return what is wrong -> `content` with its first vector forged."""
    key, honest = next(iter(cast("ArrayRecord", content["vectors"]).items()))
    data, size = bytes(honest.data), len(honest.data) // 4
    trap = pickle.dumps(Trap(mark))
    saved = io.BytesIO()
    np.save(saved, np.array([Trap(mark)], dtype=object), allow_pickle=True)

    def vector(new: bytes = data, shape: tuple[int, ...] | None = None, **header: str) -> RecordDict:
        forged = Array("float32", (), RAW, b"")
        forged.dtype, forged.stype = header.get("dtype", "float32"), header.get("stype", RAW)
        forged.shape, forged.data = (len(new) // 4,) if shape is None else shape, new
        return _with(content, vectors={key: forged})

    def named(name: str) -> RecordDict:
        return _with(content, vectors={name: Array("float32", (size,), RAW, data)})

    return {
        "dtype: object": vector(dtype="object"),
        "dtype: float64": vector(dtype="float64"),
        "dtype: none": vector(dtype=""),
        "header: Flower's own": vector(stype="numpy.ndarray"),
        "header: pickle": vector(trap, stype="pickle"),
        "header: none": vector(stype=""),
        "header: masked": vector(stype=MASKED),
        "shape: one more": vector(shape=(size + 1,)),
        "shape: one less": vector(shape=(size - 1,)),
        "shape: two axes": vector(shape=(1, size)),
        "shape: 8 GB": vector(shape=(2**31 - 1,)),
        "shape: negative": vector(shape=(-1,)),
        "shape: scalar": vector(shape=()),
        "data: a byte short": vector(data[:-1], (size,)),
        "data: a number short": vector(data[:-4]),
        "data: half": vector(data[: 4 * (size // 2)], (size,)),
        "data: none": vector(b""),
        "data: twice": vector(data + data),
        "data: 20 MB": vector(bytes(OVERSIZED)),
        "data: a pickle": vector(trap),
        "data: numpy.save": vector(saved.getvalue(), stype="numpy.ndarray"),
        "data: NaN": vector(np.full(size, np.nan, "<f4").tobytes()),
        "data: Inf": vector(np.full(size, np.inf, "<f4").tobytes()),
        "group: unknown": named("nowhere"),
        "group: private": named("private"),
        "group: a path": named("../../etc"),
    }


def forged_facts(content: RecordDict) -> dict[str, RecordDict]:
    """Return what is wrong -> `content` with other facts, or other records altogether."""

    def text(new: str) -> RecordDict:
        return _with(content, text=new)

    return {
        "text: none": text(""),
        "text: truncated": text(str(cast("ConfigRecord", content["facts"])["json"])[:-9]),
        "text: a list": text("[]"),
        "text: null": text("null"),
        "text: deep": text("[" * 100_000),
        "text: zero bytes": text("\0\0"),
        "text: version alone": text('{"version": 1}'),
        "version: none": with_facts(content, version=None),
        "version: later": with_facts(content, version=2),
        "kind: unknown": with_facts(content, kind="rm"),
        "kind: a list": with_facts(content, kind=[]),
        "kind: another": with_facts(content, kind="reveal"),
        "run: a path": with_facts(content, run="../../elsewhere"),
        "round: negative": with_facts(content, round=-1),
        "round: wrong": with_facts(content, round=99),
        "round: huge": with_facts(content, round=10**400),
        "round: infinite": with_facts(content, round=float("inf")),
        "round: text": with_facts(content, round="first"),
        "facts: a number": with_facts(content, facts=7),
        "records: none": RecordDict(),
        "records: no facts": RecordDict({"vectors": content["vectors"]}),
        "records: no vectors": RecordDict({"facts": content["facts"]}),
        "records: changed about": RecordDict({"facts": content["vectors"], "vectors": content["facts"]}),
    }


def with_facts(content: RecordDict, **changes: Any) -> RecordDict:
    """Return `content` with some of its facts replaced."""
    facts = json.loads(str(cast("ConfigRecord", content["facts"])["json"]))
    return _with(content, text=json.dumps(facts | changes))


def _with(content: RecordDict, *, vectors: Mapping[str, Array] | None = None, text: str = "") -> RecordDict:
    arrays = content["vectors"]
    if vectors is not None:
        arrays = ArrayRecord()
        for key, array in vectors.items():
            arrays[key] = array
        return RecordDict({"facts": content["facts"], "vectors": arrays})
    return RecordDict({"facts": ConfigRecord({"json": text}), "vectors": arrays})
