"""What noise split over sites saves, and what it rests on.

    python -m bench.distributed_dp
    python -m bench.distributed_dp --data ../shared/data/heart4

noise      by K, the honest sites that are counted on, with K + 1 in the sum: stddev / clip_norm of what one
           site adds and of what the sum carries, when each site adds all of its own and when K split it.
           Epsilon is the same; beside it what it is for a site that finds all others dishonest
accuracy   heart disease at four hospitals, 14 parameters, one private step a round, the same epsilon: every
           site's own noise, split over 2 (sums of 3 at least), split over 3 (all four). Whole runs, every
           step of secure aggregation included
"""

import argparse
import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench.study import RECIPES, spread
from privacy.accounting import Event, alone, calibrate, epsilon
from protocol.recipe import load_recipe
from server.record import Round, SiteRound, read_record
from server.scores import mean_over_sites
from sim.run import Launch, conduct, new_run

DELTA, RATE, ROUNDS = 1e-3, 0.25, 40
EPSILONS, TIGHT = (1.0, 3.0), (0.1, 1.0)
"""Budgets of the first table and of the second: 14 parameters feel noise at small ones alone."""
SEEDS = (42, 43, 44, 45, 46)
METHODS = {
    "own noise": ["secure.clip_value=100"],
    "split over 2": ["secure.noise_over=2"],
    "split over 3": ["secure.noise_over=3", "secure.fewest=4"],
}


def noise(budget: float) -> Iterator[str]:
    """Yield one line for each K."""
    whole = Event(calibrate(budget, DELTA, RATE, ROUNDS), RATE, ROUNDS)
    z = whole.noise_multiplier
    for shares in range(2, 11):
        split, sites = z / math.sqrt(shares), shares + 1
        lone = epsilon(alone([replace(whole, shares=shares)]), DELTA)
        yield (
            f"epsilon {budget:g}   K {shares:2}   a site adds: own {z:.2f}, split {split:.2f}   "
            f"{sites:2} sites' sum: own {z * math.sqrt(sites):5.2f}, split {split * math.sqrt(sites):.2f}   "
            f"alone: epsilon {lone:.2f}"
        )


def accuracy(data: Path, overrides: list[str]) -> list[float]:
    """Return the held-out accuracy, mean over sites, of one run a seed."""
    given = ["training.steps=1", "training.rate=0.3", f"rounds={ROUNDS}", f"evaluation.every={ROUNDS}"]
    found: list[float] = []
    for seed in SEEDS:
        recipe = load_recipe(RECIPES / "heart4.yaml", [*given, *overrides, f"seed={seed}"])
        with tempfile.TemporaryDirectory() as out:
            folder = new_run(recipe, Launch(data, tracking="off", threads=1), Path(out))
            conduct(folder, recipe, _quiet)
            subsets = read_record(folder).subsets
        (shown,) = {subset for scores in subsets.values() for subset in scores}
        here = {site: scores[shown] for site, scores in subsets.items() if shown in scores}
        found.append(mean_over_sites(here, "disease/accuracy"))
    return found


def private(budget: float) -> list[str]:
    """Return the overrides that all private methods share."""
    z = calibrate(budget, DELTA, RATE, ROUNDS)
    privacy = {"epsilon": budget, "delta": DELTA, "noise_multiplier": z, "sampling_rate": RATE}
    secure = ["secure.enabled=true", "secure.threshold=0.5"]
    return [*(f"privacy.{key}={value}" for key, value in privacy.items()), *secure]


def _quiet(number: int, news: SiteRound | Round) -> None:
    del number, news


def main() -> None:
    """Print both tables, the second where there are data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the heart disease tables")
    data = parser.parse_args().data
    print(f"delta {DELTA:g}, {ROUNDS} rounds of one step, sampling rate {RATE}")
    for budget in EPSILONS:
        print("\n".join(noise(budget)))
    if data is None:
        return
    for budget in TIGHT:
        for method, overrides in METHODS.items():
            told = spread(accuracy(data, [*private(budget), *overrides]))
            print(f"accuracy at epsilon {budget:g}   {method:12}   {told}", flush=True)


if __name__ == "__main__":
    main()
