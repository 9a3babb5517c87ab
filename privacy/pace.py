"""How often a patient takes part in a private round, as the recipe and the number of patients say.

    sgd     every step draws each patient by a coin of chance `rate` (Poisson)
    ftrl    an epoch has `slots` steps and a patient one fixed slot; an epoch is one event of rate 1

The site plans and pays by this, and whoever reports what was paid says it by this too.
"""

import math

from protocol.recipe import Recipe


def slots(recipe: Recipe, patients: int) -> int:
    """Return the steps of an epoch in which each patient takes part once; 0 where patients are drawn."""
    return math.ceil(1 / _rate(recipe, patients)) if recipe.privacy.mechanism == "ftrl" else 0


def pace(recipe: Recipe, patients: int) -> tuple[float, int]:
    """Return (sampling rate, steps) of a round's event at a site of `patients`."""
    if slots(recipe, patients):  # nothing is gained from drawing
        return 1.0, recipe.training.epochs
    rate = _rate(recipe, patients)
    return rate, recipe.training.steps or recipe.training.epochs * math.ceil(1 / rate)


def _rate(recipe: Recipe, patients: int) -> float:
    return recipe.privacy.sampling_rate or min(1.0, recipe.training.batch / max(patients, 1))
