"""The same recipe over running processes and in one process: what the deployment costs, and where.

    A         4-modality 2D U-Net, 80 slices of 64x64 a site, batch 16, 5 rounds
    trivial   14 parameters, one step: what a round costs when nothing is learned
    100       100 MB of parameters, one step
    400       400 MB of parameters, one step

Server and sites are founded and started as tests/deploy does: TLS on the loopback interface, node
authentication, warm workers. Data, recipe and start are those of the run in one process. Printed are

    seconds   of a round in both (the median, without checkpoints), and the ratio
    CPU       seconds of all processes over the whole run, in both, and the ratio
    stages    of a training task, means over sites and rounds, from the sites' logs
    processes their CPU seconds over the run, their highest resident memory, and what of that is more than
              they had before it, in models
    plain     Flower's FedAvg with a model of the same size, on the same machine (`bench.plain_flower`)

    python -m bench.deployment [--sites 2,4,8] [--alone] [JOB...]      --alone: without plain Flower
"""

import argparse
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median

from bench.plain_flower import plain
from client.app import app as client_app
from client.machine import read_machine
from client.settings import Settings, to_node_config
from protocol.children import kept
from protocol.recipe import Recipe, load_recipe
from server.app import conduct
from server.book import write_recipe
from server.folders import Wanted, read_submission, status_of
from server.operate_cli import CATALOGUES, begin
from server.record import Round, RunRecord, SiteRound, read_record
from sim.inprocess import InProcessGrid, contexts_for
from sim.phantom import write_phantom
from tests.deploy.federation import POLICY, ROOT, Federation, free_port

MLP = ("model.name=table_mlp", "training.steps=1", "rounds=3")
UNET = ("model.name=early_fusion_unet", "model.channels=[24,48,96,192]", "data.size=[64,64]", "rounds=5")
JOBS = {
    "A": ("phantom", *UNET, "training.epochs=1", "training.batch=16", "evaluation.subsets=false"),
    "trivial": ("heart4", "training.steps=1", "rounds=10"),
    "100": ("heart4", *MLP, "model.hidden=[4980,4980]"),
    "400": ("heart4", *MLP, "model.hidden=[9990,9990]"),
}
SMALL = ("trivial", "100")
APPLICATION = "server application"
PATIENTS, SIZE = 10, 64
LONGEST_S = 3600.0
LARGE_BYTES = 10_000_000
FLOATS = {"trivial": 14, "100": 25_000_000, "400": 100_000_000}
"""Parameters of the jobs that are about their number."""
STAGES = {
    "taken": "site takes the task",
    "answered": "site answers: trains, or scores",
    "given": "site gives the reply",
}
"""How a site's log calls a stage of a task -> what it is."""
_MEMORY = re.compile(r"(VmHWM|VmRSS):\s+(\d+) kB")
_LINE = re.compile(r"train, round \d+: taken in ([\d.]+) s, answered in ([\d.]+) s, given in ([\d.]+) s")


@dataclass(frozen=True)
class Used:
    """CPU seconds, and the highest and the present resident memory in bytes."""

    cpu: float
    peak: int
    resident: int


def recipe_of(job: str) -> Recipe:
    """Return a job's recipe."""
    name, *overrides = JOBS[job]
    return load_recipe(ROOT / "recipes" / f"{name}.yaml", overrides, CATALOGUES)


def write_data(folder: Path, sites: int) -> None:
    """Write what both recipes read, for every site: phantoms, and a table of hearts that beat at random."""
    write_phantom(folder, sites=sites, patients=PATIENTS, size=SIZE, seed=1)
    rows = [f"{40 + n % 40},{n % 2},1,130,220,0,0,140,{n % 3 % 2},1,1,0,3,{n % 2}" for n in range(48)]
    for number in range(1, sites + 1):
        (folder / f"site_{number}" / "processed.cleveland.data").write_text("\n".join(rows))


def deployed(federation: Federation, recipe: Recipe) -> tuple[Path, dict[str, Used]]:
    """Run over the processes; return the run's folder and what each process used."""
    before = dict(looked(federation))
    for pid, _ in before.values():
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    wanted = Wanted(going=True, sites=len(federation.names), tracking="off")
    run = begin(federation.coordinator, recipe, wanted)
    conductor = federation.conductor(run)
    last = Used(0.0, 0, 0)

    def over() -> bool:
        nonlocal last
        if (found := used(conductor)) is not None:
            last = found
            return False
        submitted = read_submission(run)
        if status_of(run) == "finished":
            return True
        if submitted and submitted.why:
            raise RuntimeError(f"{run.name} ended: {submitted.why}\n{federation.logs()}")
        return False

    federation.until(over, "the run is finished", LONGEST_S)
    now = {name: found for name, (_, found) in looked(federation)}
    spent = {name: replace(found, cpu=found.cpu - before[name][1].cpu) for name, found in now.items()}
    return run, {APPLICATION: last, **spent}


def looked(federation: Federation) -> Iterator[tuple[str, tuple[int, Used]]]:
    """Yield every process that lasts: who it is, its number and what it has used so far."""
    homes = {"server": federation.coordinator.state} | {s: federation.site(s).state for s in federation.names}
    for owner, state in homes.items():
        for each in kept(state):
            if each.pid and (found := used(each.pid)):
                yield f"{owner} {each.name}", (each.pid, found)
    for site in federation.names:
        worker = federation.worker(site)
        if found := used(worker):
            yield f"{site} worker", (worker, found)


def used(pid: int) -> Used | None:
    """Return what a process has used; None where it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        told = {name: 1024 * int(kilobytes) for name, kilobytes in _MEMORY.findall(status)}
    except (FileNotFoundError, ProcessLookupError):
        return None
    ticks = int(fields[11]) + int(fields[12])
    return Used(ticks / os.sysconf("SC_CLK_TCK"), told["VmHWM"], told["VmRSS"]) if told else None


def in_process(federation: Federation, recipe: Recipe, folder: Path) -> RunRecord:
    """Run the same in this process, on the sites' own data."""
    write_recipe(folder, recipe)
    data = {name: read_machine(federation.site(name)).data for name in federation.names}
    settings = [Settings(name, data[name], folder / "sites" / name, threads=1) for name in federation.names]
    grid = InProcessGrid(client_app, contexts_for(map(to_node_config, settings)))
    return conduct(grid, {"folder": str(folder), "sites": len(federation.names), "tracking": "off"}, _quiet)


def stages(federation: Federation, run: Path) -> Mapping[str, float]:
    """Return the mean seconds of each stage of the run's training tasks; last: what is left of the round."""
    rounds = read_record(run).rounds
    told = [_LINE.findall(federation.said(site))[-len(rounds) :] for site in federation.names]
    laps = [[float(lap) for lap in line] for lines in told for line in lines]
    means = dict(zip(STAGES.values(), map(fmean, zip(*laps, strict=True)), strict=True))
    whole = fmean(each.seconds["train"] for each in rounds)
    return {**means, "the rest: server, and waiting": whole - sum(means.values())}


def seconds_of(record: RunRecord) -> float:
    """Return the median seconds of a round, without its checkpoint."""
    laps = [each.seconds for each in record.rounds]
    return median(lap["train"] + lap.get("evaluate", 0.0) for lap in laps)


def report(job: str, federation: Federation, folder: Path, empty: int, *, beside: bool) -> Iterator[str]:
    """Run a job every way, and yield the lines of its report.

    `empty`: resident bytes of a server application that has sent and taken nothing but a trivial model.
    """
    recipe, before = recipe_of(job), dict(looked(federation))
    run, spent = deployed(federation, recipe)
    began, cpu = time.perf_counter(), time.process_time()
    alone = in_process(federation, recipe, folder / f"alone-{job}")
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    base, us = seconds_of(alone), seconds_of(read_record(run))
    yield (
        f"{job}, {len(federation.names)} sites: in process {base:.3f} s/round (run {wall:.1f} s), "
        f"deployed {us:.3f} s/round, ratio {us / base:.1f}"
    )
    whole = sum(each.cpu for each in spent.values())
    yield f"    CPU: in process {cpu:.1f} s, deployed {whole:.1f} s, ratio {whole / cpu:.2f}"
    for name, seconds in stages(federation, run).items():
        yield f"    {name:36} {seconds:8.3f} s"
    for name, each in spent.items():
        had = before[name][1].resident if name in before else empty
        yield f"    {name:36} {each.cpu:8.1f} CPU s {each.peak / 1e6:8.0f} MB" + _models(job, each.peak - had)
    if beside and job in FLOATS:
        other = plain(federation, federation.names, FLOATS[job], recipe.rounds, folder / f"plain-{job}")
        yield f"    plain Flower {other.seconds:.3f} s/round, ratio of ours to it {us / other.seconds:.2f}"
        yield from (f"    plain {name:30} {peak / 1e6:8.0f} MB" for name, peak in sorted(other.peaks.items()))


def _models(job: str, more: int) -> str:
    size = 4 * FLOATS.get(job, 0)
    return f", {max(more, 0) / size:.1f} models more than before" if size > LARGE_BYTES else ""


def _quiet(number: int, news: SiteRound | Round) -> None:
    del number, news


def measure(job_names: Sequence[str], sites: int, *, beside: bool) -> None:
    """Found a federation, warm it with a run that is not counted, and print what each job costs."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        names = [f"site_{number}" for number in range(1, sites + 1)]
        federation = Federation(folder, free_port()).found(names)
        for name in names:  # 400 MB are more than a site lets out unless it is told to
            federation.site(name).policy.write_text(
                POLICY.replace("leaves: {", "leaves: {largest_message_bytes: null, ")
            )
        write_data(folder / "data", sites)
        federation.start("server", *names)
        try:
            federation.until_connected(*names)
            _, warm = deployed(federation, recipe_of("trivial"))
            for job in job_names:
                print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
                for line in report(job, federation, folder, warm[APPLICATION].peak, beside=beside):
                    print(line, flush=True)
        finally:
            federation.stop()


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("jobs", nargs="*", choices=[*JOBS, []], default=list(SMALL))
    parser.add_argument("--sites", default="2", help="how many, e.g. 2,4,8")
    parser.add_argument("--alone", action="store_true", help="without plain Flower beside us")
    asked = parser.parse_args()
    for sites in map(int, asked.sites.split(",")):
        measure(asked.jobs, sites, beside=not asked.alone)


if __name__ == "__main__":
    main()
