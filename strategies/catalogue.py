"""Every strategy by its name in a recipe; a builder's keyword-only parameters are its options."""

from collections.abc import Callable

from strategies.base import Strategy
from strategies.ditto import ditto
from strategies.dp_fedavg import dp_fedavg
from strategies.fedamm import fedamm
from strategies.fedavg import fedavg
from strategies.fedavgm import fedavgm
from strategies.fedbn import fedbn
from strategies.fedmema import fedmema
from strategies.fedmepd import fedmepd
from strategies.fedmsplit import fedmsplit
from strategies.fednova import fednova
from strategies.fedopt import fedadagrad, fedadam, fedyogi
from strategies.fedper import fedper
from strategies.fedprox import fedprox
from strategies.geometric_median import geometric_median
from strategies.krum import krum
from strategies.local import local
from strategies.median import median
from strategies.modality_balanced import modality_balanced
from strategies.modality_distillation import modality_distillation
from strategies.norm_bounding import norm_bounding
from strategies.scaffold import scaffold
from strategies.t3_merge import t3_merge
from strategies.trimmed_mean import trimmed_mean

STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "ditto": ditto,
    "dp_fedavg": dp_fedavg,
    "fedadagrad": fedadagrad,
    "fedadam": fedadam,
    "fedamm": fedamm,
    "fedavg": fedavg,
    "fedavgm": fedavgm,
    "fedbn": fedbn,
    "fedmema": fedmema,
    "fedmepd": fedmepd,
    "fedmsplit": fedmsplit,
    "fednova": fednova,
    "fedper": fedper,
    "fedprox": fedprox,
    "fedyogi": fedyogi,
    "geometric_median": geometric_median,
    "krum": krum,
    "local": local,
    "median": median,
    "modality_balanced": modality_balanced,
    "modality_distillation": modality_distillation,
    "norm_bounding": norm_bounding,
    "scaffold": scaffold,
    "t3_merge": t3_merge,
    "trimmed_mean": trimmed_mean,
}
