"""What the warm worker answers, without a process of its own: the pipe and the loop are the real ones."""

import multiprocessing
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from flwr.app import Message, RecordDict

from client import worker
from client.settings import Settings
from client.worker import UNREADABLE, serve
from privacy import audit
from protocol.messages import Task, pack_task, unpack_reply
from protocol.pipe import Channel
from sim.inprocess import identify
from sim.run import introduce


def _answers(patch: pytest.MonkeyPatch, settings: Settings, *asked: tuple[str, Message]) -> list[Message]:
    """Let the worker's loop answer (objection, message) one after the other, until its pipe closes."""
    patch.setattr(worker, "die_with", lambda parent: None)
    begun: list[bool] = []
    patch.setattr(worker.logs, "begin", lambda: begun.append(True))
    patch.setattr(worker.signal, "signal", lambda number, handler: None)
    ours, theirs = multiprocessing.Pipe()
    answers: list[Message] = []

    def keeper() -> None:
        channel = Channel(ours)
        with ours:
            for objection, message in asked:
                ours.send_bytes(objection.encode())
                channel.send(message)
                answers.append(channel.receive())

    thread = threading.Thread(target=keeper)
    thread.start()
    with theirs:
        serve(theirs, settings, 0)
    thread.join()
    assert begun, "else an error's words are in the site's log"
    return answers


def test_an_objection_is_answered_audited_and_nothing_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identify()
    settings = Settings(
        "north", tmp_path / "nowhere", tmp_path / "sites" / "north", federation=introduce(tmp_path, ["north"])
    )
    train = Message(pack_task(Task("train", "run", 2, "recipe")), 2, "train")
    (answer,) = _answers(monkeypatch, settings, ("other code", train))
    reply = unpack_reply(answer)
    assert (reply.site, reply.round, reply.error) == ("north", 2, ("PolicyError", "other code"))
    (entry,) = audit.read(settings.books)
    assert (entry["asked"]["round"], entry["decided"]) == (2, "refused")
    assert "other code" in entry["why"]


def test_what_is_no_message_of_ours_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identify()
    strange = Message(RecordDict(), 2, "train")
    ours = Message(pack_task(Task("train", "run", 1, "no recipe")), 2, "train")
    first, second = _answers(monkeypatch, Settings("north", tmp_path, tmp_path), ("", strange), ("", ours))
    assert first.error.code == UNREADABLE
    assert unpack_reply(second).error is not None


def test_monai_is_there_before_a_task_comes_and_brings_no_other_library() -> None:
    """They stay importable: a table is split by one of them. In a process that has imported none yet."""
    look = (
        "import sys; from client.worker import _ALONG, _LOSSES, warm; warm();"
        "assert set(_LOSSES) <= sys.modules.keys(); assert not set(_ALONG) & sys.modules.keys();"
        "from models.objectives import dice_ce; dice_ce(); import sklearn.model_selection;"
        "warm(); assert 'sklearn' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", look], check=True, cwd=Path(__file__).parents[2])
