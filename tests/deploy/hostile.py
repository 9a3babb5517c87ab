"""The server application of a coordinator that is not ours: it asks sites for what ours never would.

Its answers are in the run's folder: {what is wrong: [site's node, what it said]}.
"""

import json
import time
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from protocol.messages import Task, pack_task, unpack_reply
from protocol.recipe import build, parse_cached
from server.app import initial_parameters
from server.grid import changes
from strategies.base import Strategy
from strategies.catalogue import STRATEGIES
from tests.zoo import forged_facts, forged_vectors, with_facts

ANSWERS, MARK = "answers.json", "mark"
HONEST = "nothing"
app = ServerApp()


def forged_tasks(folder: Path) -> dict[str, RecordDict]:
    """Return what is wrong -> the task in which it is; the last one is as it should be."""
    text = (folder / "recipe.yaml").read_text()
    recipe, mark = parse_cached(text), folder / MARK
    strategy: Strategy = build(STRATEGIES, recipe.strategy, "strategy")
    parameters = initial_parameters(recipe, strategy)
    group = min(parameters)
    right = pack_task(Task("train", folder.name, 1, text, "a", vectors={group: parameters[group]}))
    return {
        **forged_vectors(right, mark),
        **forged_facts(right),
        "recipe: none": with_facts(right, recipe=""),
        "recipe: a call": with_facts(right, recipe=f"!!python/object/apply:os.system ['touch {mark}']"),
        HONEST: right,
    }


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Send all, to one site after the other, and wait for all answers."""
    folder = Path(str(context.run_config["folder"]))
    for where, name, value in changes(folder / "no pieces"):
        setattr(where, name, value)
    nodes = sorted(grid.get_node_ids())
    tasks = forged_tasks(folder)
    asked = [
        Message(content, nodes[number % len(nodes)], "train", group_id="1")
        for number, content in enumerate(tasks.values())
    ]
    waiting = dict(zip(grid.push_messages(asked), tasks, strict=True))
    answers: dict[str, tuple[int, str]] = {}
    while waiting:
        for reply in grid.pull_messages(list(waiting)):
            answers[waiting.pop(reply.metadata.reply_to_message_id)] = (
                reply.metadata.src_node_id,
                _said(reply),
            )
        time.sleep(0.1)
    (folder / ANSWERS).write_text(json.dumps(answers))


def _said(reply: Message) -> str:
    if reply.has_error():
        return reply.error.reason or "died"
    error = unpack_reply(reply).error
    return ": ".join(error) if error else ""
