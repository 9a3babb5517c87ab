"""What a round's arithmetic costs at the server, against what it could cost.

    mean      the count-weighted owner mean of FedAvg, streaming. Floor: torch's in-place add of the
              same bytes into memory that is there already. Beside it: Flower's own weighted mean.
    server    FedAvgM, FedAdam and SCAFFOLD on the same replies, against the same floor
    median    by networks of minima and maxima, against np.median
    trimmed   the same network, against scipy's trim_mean

Times are the best of several runs taken in turn, so that a busy machine hurts all alike.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from scipy.stats import trim_mean
from torch import Tensor

from protocol.update import Update
from strategies.catalogue import STRATEGIES
from strategies.median import middle
from strategies.networks import middle_mean
from strategies.trimmed_mean import cut_of

SITES = 8
SIZE = 10_000_000  # elements: 40 MB a model
ROBUST_SIZE = 1_000_000


def best(repeats: int, *contenders: Callable[[], object]) -> list[float]:
    """Return each contender's least seconds over `repeats` turns."""
    seconds = [float("inf")] * len(contenders)
    for _ in range(repeats):
        for index, work in enumerate(contenders):
            start = time.perf_counter()
            work()
            seconds[index] = min(seconds[index], time.perf_counter() - start)
    return seconds


def vectors(size: int, sites: int = SITES) -> list[Tensor]:
    """Return one random vector a site."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator) for _ in range(sites)]


def averaging(size: int, sites: int) -> None:
    """Print the streaming rules beside the floor and Flower's mean."""
    deltas = vectors(size, sites)
    total = torch.zeros(size)
    names = ("fedavg", "fedavgm", "fedadam", "scaffold")

    def floor() -> None:
        for delta in deltas:
            total.add_(delta, alpha=3)

    def ours(name: str) -> Callable[[], object]:
        strategy = STRATEGIES[name]()
        state = strategy.init({"shared": torch.zeros(size)})
        updates = [Update({"shared": d}, {"shared": 3}, 2.0, {"control": {"shared": d}}) for d in deltas]
        return lambda: strategy.step(state, updates)

    replies = [
        RecordDict({"a": ArrayRecord({"shared": d}), "m": MetricRecord({"num-examples": 3})}) for d in deltas
    ]
    base, *us, flower = best(
        5, floor, *map(ours, names), lambda: aggregate_arrayrecords(replies, "num-examples")
    )
    title = f"{sites} sites x {size * 4 // 10**6} MB"
    print(f"{title:18} in-place add {base * 1e3:7.1f} ms = 1   flower mean {flower / base:5.2f}", end="")
    print("".join(f"   {name} {spent / base:5.2f}" for name, spent in zip(names, us, strict=True)))


def robust(sites: int, trim: float = 0.2) -> None:
    """Print median and trimmed mean beside numpy and scipy."""
    rows = vectors(ROBUST_SIZE, sites)
    table = np.stack([row.numpy() for row in rows])
    cut = cut_of(trim, sites)
    middle_of, ours_middle, trimmed, ours_trimmed = best(
        3,
        lambda: np.median(table, axis=0),
        lambda: middle(rows),
        lambda: trim_mean(table, (cut + 1e-6) / sites),
        lambda: middle_mean(rows, cut),
    )
    title = f"{sites} sites x {ROBUST_SIZE * 4 // 10**6} MB"
    print(f"{title:18} median: numpy {middle_of * 1e3:7.1f} ms, us {ours_middle * 1e3:6.1f} ms", end="")
    print(f" = {middle_of / ours_middle:5.1f} x", end="")
    print(f"   trimmed mean: scipy {trimmed * 1e3:7.1f} ms, us {ours_trimmed * 1e3:6.1f} ms", end="")
    print(f" = {trimmed / ours_trimmed:5.1f} x")


def main(counts: Sequence[int] = (4, 5, 8, 16)) -> None:
    """Print all lines."""
    print(f"threads {torch.get_num_threads()}, torch {torch.__version__}, numpy {np.__version__}")
    averaging(SIZE, SITES)
    averaging(25_000_000, 4)
    for sites in counts:
        robust(sites)


if __name__ == "__main__":
    main()
