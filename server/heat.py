"""Colours of a table's cells, from the worst to the best of its values."""

import math
from collections.abc import Callable, Iterable

from server.scores import goodness

_PALE, _DEEP, _DARK = (238, 244, 250), (16, 78, 139), 0.55


def shades(metric: str, values: Iterable[float]) -> Callable[[float], str]:
    """From a value of `metric` to a cell's colours: pale at the worst of `values`, deep at the best."""
    good = [goodness(metric, value) for value in values if not math.isnan(value)] or [0.0]
    low, high = min(good), max(good)

    def shade(value: float) -> str:
        share = (goodness(metric, value) - low) / (high - low) if high > low else 0.5
        red, green, blue = (round(a + (b - a) * share) for a, b in zip(_PALE, _DEEP, strict=True))
        return f"background:rgb({red},{green},{blue});color:{'#fff' if share > _DARK else '#1b2430'}"

    return shade
