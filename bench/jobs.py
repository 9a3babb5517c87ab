"""Whole runs against a hand-written loop with the same arithmetic.

    A         4-modality 2D U-Net, 8 sites x 64 slices of 64x64, batch 16, 5 rounds
    trivial   a 14-parameter model, 8 sites: what a round costs when nothing is learned
    thousand  1,000 sites of a 50 k-parameter model
    big       100 MB of parameters, 4 sites, one step each

The floor is what a researcher would write without any platform: one model, `load_state_dict`,
a loop over sites, a running weighted mean, and validation after each round. It uses the same
network, loss and optimiser, so what the ratio shows is the platform alone: messages, checks,
aggregation, record. Us includes the Flower messages and the run folder; checkpoint and
tracking are timed apart, since the floor keeps nothing.
"""

import copy
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from client.app import app as client_app
from client.settings import Settings, to_node_config
from imaging.cohort import Cohort
from imaging.sources import SITES, SOURCES
from models.catalogue import build_model, build_objectives
from models.metrics import measure
from models.objectives import total_loss
from protocol.batch import Batch
from protocol.recipe import Head, Modality, Part, Recipe, Training, dump_recipe
from server.app import conduct
from server.record import Round, RunRecord, SiteRound
from sim.inprocess import InProcessGrid, contexts_for
from sim.run import introduce

IMAGES = ("flair", "t1", "t1c", "t2")


@dataclass(frozen=True)
class Job:
    """One benchmark: a recipe, its sites, how many cases each has, and how often it is run."""

    recipe: Recipe
    sites: int
    cases: int
    shape: tuple[int, ...]
    repeats: int = 3


def jobs() -> dict[str, Job]:
    """Return the four jobs by name."""
    images = {name: Modality() for name in IMAGES}
    table = {"table": Modality("table", 13)}
    tumour = {"tumour": Head("segmentation", 1, Part("dice_ce"))}
    label = {"label": Head("classification", 1, Part("bce"))}
    # Modalities as channels: a parallel U-Net computes four times as long, and hides what a platform costs.
    unet = Part("early_fusion_unet", {"channels": (24, 48, 96, 192)})
    a = Recipe("job_a", images, tumour, Part("bench"), unet, rounds=5, training=Training(rate=0.01))
    trivial = Recipe("trivial", table, label, Part("bench"), Part("table_linear"), rounds=20)
    mlp = Part("table_mlp", {"hidden": (220, 200)})
    thousand = replace(trivial, name="thousand", model=mlp, rounds=2, training=Training(batch=8))
    big = replace(
        trivial,
        name="big",
        model=Part("table_mlp", {"hidden": (4980, 4980)}),
        rounds=3,
        training=Training(steps=1),
    )
    return {
        "A": Job(a, 8, 64, (1, 64, 64)),
        "trivial": Job(trivial, 8, 16, (13,)),
        "thousand": Job(thousand, 1000, 40, (13,)),
        "big": Job(big, 4, 16, (13,)),
    }


def cohort(job: Job, site: str) -> Cohort:
    """Return random cases of the job's shape, a quarter of them for validation besides."""
    generator = torch.Generator().manual_seed(int(site[1:]))
    total = job.cases + job.cases // 4
    names = tuple(job.recipe.modalities)
    inputs = {name: torch.randn(total, *job.shape, generator=generator) for name in names}
    first = next(iter(inputs.values()))
    head, spec = next(iter(job.recipe.heads.items()))
    target = (first > 0).float() if spec.kind == "segmentation" else (first[:, 0] > 0).long()
    cases = Batch(
        inputs,
        torch.ones(total, len(names), dtype=torch.bool),
        {head: target},
        {head: torch.ones(total).bool()},
    )
    split = (torch.arange(total) >= job.cases).long()
    return Cohort(site, names, tuple(map(str, range(total))), torch.arange(total), split, cases, None)


def floor(job: Job, cohorts: list[Cohort]) -> Mapping[str, Tensor]:
    """Federated averaging as a plain loop; returns the final parameters."""
    recipe, model, objectives = job.recipe, build_model(job.recipe), build_objectives(job.recipe)
    state = copy.deepcopy(model.state_dict())
    for _ in range(recipe.rounds):
        total = {name: torch.zeros_like(value) for name, value in state.items()}
        weight = 0
        for site in cohorts:
            model.load_state_dict(state)
            train_plainly(model, site, recipe, objectives)
            rows = len(site.rows("train"))
            for name, value in model.state_dict().items():
                total[name].add_(value, alpha=rows)
            weight += rows
        state = {name: value / weight for name, value in total.items()}
        model.load_state_dict(state)
        for site in cohorts:
            validate_plainly(model, site, recipe)
    return state


def train_plainly(model: nn.Module, site: Cohort, recipe: Recipe, objectives: Mapping[str, object]) -> None:
    """One site's epoch, without a platform."""
    model.train()
    training, rows = recipe.training, site.rows("train")
    optimiser = torch.optim.SGD(model.parameters(), training.rate)
    order = rows[torch.randperm(len(rows))]
    batches = list(order.split(training.batch))
    for picked in batches[: training.steps or len(batches)]:
        batch = site.cases.map(lambda x, picked=picked: x[picked])
        optimiser.zero_grad()
        total_loss(model(batch), batch, recipe.heads, objectives).backward()
        optimiser.step()


@torch.inference_mode()
def validate_plainly(model: nn.Module, site: Cohort, recipe: Recipe) -> None:
    """One site's validation, without a platform."""
    model.eval()
    rows = site.rows("validation")
    batch = site.cases.map(lambda x: x[rows])
    for head, logits in model(batch).items():
        measure(recipe.heads[head], logits, batch.targets[head], site.patient[rows], None)


def ours(job: Job, cohorts: list[Cohort], tracking: str = "off") -> RunRecord:
    """The same job through messages, admission, aggregation and the run folder."""
    held = {site.site: site for site in cohorts}

    def read(root: Path, recipe: Recipe, site: str) -> Cohort:
        del root, recipe
        return held[site]

    def sites(root: Path, recipe: Recipe) -> list[str]:
        del root, recipe
        return list(held)

    SOURCES["bench"], SITES["bench"] = read, sites
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / job.recipe.name
        folder.mkdir()
        (folder / "recipe.yaml").write_text(dump_recipe(job.recipe))
        pins = introduce(folder, held) if job.recipe.secure.enabled else None
        settings = [Settings(s, Path(place), folder / "sites" / s, (s,), federation=pins) for s in held]
        grid = InProcessGrid(client_app, contexts_for(map(to_node_config, settings)))
        return conduct(grid, {"folder": str(folder), "sites": len(held), "tracking": tracking}, _quiet)


def timed(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(name: str, job: Job) -> str:
    """Run floor and us in turn and return a line: seconds a round, ratio of the medians."""
    cohorts = [cohort(job, f"s{index}") for index in range(job.sites)]
    floors, rounds, sites, disk = [], [], [], []
    for _ in range(job.repeats):
        floors.append(timed(lambda: floor(job, cohorts)) / job.recipe.rounds)
        record = ours(job, cohorts)
        laps = [r.seconds for r in record.rounds]
        rounds.append(sum(lap["train"] + lap["evaluate"] for lap in laps) / len(laps))
        sites.append(sum(site.seconds for r in record.rounds for site in r.sites) / len(laps))
        disk.append(sum(lap["checkpoint"] for lap in laps) / len(laps))
    base, us, own, saved = (sorted(values)[job.repeats // 2] for values in (floors, rounds, sites, disk))
    return (
        f"{name:10} floor {base:8.4f} s/round   consilium {us:8.4f} s/round   ratio {us / base:6.2f}"
        f"   (of it sites' training {own:.4f} s; + checkpoint {saved:.4f} s)"
    )


def _quiet(number: int, news: SiteRound | Round) -> None:
    del number, news


def main(names: list[str]) -> None:
    """Print one line a job."""
    print(f"threads {torch.get_num_threads()}, torch {torch.__version__}")
    for name, job in jobs().items():
        if not names or name in names:
            print(compare(name, job), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
