"""Line charts and grids as SVG, by hand: a few dozen elements, readable in any browser, no script.

Colours are Okabe and Ito's, told apart with every kind of colour vision; a line also has a dash
pattern of its own, so that a print in grey keeps them apart.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from protocol.page import Markup, join, tag

COLOURS = ("#0072b2", "#d55e00", "#008a64", "#b05a8c", "#a86f00", "#3a3fa8", "#2a8fb8", "#6b6b6b")
DASHES = ("none", "7 3", "2 3", "9 3 2 3", "none", "7 3", "2 3", "9 3 2 3")
INK, QUIET, GRID = "#1b2430", "#a9b3bf", "#e4e8ed"

WIDTH, HEIGHT = 520, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 34
MARKS = 40
"""With at most this many points a line shows each of them."""

NUMBERS = 30
"""At most this many columns of a grid are numbered."""

Point = tuple[float, float]
Cell = tuple[str, str, str]
"""Fill, letter and tooltip of a square; "" is none."""


@dataclass(frozen=True)
class Line:
    """One named line; points whose y is NaN are left out."""

    name: str
    points: Sequence[Point]
    colour: str
    dash: str = "none"
    width: float = 1.8


def site_lines(points: Mapping[str, Sequence[Point]], together: str = "") -> list[Line]:
    """One line a site; beyond the colours that can be told apart all are grey.

    `together` names a bold line of the sites' mean at every x.
    """
    few = len(points) <= len(COLOURS)
    lines = [
        Line(site, known, COLOURS[index], DASHES[index]) if few else Line(site, known, QUIET, width=1)
        for index, (site, known) in enumerate(points.items())
    ]
    return [*lines, Line(together, _mean(points), INK, width=2.6)] if together and len(points) > 1 else lines


def chart(title: str, lines: Sequence[Line], x_label: str, y_label: str) -> Markup:
    """Return a figure of `lines` with axes, a legend and its title."""
    known = [Line(n.name, _finite(n.points), n.colour, n.dash, n.width) for n in lines]
    points = [point for line in known for point in line.points]
    if not points:
        return tag("figure", tag("b", title), tag("p", "Nothing was measured.", class_="note"))
    scale = _Scale(points)
    drawn = join(_draw(line, scale) for line in known)
    inside = scale.axes(x_label, y_label), drawn
    frame = tag("svg", *inside, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)
    return tag("figure", tag("b", title), _legend(known), frame)


def grid(rows: Mapping[str, Sequence[Cell]], columns: Sequence[int]) -> Markup:
    """Return a grid of small squares: row name -> a cell for each of `columns`."""
    side, left, top = 20, 8 + 7.2 * max(map(len, rows), default=0), 22
    every = math.ceil(len(columns) / NUMBERS)
    numbers = [(at, number) for at, number in enumerate(columns) if every == 1 or number % every == 0]
    labels = [_text(left + side * (at + 0.5), 14, number, "middle") for at, number in numbers]
    cells: list[Markup] = []
    for line, (name, row) in enumerate(rows.items()):
        y = top + side * line
        cells.append(_text(left - 8, y + 14, name, "end"))
        cells += [_square(left + side * at, y, side - 2, cell) for at, cell in enumerate(row)]
    width, height = round(left + side * len(columns) + 4), top + side * len(rows)
    drawing = tag("svg", *labels, *cells, viewBox=f"0 0 {width} {height}", width=width, height=height)
    return tag("div", drawing, class_="grid")


def swatch(colour: str, letter: str = "") -> Markup:
    """Return one cell of a grid, for its legend."""
    return tag("svg", _square(0, 0, 14, (colour, letter, "")), viewBox="0 0 14 14", class_="swatch")


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return at most `most` + 1 round numbers that cover `low` to `high`."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


class _Scale:
    """From values to places in the drawing."""

    def __init__(self, points: Sequence[Point]) -> None:
        xs, ys = [x for x, _ in points], [y for _, y in points]
        spread = max(ys) - min(ys) or abs(max(ys)) or 1.0
        self.ys = ticks(min(ys) - 0.02 * spread, max(ys) + 0.02 * spread, 5)
        if min(ys) >= 0:
            self.ys = [y for y in self.ys if y >= 0]
        self.low, self.high = self.ys[0], self.ys[-1]
        self.first, self.last = min(xs), max(*xs, min(xs) + 1)

    def x(self, value: float) -> float:
        return LEFT + (value - self.first) / (self.last - self.first) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def axes(self, x_label: str, y_label: str) -> Markup:
        floor = HEIGHT - BOTTOM
        whole = [x for x in ticks(self.first, self.last, 8) if x == int(x) and self.first <= x <= self.last]
        across = [
            tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=_at(self.y(y)), y2=_at(self.y(y)), stroke=GRID)
            for y in self.ys
        ]
        numbers = [_text(LEFT - 8, self.y(y) + 4, f"{y:g}", "end") for y in self.ys]
        rounds = [_text(self.x(x), floor + 16, f"{x:g}", "middle") for x in whole]
        base = tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=floor, y2=floor, stroke=QUIET)
        names = _text(WIDTH - RIGHT, HEIGHT - 3, x_label, "end"), _text(LEFT + 4, TOP + 9, y_label, "start")
        return join([*across, base, *numbers, *rounds, *names])


def _draw(line: Line, scale: _Scale) -> Markup:
    places = [(_at(scale.x(x)), _at(scale.y(y))) for x, y in line.points]
    path = tag(
        "polyline",
        points=" ".join(f"{x},{y}" for x, y in places),
        fill="none",
        stroke=line.colour,
        stroke_width=line.width,
        stroke_dasharray=line.dash,
        stroke_linejoin="round",
    )
    if len(places) > MARKS:
        return path
    marks = [
        tag("circle", tag("title", f"{line.name}, {x:g}: {y:.4g}"), cx=at, cy=up, r=2.6, fill=line.colour)
        for (at, up), (x, y) in zip(places, line.points, strict=True)
    ]
    return join([path, *marks])


def _legend(lines: Sequence[Line]) -> Markup:
    entries: dict[str, Line] = {}
    for line in lines:
        if line.points:
            entries.setdefault("each site" if line.colour == QUIET else line.name, line)
    return tag("div", *(tag("span", _dash(line), name) for name, line in entries.items()), class_="legend")


def _dash(line: Line) -> Markup:
    style = {"stroke": line.colour, "stroke_width": line.width, "stroke_dasharray": line.dash}
    return tag("svg", tag("line", x1=1, x2=25, y1=6, y2=6, **style), viewBox="0 0 26 12")


def _square(x: float, y: float, side: float, cell: Cell) -> Markup:
    fill, letter, about = cell
    told = tag("title", about) if about else Markup()
    box = tag("rect", told, x=_at(x), y=y, width=side, height=side, rx=3, fill=fill)
    middle = _at(x + side / 2), _at(y + side / 2 + 4)
    return join([box, tag("text", letter, x=middle[0], y=middle[1], class_="letter")]) if letter else box


def _text(x: float, y: float, text: str | float, anchor: str) -> Markup:
    return tag("text", text, x=_at(x), y=_at(y), text_anchor=anchor)


def _mean(points: Mapping[str, Sequence[Point]]) -> list[Point]:
    by_x: dict[float, list[float]] = {}
    for known in points.values():
        for x, y in _finite(known):
            by_x.setdefault(x, []).append(y)
    return [(x, sum(ys) / len(ys)) for x, ys in sorted(by_x.items())]


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(y)]


def _at(place: float) -> float:
    return round(place, 1)
