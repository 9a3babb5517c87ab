"""Every strategy by its name in a recipe; a builder's keyword-only parameters are its options."""

from collections.abc import Callable

from protocol.errors import RecipeError
from protocol.recipe import Recipe
from strategies.base import Strategy
from strategies.ditto import ditto
from strategies.dp_fedavg import dp_fedavg
from strategies.fedavg import fedavg
from strategies.fedavgm import fedavgm
from strategies.fedbn import fedbn
from strategies.fednova import fednova
from strategies.fedopt import fedadagrad, fedadam, fedyogi
from strategies.fedper import fedper
from strategies.fedprox import fedprox
from strategies.geometric_median import geometric_median
from strategies.krum import krum
from strategies.local import local
from strategies.median import median
from strategies.norm_bounding import norm_bounding
from strategies.scaffold import scaffold
from strategies.trimmed_mean import trimmed_mean

STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "ditto": ditto,
    "dp_fedavg": dp_fedavg,
    "fedadagrad": fedadagrad,
    "fedadam": fedadam,
    "fedavg": fedavg,
    "fedavgm": fedavgm,
    "fedbn": fedbn,
    "fednova": fednova,
    "fedper": fedper,
    "fedprox": fedprox,
    "fedyogi": fedyogi,
    "geometric_median": geometric_median,
    "krum": krum,
    "local": local,
    "median": median,
    "norm_bounding": norm_bounding,
    "scaffold": scaffold,
    "trimmed_mean": trimmed_mean,
}

SUMMED = ("ditto", "fedadagrad", "fedadam", "fedavg", "fedavgm", "fedbn", "fedper", "fedprox", "fedyogi")
"""Those whose step needs the count-weighted owner mean and no single update."""


def check_summed(recipe: Recipe) -> None:
    """Raise `RecipeError` where secure aggregation is asked of a strategy that looks at single updates."""
    if not recipe.secure.enabled:
        return
    if recipe.strategy.name not in SUMMED:
        raise RecipeError(
            f"strategy: '{recipe.strategy.name}' needs each site's own update, which secure.enabled hides: "
            f"choose one of {', '.join(SUMMED)}, or set secure.enabled=false"
        )
    if recipe.strategy.options.get("weights", "count") != "count":
        raise RecipeError("strategy.weights: only 'count' can be summed while secure.enabled hides updates")
