"""A site's process that dies is one failed reply, and nothing is left running."""

from pathlib import Path

import pytest
from flwr.app import Message

from client.settings import Settings, to_node_config
from protocol.messages import Reply, Task, pack_reply, pack_task
from server.wire import Wire
from sim.inprocess import contexts_for
from sim.phantom import write_phantom
from sim.processes import ProcessGrid

RECIPE = Path(__file__).parents[2] / "recipes" / "phantom.yaml"


@pytest.mark.slow
def test_a_dead_process_is_a_failed_reply(tmp_path: Path) -> None:
    write_phantom(tmp_path / "data", sites=2, patients=3, size=16, seed=1)
    names = sorted(p.name for p in (tmp_path / "data").iterdir() if p.is_dir())
    settings = [Settings(s, tmp_path / "data", tmp_path / s, (s,)) for s in names]
    grid = ProcessGrid(contexts_for(map(to_node_config, settings)))
    try:
        wire = Wire(grid)
        question = Task("describe", "run", 0, RECIPE.read_text())
        assert [reply.site for reply in wire.meet(question, 2, 60)] == names
        grid.workers[2].process.kill()
        grid.workers[2].process.join()
        arrivals = list(wire.ask([(site, question) for site in names], 60))
    finally:
        grid.close()
    assert [a.status for a in arrivals] == ["failed", "answered"]
    assert "process died" in arrivals[0].reason
    assert not any(worker.process.is_alive() for worker in grid.workers.values())


class _Pipe:
    """Stands in for a worker's pipe: what was put there is what comes out, in that order."""

    def __init__(self) -> None:
        self.answers: list[Message] = []

    def send(self, message: Message) -> None:
        pass

    def has_answered(self) -> bool:
        return bool(self.answers)

    def receive(self) -> Message:
        return self.answers.pop(0)


def test_a_late_answer_is_not_taken_for_the_next_one() -> None:
    grid = ProcessGrid({})
    pipe = grid.workers[2] = _Pipe()  # pyright: ignore[reportArgumentType]
    first, second = (Message(pack_task(Task("train", "run", n, "")), 2, "train") for n in (1, 2))
    (early,), (late,) = grid.push_messages([first]), grid.push_messages([second])
    assert not list(grid.pull_messages([early]))
    for asked in (first, second):
        pipe.answers.append(Message(pack_reply(Reply("a", "train", "run", 1)), reply_to=asked))
    (reply,) = grid.pull_messages([late])
    assert reply.metadata.reply_to_message_id == late
    assert not list(grid.pull_messages([early]))
