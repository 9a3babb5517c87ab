"""Robustness as a part of a run's report, or as a page of its own for a model without a run."""

import math
from collections.abc import Callable, Mapping, Sequence

from protocol.page import Markup, page, section, table, tag
from server.heat import shades
from server.robustness import HEADLINES, OWN, Estimate, Robustness, Row, by_pattern

TITLE = "When modalities fail and scans are poor"
_NONE = "\u2013"


def standing_alone(found: Robustness) -> str:
    """Return a whole HTML page."""
    return page(f"{found.model}: robustness", tag("header", tag("h1", found.model)), chapter(found))


def chapter(found: Robustness | None) -> Markup:
    """Return the part of the report; where nobody has looked, how to."""
    if found is None:
        how = "Not measured: consilium evaluate RUN does, on simulated sites."
        return section(TITLE, "", tag("p", how, class_="note"))
    return section(
        TITLE,
        _about(found),
        table(("", "value", "95 % interval"), [_headline(*each) for each in found.headlines.items()]),
        tag("dl", *(part for name, what in HEADLINES.items() for part in (tag("dt", name), tag("dd", what)))),
        _patterns(found),
        _corruptions(found),
        _sites(found),
    )


def _about(found: Robustness) -> str:
    patients = ", ".join(f"{site} {count}" for site, count in found.patients.items())
    against = found.reference or "none given, so there is no be and rbe"
    return (
        f"Test patients with a label ({patients}) scored by {found.metric} with the {found.parameters} "
        f"parameters. Intervals: {found.replicates} draws of the patients within their sites; they cover "
        "neither another site nor another seed, and with few patients they are too narrow. The single "
        "patients' scores that they need exist in simulations alone and leave no hospital. "
        f"Reference: {against}. Made {found.made}, code {found.commit}."
    )


def _headline(name: str, estimate: Estimate) -> Sequence[str | Markup]:
    return name, _number(estimate.value), _interval(estimate)


def _patterns(found: Robustness) -> Markup:
    cells = {(row.level, row.family): row for row in _rows(found) if by_pattern(row.family)}
    levels, families = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    grid = {level: [cells.get((level, family)) for family in families] for level in levels}
    return _heat(found.metric, ("modalities left", *families), grid)


def _corruptions(found: Robustness) -> Markup:
    grid: dict[str, list[Row | None]] = {}
    for row in _rows(found):
        if row.family != OWN and not by_pattern(row.family):
            grid.setdefault(row.family, []).append(row)
    if not grid:
        return Markup()
    most = max(map(len, grid.values()))
    padded = {name: [*rows, *[None] * (most - len(rows))] for name, rows in grid.items()}
    return _heat(found.metric, ("corruption, mild to severe", *map(str, range(1, most + 1))), padded)


def _sites(found: Robustness) -> Markup:
    own = next(row for row in _rows(found) if row.family == OWN)
    rows = [
        (site, _number(e.value), _interval(e), str(found.patients[site])) for site, e in own.sites.items()
    ]
    return table(("site", found.metric, "95 % interval", "patients"), rows)


def _rows(found: Robustness) -> list[Row]:
    return [row for row in found.rows if row.metric == found.metric]


def _heat(metric: str, head: Sequence[str], grid: Mapping[str, Sequence[Row | None]]) -> Markup:
    values = [row.overall.value for rows in grid.values() for row in rows if row is not None]
    shade = shades(metric, values)
    return table(head, [(name, *(_cell(row, shade) for row in rows)) for name, rows in grid.items()])


def _cell(row: Row | None, shade: Callable[[float], str]) -> Markup:
    if row is None or math.isnan(row.overall.value):
        return tag("td", _NONE, class_="heat none")
    told = f"{_interval(row.overall)}, {row.patients} patients, worst site {_number(row.worst.value)}"
    number = tag("span", _number(row.overall.value), title=told)
    return tag("td", number, class_="heat", style=shade(row.overall.value))


def _interval(estimate: Estimate) -> str:
    return f"{_number(estimate.low)} to {_number(estimate.high)}"


def _number(value: float) -> str:
    return _NONE if math.isnan(value) else f"{value:.3f}"
