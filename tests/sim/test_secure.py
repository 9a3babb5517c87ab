"""Secure rounds between processes, some of which are killed by SIGKILL."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import Message

from client.settings import to_node_config
from protocol.errors import QuorumError
from protocol.messages import unpack_task
from protocol.recipe import load_recipe
from server.app import conduct
from server.book import write_recipe
from server.record import read_record
from sim.inprocess import contexts_for
from sim.phantom import write_phantom
from sim.processes import ProcessGrid
from sim.run import Launch, settings_for

pytestmark = pytest.mark.slow

RECIPE = Path(__file__).parents[2] / "recipes" / "phantom.yaml"
SMALL = [
    "rounds=4",
    "training.steps=1",
    "training.batch=4",
    "evaluation.every=4",
    "model.channels=[8,8]",
    "secure.enabled=true",
    "secure.threshold=0.5",
]


class KillingGrid(ProcessGrid):
    """SIGKILL to a site's process as it is asked to take a step of a round: `deaths[round] = step, node`."""

    deaths: dict[int, tuple[str, int]] = {}  # noqa: RUF012 - set by the one test

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return super().push_messages(map(self._deadly, messages))

    def _deadly(self, message: Message) -> Message:
        task, node = unpack_task(message), message.metadata.dst_node_id
        if self.deaths.get(task.round) == (task.kind, node):
            worker = self.workers[node].process
            worker.kill()
            worker.join()
        return message


def test_killed_sites_are_in_the_sum_or_not_and_too_many_end_the_run(tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "run"
    write_phantom(data, sites=5, patients=4, size=16, seed=1)
    recipe = load_recipe(RECIPE, SMALL)
    write_recipe(folder, recipe)
    settings = settings_for(folder, recipe, Launch(data, threads=1))
    grid = KillingGrid(contexts_for(map(to_node_config, settings)))
    grid.deaths = {2: ("contribute", 2), 3: ("reveal", 3), 4: ("agree", 4)}
    config = {"folder": str(folder), "sites": 5, "tracking": "off"}
    try:
        with pytest.raises(QuorumError, match="2 sites are left after 'agree', a sum needs 3"):
            conduct(grid, config, lambda number, news: None)
    finally:
        grid.close()
    told = [[site.status for site in ended.sites] for ended in read_record(folder).rounds]
    assert told == [
        ["accepted"] * 5,
        ["failed", *["accepted"] * 4],
        ["failed", *["accepted"] * 4],
    ]
    assert not any(worker.process.is_alive() for worker in grid.workers.values())
