"""Starting and going on with a simulated run.

    data folder --list_sites--> settings, one a site --engine--> Grid --> server.app.conduct

The run folder holds the recipe (what) and `launch.json` (where and how on this machine), so
that `resume` needs nothing but the folder.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from client.app import app as client_app
from client.settings import Settings, to_node_config
from imaging.sources import list_sites
from privacy.keys import COORDINATOR_KEY, FEDERATION, SITE_KEY, Pins, make_signer, write_pins
from protocol import files
from protocol.errors import SettingsError
from protocol.recipe import Recipe
from server.app import build_app
from server.book import Watch, new_folder
from sim.cluster import run_on_ray
from sim.inprocess import InProcessGrid, contexts_for
from sim.processes import ProcessGrid

POOLED = "pooled"


@dataclass(frozen=True)
class Launch:
    """How a run is simulated on this machine."""

    data: Path
    engine: str = "inprocess"
    tracking: str = ""
    device: str = "cpu"
    threads: int = 0
    policy: str = ""


def new_run(recipe: Recipe, launch: Launch, out: Path) -> Path:
    """Create the folder of a new run and return it; refuses what cannot start."""
    if launch.engine not in ENGINES:
        msg = f"engine '{launch.engine}' is not known: choose one of {', '.join(ENGINES)}"
        raise SettingsError(msg)
    list_sites(launch.data, recipe)
    policy = str(Path(launch.policy).resolve()) if launch.policy else ""
    folder = new_folder(recipe, out)
    threads = launch.threads or os.cpu_count() or 1  # fixed now: engines agree to the last bit
    plain = {**vars(launch), "data": str(launch.data.resolve()), "threads": threads, "policy": policy}
    files.write_text(folder / "launch.json", json.dumps(plain, indent=1))
    return folder


def conduct(folder: Path, recipe: Recipe, watch: Watch) -> None:
    """Run the folder's recipe to its end, from wherever it stands."""
    launch = read_launch(folder)
    torch.set_num_threads(launch.threads)
    sites = settings_for(folder, recipe, launch)
    config = {"folder": str(folder), "sites": len(sites), "tracking": launch.tracking}
    ENGINES[launch.engine](build_app(watch), sites, config)


def read_launch(folder: Path) -> Launch:
    """Read how a run was launched; `SettingsError` when the folder is not a simulated run."""
    path = folder / "launch.json"
    if not path.exists():
        msg = f"{folder} is not a simulated run (no launch.json): see `consilium run list`"
        raise SettingsError(msg)
    plain = json.loads(path.read_text(encoding="utf-8"))
    return Launch(data=Path(plain.pop("data")), **plain)


def settings_for(folder: Path, recipe: Recipe, launch: Launch) -> list[Settings]:
    """Return the settings of every simulated site, and of `pooled` where the recipe asks for it."""
    parts: dict[str, tuple[str, ...]] = {site: (site,) for site in list_sites(launch.data, recipe)}
    if POOLED in recipe.roster.train:
        parts[POOLED] = tuple(parts)
    signed = recipe.privacy.epsilon is not None or recipe.secure.enabled
    pins = introduce(folder, parts) if signed else None
    return [
        Settings(
            site,
            launch.data,
            folder / "sites" / site,
            part,
            launch.device,
            launch.threads,
            Path(launch.policy) if launch.policy else None,
            federation=pins,
        )
        for site, part in parts.items()
    ]


def introduce(folder: Path, sites: Iterable[str]) -> Path:
    """Make the key of the coordinator and of every site, once; return the file that all know them by."""
    path = folder / FEDERATION
    if not path.exists():
        keys = {site: make_signer(folder / "sites" / site / SITE_KEY).public for site in sites}
        write_pins(path, Pins(make_signer(folder / COORDINATOR_KEY).public, keys))
    return path


def in_process(server: ServerApp, sites: Sequence[Settings], config: Mapping[str, str | int]) -> None:
    """Run everything in this process."""
    server(InProcessGrid(client_app, contexts_for(map(to_node_config, sites))), server_context(config))


def in_processes(server: ServerApp, sites: Sequence[Settings], config: Mapping[str, str | int]) -> None:
    """Run every site in a process of its own."""
    with closing(ProcessGrid(contexts_for(map(to_node_config, sites)))) as grid:
        server(grid, server_context(config))


def on_ray(server: ServerApp, sites: Sequence[Settings], config: Mapping[str, str | int]) -> None:
    """Run under Flower's simulation engine on Ray."""
    configured = ServerApp()

    @configured.main()
    def main(grid: Grid, context: Context) -> None:
        context.run_config = dict(config)
        server(grid, context)

    run_on_ray(configured, sites)


ENGINES: dict[str, Callable[[ServerApp, Sequence[Settings], Mapping[str, str | int]], None]] = {
    "inprocess": in_process,
    "processes": in_processes,
    "ray": on_ray,
}


def server_context(config: Mapping[str, str | int]) -> Context:
    """Return the context in which a ServerApp finds `config`."""
    return Context(1, 1, {}, RecordDict(), dict(config))
