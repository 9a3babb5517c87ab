"""What the launcher makes of a message and of the code that came with it."""

from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from client.approved import approve
from client.launcher import Launcher
from client.worker import DIED
from protocol.bundle import bundle, bundle_hash
from protocol.errors import PolicyError
from protocol.messages import Task, pack_task, unpack_reply
from sim.inprocess import identify
from tests.client.hand import Hand


@contextmanager
def _launcher(folder: Path, *hands: Hand, policy: Path | None = None) -> Generator[Launcher]:
    start: Any = iter(hands).__next__
    with closing(Launcher(folder / "approved.json", policy, start)) as launcher:
        yield launcher


def _asked() -> Message:
    identify()
    return Message(pack_task(Task("train", "r", 1, "recipe")), 3, "train")


@pytest.mark.parametrize("more", [b"", b"x"])
def test_a_message_is_handed_over_with_what_is_wrong_with_its_code(tmp_path: Path, more: bytes) -> None:
    code, hand, asked = bundle() + more, Hand(), _asked()
    with _launcher(tmp_path, hand) as launcher:
        reply = launcher.answer(asked, code)
    ((message, objection),) = hand.asked
    assert message is asked
    assert (objection == "") == (code == bundle())
    assert (unpack_reply(reply).error is None) == (code == bundle())


def test_code_that_is_approved_meanwhile_is_worked_for(tmp_path: Path) -> None:
    hand = Hand()
    with _launcher(tmp_path, hand) as launcher:
        launcher.answer(_asked(), b"other")
        approve(bundle_hash(b"other"), tmp_path / "approved.json")
        launcher.answer(_asked(), b"other")
    assert [objection == "" for _, objection in hand.asked] == [False, True]


def test_a_dead_worker_is_answered_for_and_another_takes_its_place(tmp_path: Path) -> None:
    dead, fresh = Hand(alive=False), Hand()
    with _launcher(tmp_path, dead, fresh) as launcher:
        reply = launcher.answer(_asked(), bundle())
        assert reply.error.code == DIED
        assert not launcher.answer(_asked(), bundle()).has_error()
    assert len(fresh.asked) == 1
    assert not fresh.alive


def test_no_memory_is_given_to_a_message_larger_than_the_policy_allows(tmp_path: Path) -> None:
    policy, hand = tmp_path / "policy.yaml", Hand()
    policy.write_text("leaves: {largest_message_bytes: 1000}")
    with _launcher(tmp_path, hand, policy=policy) as launcher:
        assert [len(view) for view in launcher.room([600, 400])] == [600, 400]
        hand.room = pytest.fail  # pyright: ignore[reportAttributeAccessIssue]
        for sizes in ([600, 401], [-600, 1001]):
            with pytest.raises(PolicyError, match="largest_message_bytes: a message of 1001 B, at most 1000"):
                launcher.room(sizes)


def test_what_is_too_large_to_be_taken_is_refused_by_the_worker(tmp_path: Path) -> None:
    hand = Hand()
    with _launcher(tmp_path, hand) as launcher:
        reply = launcher.answer(_asked(), b"other", "too large")
    assert unpack_reply(reply).error == ("PolicyError", "too large")
