"""Sites that send what no site of ours sends: nothing is counted, nothing falls over, each has its reason."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto

from privacy.heads import BOOKS, Head, sign
from privacy.keys import Pins, Signer
from protocol.messages import (
    HEADS,
    Reply,
    Task,
    pack_reply,
    solidify,
    unpack_task,
)
from protocol.update import Update
from server import admission
from server.record import SiteRound, SiteSummary
from server.roster import Member
from server.rounds import judge
from server.wire import Wire
from server.witness import Witness
from sim.inprocess import InProcessGrid, contexts_for
from tests.zoo import forged_facts, forged_vectors, with_facts

HONEST = "honest"
SIZE = 40


@dataclass(frozen=True)
class Signed:
    """Honest replies of any site, under a key each."""

    keys: Mapping[str, Signer]

    def heads(self, site: str, by: str = "") -> dict[str, Any]:
        return {HEADS: sign(self.keys[by or site], site, {book: Head(1, "0a") for book in BOOKS})}

    def reply(self, site: str, task: Task, by: str = "") -> RecordDict:
        update = Update({"shared": torch.ones(SIZE)}, {"shared": 3}, 1.0) if task.kind == "train" else None
        return pack_reply(Reply(site, task.kind, task.run, task.round, update, self.heads(site, by)))


def _zoo(signed: Signed, site: str, task: Task, mark: Path) -> dict[str, RecordDict]:
    """Return what is wrong -> the reply in which it is."""
    right = signed.reply(site, task)
    update = {"counts": {"shared": 3}, "steps": 1.0}
    return {
        **forged_vectors(right, mark),
        **forged_facts(right),
        "run: another": with_facts(right, run="another"),
        "round: the last one again": with_facts(right, round=task.round - 1),
        "signature: another site's": signed.reply(site, task, HONEST),
        "signature: none": with_facts(right, facts={}),
        "site: another": signed.reply(HONEST, task),
        "update: none": with_facts(right, update=None),
        "update: text": with_facts(right, update="all"),
        "count: negative": with_facts(right, update=update | {"counts": {"shared": -3}}),
        "count: huge": with_facts(right, update=update | {"counts": {"shared": 10**30}}),
        "count: none": with_facts(right, update=update | {"counts": {}}),
        "steps: NaN": with_facts(right, update=update | {"steps": float("nan")}),
        "error: one word": with_facts(right, error=["PolicyError"]),
        "loss: text": with_facts(right, facts=signed.heads(site) | {"loss": "0.1"}),
    }


def _round(folder: Path) -> dict[str, SiteRound]:
    """Play one round in which every site but one forges in its own way; what is wrong -> verdict."""
    task = Task("train", "run", 2, "", "a", vectors={"shared": torch.zeros(SIZE)})
    names = [f"s{n:02d}" for n in range(80)]
    keys = {site: Signer(Ed25519PrivateKey.generate()) for site in [*names, HONEST]}
    signed, mark = Signed(keys), folder / "mark"
    wrong = dict(zip(names, _zoo(signed, "s00", task, mark), strict=False))
    sites = [*wrong, HONEST]
    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        site, asked = sites[context.node_id - 2], unpack_task(message)
        content = signed.reply(site, asked)
        if asked.kind == "train" and site in wrong:
            content = _zoo(signed, site, asked, mark)[wrong[site]]
        sent = message_to_proto(solidify(Message(content, reply_to=message)))
        return message_from_proto(MessageProto.FromString(sent.SerializeToString()))

    for register in (app.train, app.query):
        register()(handle)
    wire = Wire(InProcessGrid(app, contexts_for([{} for _ in sites])))
    wire.meet(Task("describe", "run", 0, ""), len(sites), 1.0)
    pins = Pins(keys[HONEST].public, {site: key.public for site, key in keys.items()})
    witness = Witness(folder / "witness.json", Signer(Ed25519PrivateKey.generate()), pins)
    arrivals = wire.ask([(site, task) for site in sites], 30.0)
    nothing = SiteSummary("", {}, {}, {}, {})
    found = {}
    for arrival in arrivals:
        member = Member(arrival.site, {"shared": 3}, frozenset({"shared"}), nothing)
        verdict, update, _ = judge(member, task, arrival, witness)
        assert (update is not None) == (verdict.status == "accepted")
        found[wrong.get(arrival.site, HONEST)] = verdict
    return found


def test_of_a_round_full_of_forgeries_the_honest_reply_alone_counts(tmp_path: Path) -> None:
    found = _round(tmp_path)
    assert len(found) > 50
    assert [wrong for wrong, verdict in found.items() if verdict.status == "accepted"] == [HONEST]
    assert [wrong for wrong, verdict in found.items() if not verdict.reason] == [HONEST]
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("owner", "name", "let_through"),
    [
        (Witness, "note", {"signature: none", "signature: another site's"}),
        (admission, "_right_counts", {"count: negative"}),
    ],
)
def test_a_check_that_is_left_out_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, let_through: set[str]
) -> None:
    monkeypatch.setattr(owner, name, lambda *_: None)
    found = _round(tmp_path)
    assert let_through & {wrong for wrong, verdict in found.items() if verdict.status == "accepted"}
