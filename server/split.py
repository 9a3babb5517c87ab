"""What report and model card say of noise that is split over the sites."""

from collections.abc import Iterator, Mapping

from protocol.recipe import Recipe
from server.record import SiteRound


def assumption(recipe: Recipe, last: Mapping[str, SiteRound]) -> Iterator[str]:
    """Yield what epsilon takes for granted, and what it is without; nothing where no noise is split.

    `last`: site -> the last round in which it spent.
    """
    shares, fewest = recipe.secure.noise_over, recipe.secure.fewest
    if shares is None:
        return
    each = ", ".join(f"{site} {_number(told.epsilon_alone)}" for site, told in last.items())
    yield (
        f"The noise is split: each site adds one of {shares} shares. A sum has at least {fewest} sites, so "
        f"{fewest - shares} of them may collude with the coordinator. If no other site were honest, epsilon "
        f"(PRV) would be: {each}."
    )


def _number(value: float | None) -> str:
    return "not told" if value is None else f"{value:.3f}"
