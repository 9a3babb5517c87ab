"""What the server holds: its peak memory in models, with 8 and with 64 sites.

    floor   two models: the parameters and a running sum
    bar     three: the one reply in hand besides

Sites are stand-ins that answer from one buffer, so that whatever grows is the server's. Each
federation runs in a process of its own, which has run a tiny one before, so that what Python loads
on first use is not counted; the kernel's high-water mark is reset before it starts.
"""

import ctypes
import gc
import multiprocessing
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from models.catalogue import build_model
from models.flat import Flat
from protocol.messages import Reply, Task, pack_reply, unpack_task
from protocol.recipe import Evaluation, Head, Modality, Part, Recipe, dump_recipe
from protocol.update import Update
from server.app import conduct
from server.record import Round, SiteRound
from sim.inprocess import InProcessGrid, contexts_for

RECIPE = Recipe(
    "memory",
    {"table": Modality("table", 13)},
    {"label": Head("classification", 1, Part("bce"))},
    Part("none"),
    Part("table_mlp", {"hidden": (4980, 4980)}),
    rounds=3,
    evaluation=Evaluation(every=100, subsets=False),
)
TINY = replace(RECIPE, model=Part("table_mlp", {"hidden": (8, 8)}))


def stand_in(shared: Tensor) -> ClientApp:
    """Return sites that own everything and answer every round from the buffer `shared`."""
    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        task = unpack_task(message)
        site = f"s{context.node_id:03d}"
        content = described(site, task) if task.kind == "describe" else trained(site, task, shared)
        return Message(pack_reply(content), reply_to=message)

    for register in (app.train, app.query):
        register()(handle)
    return app


def described(site: str, task: Task) -> Reply:
    """Say that the site owns every group."""
    owned = {"shared": 10, "head:label": 10, "modality:table": 10}
    ten = {"train": 10}
    summary = {
        "site": site,
        "patients": ten,
        "cases": ten,
        "patterns": {"table": 10},
        "labels": {"label": 10},
    }
    facts = {"summary": summary, "owned": owned, "usable": [], "leaves": {}, "version": ""}
    return Reply(site, task.kind, task.run, task.round, facts=facts)


def trained(site: str, task: Task, shared: Tensor) -> Reply:
    """Answer with the buffer's first elements, a group after the other."""
    deltas, start = {}, 0
    for group, vector in task.vectors.items():
        deltas[group] = shared[start : start + len(vector)]
        start += len(vector)
    return Reply(site, task.kind, task.run, task.round, Update(deltas, dict.fromkeys(deltas, 10), 1.0))


def models_held(sites: int) -> float:
    """Run a federation of `sites`; return this process's peak beyond its bare self, in models."""
    peak_of_federation(TINY, sites)
    size, peak = peak_of_federation(RECIPE, sites)
    # The buffer that the stand-ins answer from is the one reply in hand.
    return peak / (4 * size) + 1


def peak_of_federation(recipe: Recipe, sites: int) -> tuple[int, int]:
    """Run a federation of `sites`; return the model's parameters and this process's peak, in bytes."""
    size = sum(len(vector) for vector in Flat(build_model(recipe)).vectors.values())
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        folder.mkdir()
        (folder / "recipe.yaml").write_text(dump_recipe(recipe))
        grid = InProcessGrid(stand_in(torch.full((size,), 1e-3)), contexts_for([{} for _ in range(sites)]))
        config = {"folder": str(folder), "sites": sites, "tracking": "off"}
        return size, peak_of(lambda: conduct(grid, config, _quiet))


def peak_of(work: Callable[[], object]) -> int:
    """Bytes by which `work` raised this process's resident memory, by the kernel's high-water mark.

    What earlier work freed goes back to the kernel first: in memory that was kept, work would cost nothing.
    """
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    start = _status("VmRSS")
    work()
    return _status("VmHWM") - start


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def _quiet(number: int, news: SiteRound | Round) -> None:
    del number, news


def main() -> None:
    """Print one line a federation."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for sites in (8, 64):
            held = pool.apply(models_held, (sites,))
            print(f"{sites:3} sites: floor 2 models, consilium {held:.2f} models, bar 3")


if __name__ == "__main__":
    main()
