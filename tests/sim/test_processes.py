"""A site's process that dies is one failed reply, and nothing is left running."""

from pathlib import Path

import pytest

from client.settings import Settings, to_node_config
from protocol.messages import Task
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
