"""Which method does better: the same recipe with one thing changed, over several seeds.

    python -m bench.study lgg --data ../shared/data/lgg
    python -m bench.study heart --data ../shared/data/heart4
    python -m bench.study brca --data ../shared/data/tcga_brca

The lists of methods are here; how they are run, scored, compared and resumed is that of
`consilium bench methods` (`sim.comparison`). Gains are over the first method of the list.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from protocol.recipe import load_recipe
from server.book import Watch
from server.ranking import lines, markdown
from server.record import Round, SiteRound
from sim.assessment import Effort
from sim.comparison import Plan, compared

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
            "early fusion": ("lgg_early_fusion", ()),
            "owners": ("lgg_seg", ()),
            "unweighted owners": ("lgg_seg", ("strategy.weights=uniform",)),
            "zero-fill FedAvg": ("lgg_seg", ("strategy.weights=zero_fill",)),
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
    asked = parser.parse_args()
    study = STUDIES[asked.study]
    recipes = {
        label: load_recipe(RECIPES / f"{file}.yaml", ["evaluation.every=5", *overrides])
        for label, (file, overrides) in study.methods.items()
        if not asked.methods or label.startswith(tuple(asked.methods))
    }
    plan = Plan(asked.out, Effort())
    found = compared(recipes, (asked.study, asked.data), study.seeds, plan, lambda cell: _told(cell.label))
    print(markdown(lines(found, study.metric, next(iter(recipes))), study.metric))


def spread(values: Sequence[float]) -> str:
    """Say the mean and standard deviation over seeds."""
    return f"{fmean(values):.4f} +- {stdev(values) if len(values) > 1 else 0:.4f}"


def _told(label: str) -> Watch:
    def watch(number: int, news: SiteRound | Round) -> None:
        if isinstance(news, Round):
            print(f"  {label}: round {number}", flush=True)

    return watch


if __name__ == "__main__":
    main()
