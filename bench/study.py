"""Which method does better: the same recipe with one thing changed, over several seeds.

    python -m bench.study lgg --data ../shared/data/lgg
    python -m bench.study heart --data ../shared/data/heart4
    python -m bench.study brca --data ../shared/data/tcga_brca

Every run is a whole simulated run. What is printed is the score of held-out patients with the
final parameters: the mean over sites for each modality subset, as mean over seeds with their
standard deviation, and each site's own mean. Runs are kept in `--out`, so that a study which was
stopped goes on where it stood.
"""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, fmean, stdev

from protocol.recipe import load_recipe
from server.record import Round, RunRecord, SiteRound, read_record
from server.scores import mean_over_sites
from sim.run import Launch, conduct, new_run

RECIPES = Path(__file__).parents[1] / "recipes"


@dataclass(frozen=True)
class Study:
    """Method -> (recipe file, overrides), compared by `metric` over `seeds`."""

    methods: Mapping[str, tuple[str, tuple[str, ...]]]
    metric: str
    seeds: Sequence[int]


def _private(epsilon: int) -> tuple[str, ...]:
    return (f"privacy.epsilon={epsilon}", "training.batch=8", "training.steps=4")


def _flamby(name: str, rate: float, server_rate: float) -> tuple[str, ...]:
    """FLamby's server optimisers: Adam's moments and no offset worth the name."""
    moments = ("strategy.beta_1=0.9", *(("strategy.beta_2=0.999",) if name != "fedadagrad" else ()))
    rates = (f"training.rate={rate}", f"strategy.server_rate={server_rate}")
    return (f"strategy={name}", *moments, "strategy.tau=1e-8", *rates)


STUDIES = {
    "lgg": Study(
        {
            "owners": ("lgg_seg", ()),
            "unweighted owners": ("lgg_seg", ("strategy.weights=uniform",)),
            "zero-fill FedAvg": ("lgg_seg", ("strategy.weights=zero_fill",)),
            "early fusion": ("lgg_early_fusion", ()),
            "one model a site": ("lgg_local", ()),
            "pooled": ("lgg_pooled", ()),
            # A pooled round has as many steps in a row as all sites together: 8 of them have as many as
            # the largest site takes in 20.
            "steps of a site, pooled": ("lgg_pooled", ("rounds=8",)),
            "three times longer, owners": ("lgg_seg", ("rounds=60",)),
            "owners, epsilon 8": ("lgg_seg", _private(8)),
            "owners, epsilon 3": ("lgg_seg", _private(3)),
            "by group, epsilon 8": ("lgg_seg", (*_private(8), "privacy.clipping=per_group")),
            "by group, epsilon 3": ("lgg_seg", (*_private(3), "privacy.clipping=per_group")),
        },
        "tumour/dice",
        (42, 43, 44),
    ),
    "heart": Study(
        {
            "fedavg": ("heart4", ()),
            "fedadagrad": ("heart4", _flamby("fedadagrad", 10**-2.5, 10**-0.5)),
            "fedadam": ("heart4", _flamby("fedadam", 0.01, 0.01)),
            "fedyogi": ("heart4", _flamby("fedyogi", 10**-2.5, 0.01)),
            "fedprox": ("heart4", ("strategy=fedprox", "strategy.mu=0.01")),
            "scaffold": ("heart4", ("strategy=scaffold",)),
            "fednova": ("heart4", ("strategy=fednova",)),
            "fedavgm": ("heart4", ("strategy=fedavgm",)),
            "ditto": ("heart4", ("strategy=ditto",)),
            "local": ("heart4", ("strategy=local",)),
            "pooled": ("heart4", ("roster.train=[pooled]",)),
            "private epsilon 10": ("heart4", ("privacy.epsilon=10", "privacy.delta=0.001")),
            "private epsilon 1": ("heart4", ("privacy.epsilon=1", "privacy.delta=0.001")),
            "private epsilon 0.1": ("heart4", ("privacy.epsilon=0.1", "privacy.delta=0.001")),
        },
        "disease/accuracy",
        (42, 43, 44, 45, 46),
    ),
    "brca": Study(
        {
            "fedavg": ("tcga_brca", ()),
            "fedadam": ("tcga_brca", _flamby("fedadam", 0.01, 0.1)),
            "fedyogi": ("tcga_brca", _flamby("fedyogi", 0.01, 0.1)),
            "fedadagrad": ("tcga_brca", _flamby("fedadagrad", 0.01, 1)),
            "scaffold": ("tcga_brca", ("strategy=scaffold",)),
            "local": ("tcga_brca", ("strategy=local",)),
            "pooled": ("tcga_brca", ("roster.train=[pooled]",)),
        },
        "death/c_index",
        (42, 43, 44, 45, 46),
    ),
}


def main() -> None:
    """Run a study and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("methods", nargs="*", help="only methods whose name starts so")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    study = STUDIES[asked.study]
    chosen = [m for m in study.methods if not asked.methods or m.startswith(tuple(asked.methods))]
    jobs = [(asked.study, m, seed, asked.data, asked.out) for m in chosen for seed in study.seeds]
    with ProcessPoolExecutor(asked.workers) as pool:
        records = dict(zip([job[1:3] for job in jobs], pool.map(one, *zip(*jobs, strict=True)), strict=True))
    for method in chosen:
        for line in lines(method, [records[method, seed] for seed in study.seeds], study.metric):
            print(line)


def one(name: str, method: str, seed: int, data: Path, out: Path) -> RunRecord:
    """Return the record of one run, made now or before."""
    study = STUDIES[name]
    file, overrides = study.methods[method]
    place = out / name / method.replace(" ", "-").replace(",", "") / str(seed)
    for before in place.glob("*/record.json"):
        if (record := read_record(before.parent)).status == "finished":
            return record
    recipe = load_recipe(RECIPES / f"{file}.yaml", ["evaluation.every=5", *overrides, f"seed={seed}"])
    folder = new_run(recipe, Launch(data, tracking="off", threads=1), place)
    conduct(folder, recipe, _quiet)
    print(f"  {method}, seed {seed}: done", flush=True)
    return read_record(folder)


def lines(method: str, records: Sequence[RunRecord], metric: str) -> Iterator[str]:
    """Yield one line a modality subset, then one a site for the richest subset."""
    subsets = sorted({s for r in records for scores in r.subsets.values() for s in scores}, key=_size)
    for subset in subsets:
        means = [
            mean_over_sites({s: v[subset] for s, v in r.subsets.items() if subset in v}, metric)
            for r in records
        ]
        yield f"{method:20} {subset:18} {spread(means)}"
    for site in sorted(records[0].subsets):
        tallies = [r.subsets[site][subsets[-1]][metric] for r in records if subsets[-1] in r.subsets[site]]
        if tallies:
            values = [tally.value for tally in tallies]
            yield f"{'':20}   {site:16} {spread(values)}   {interval(fmean(values), tallies[0].count)}"


def spread(values: Sequence[float]) -> str:
    """Say the mean and standard deviation over seeds."""
    return f"{fmean(values):.4f} +- {stdev(values) if len(values) > 1 else 0:.4f}"


def interval(share: float, cases: float) -> str:
    """Say Wilson's 95 % interval of a share of `cases`."""
    z = NormalDist().inv_cdf(0.975)
    middle = (share + z * z / (2 * cases)) / (1 + z * z / cases)
    half = z / (1 + z * z / cases) * math.sqrt(share * (1 - share) / cases + z * z / (4 * cases * cases))
    return f"[{middle - half:.3f}, {middle + half:.3f}] n={cases:g}"


def _size(subset: str) -> tuple[int, str]:
    return subset.count("+"), subset


def _quiet(number: int, news: SiteRound | Round) -> None:
    del number, news


if __name__ == "__main__":
    main()
