"""The same recipe over running processes and in one process: what the deployment costs, and where.

    A         4-modality 2D U-Net, 2 sites x 80 slices of 64x64, batch 16, 5 rounds
    trivial   14 parameters, one step: what a round costs when nothing is learned
    100       100 MB of parameters, one step
    400       400 MB of parameters, one step

Server and two sites are founded and started as tests/deploy does: TLS on the loopback interface, node
authentication, warm workers. Data, recipe and start are those of the run in one process. Printed are

    seconds   of a round in both (the median, without checkpoints), and the ratio
    stages    of a training task, means over sites and rounds, from the sites' logs
    processes their CPU seconds over the whole run, and their highest resident memory while it lasted

    python -m bench.deployment [JOB...]
"""

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from client.app import app as client_app
from client.machine import read_machine
from client.settings import Settings, to_node_config
from protocol.children import kept
from protocol.recipe import Recipe, load_recipe
from server.app import conduct
from server.book import write_recipe
from server.operate_cli import CATALOGUES, begin
from server.record import Round, RunRecord, SiteRound, read_record
from server.runs import Wanted, status_of
from sim.inprocess import InProcessGrid, contexts_for
from sim.phantom import write_phantom
from tests.deploy.federation import ROOT, SITES, Federation, free_port

MLP = ("model.name=table_mlp", "training.steps=1", "rounds=3")
UNET = ("model.name=early_fusion_unet", "model.channels=[24,48,96,192]", "data.size=[64,64]", "rounds=5")
JOBS = {
    "A": ("phantom", *UNET, "training.epochs=1", "training.batch=16", "evaluation.subsets=false"),
    "trivial": ("heart4", "training.steps=1", "rounds=10"),
    "100": ("heart4", *MLP, "model.hidden=[4980,4980]"),
    "400": ("heart4", *MLP, "model.hidden=[9990,9990]"),
}
PATIENTS, SIZE = 10, 64
LONGEST_S = 3600.0
STAGES = {
    "taken": "site takes the task",
    "answered": "site answers: trains, or scores",
    "given": "site gives the reply",
}
"""How a site's log calls a stage of a task -> what it is."""
_LINE = re.compile(r"train, round \d+: taken in ([\d.]+) s, answered in ([\d.]+) s, given in ([\d.]+) s")


@dataclass(frozen=True)
class Used:
    """CPU seconds, and the highest resident memory in bytes."""

    cpu: float
    peak: int


def recipe_of(job: str) -> Recipe:
    """Return a job's recipe."""
    name, *overrides = JOBS[job]
    return load_recipe(ROOT / "recipes" / f"{name}.yaml", overrides, CATALOGUES)


def write_data(folder: Path) -> None:
    """Write what both recipes read, for every site: phantoms, and a table of hearts that beat at random."""
    write_phantom(folder, sites=len(SITES), patients=PATIENTS, size=SIZE, seed=1)
    rows = [f"{40 + n % 40},{n % 2},1,130,220,0,0,140,{n % 3 % 2},1,1,0,3,{n % 2}" for n in range(48)]
    for number in range(1, len(SITES) + 1):
        (folder / f"site_{number}" / "processed.cleveland.data").write_text("\n".join(rows))


def deployed(federation: Federation, recipe: Recipe) -> tuple[Path, dict[str, Used]]:
    """Run over the processes; return the run's folder and what each process used."""
    before = dict(looked(federation))
    for pid, _ in before.values():
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    run = begin(federation.coordinator, recipe, Wanted(going=True, sites=len(SITES), tracking="off"))
    conductor = federation.conductor(run)
    last = Used(0.0, 0)

    def over() -> bool:
        nonlocal last
        last = used(conductor) or last
        return status_of(run) == "finished"

    federation.until(over, "the run is finished", LONGEST_S)
    spent = {name: Used(now.cpu - before[name][1].cpu, now.peak) for name, (_, now) in looked(federation)}
    return run, {"server application": last, **spent}


def looked(federation: Federation) -> Iterator[tuple[str, tuple[int, Used]]]:
    """Yield every process that lasts: who it is, its number and what it has used so far."""
    homes = {"server": federation.coordinator.state} | {s: federation.site(s).state for s in SITES}
    for owner, state in homes.items():
        for each in kept(state):
            if each.pid and (found := used(each.pid)):
                yield f"{owner} {each.name}", (each.pid, found)
    for site in SITES:
        worker = federation.worker(site)
        if found := used(worker):
            yield f"{site} worker", (worker, found)


def used(pid: int) -> Used | None:
    """Return what a process has used; None where it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        peak = re.search(r"VmHWM:\s+(\d+)", status)
    except (FileNotFoundError, ProcessLookupError):
        return None
    ticks = int(fields[11]) + int(fields[12])
    return Used(ticks / os.sysconf("SC_CLK_TCK"), 1024 * int(peak[1])) if peak else None


def in_process(federation: Federation, recipe: Recipe, folder: Path) -> RunRecord:
    """Run the same in this process, on the sites' own data."""
    write_recipe(folder, recipe)
    data = {name: read_machine(federation.site(name)).data for name in SITES}
    settings = [Settings(name, data[name], folder / "sites" / name, threads=1) for name in SITES]
    grid = InProcessGrid(client_app, contexts_for(map(to_node_config, settings)))
    return conduct(grid, {"folder": str(folder), "sites": len(SITES), "tracking": "off"}, _quiet)


def stages(federation: Federation, run: Path) -> Mapping[str, float]:
    """Return the mean seconds of each stage of the run's training tasks; last: what is left of the round."""
    rounds = read_record(run).rounds
    told = [_LINE.findall(federation.said(site))[-len(rounds) :] for site in SITES]
    laps = [[float(lap) for lap in line] for lines in told for line in lines]
    means = dict(zip(STAGES.values(), map(fmean, zip(*laps, strict=True)), strict=True))
    whole = fmean(each.seconds["train"] for each in rounds)
    return {**means, "the rest: server, and waiting": whole - sum(means.values())}


def seconds_of(record: RunRecord) -> float:
    """Return the median seconds of a round, without its checkpoint."""
    laps = [each.seconds for each in record.rounds]
    return median(lap["train"] + lap.get("evaluate", 0.0) for lap in laps)


def report(job: str, federation: Federation, folder: Path) -> Iterator[str]:
    """Run a job both ways, and yield the lines of its report."""
    recipe = recipe_of(job)
    run, spent = deployed(federation, recipe)
    began, cpu = time.perf_counter(), time.process_time()
    alone = in_process(federation, recipe, folder / f"alone-{job}")
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    base, us = seconds_of(alone), seconds_of(read_record(run))
    yield (
        f"{job}: in process {base:.3f} s/round (run {wall:.1f} s, {cpu:.1f} CPU s), "
        f"deployed {us:.3f} s/round, ratio {us / base:.1f}"
    )
    for name, seconds in stages(federation, run).items():
        yield f"    {name:36} {seconds:8.3f} s"
    for name, each in spent.items():
        yield f"    {name:36} {each.cpu:8.1f} CPU s {each.peak / 1e6:8.0f} MB"


def _quiet(number: int, news: SiteRound | Round) -> None:
    del number, news


def main(names: list[str]) -> None:
    """Found a federation, warm it with a run that is not counted, and print what each job costs."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        federation = Federation(folder, free_port()).found()
        write_data(folder / "data")
        federation.start("server", *SITES)
        try:
            federation.until_connected(*SITES)
            deployed(federation, recipe_of("trivial"))
            for job in names or list(JOBS):
                print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
                print("\n".join(report(job, federation, folder)), flush=True)
        finally:
            federation.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
