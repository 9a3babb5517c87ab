"""Methods side by side: means over seeds, and what each gains over a control, with intervals.

All models of a data set are scored on the same patients and with the same draws of them
(`server.resampling`), so a number is averaged over seeds, and a difference taken, draw by draw. The interval
is then about patients. How far seeds lie apart stands beside it as a standard deviation, and is not in it.

A gain is said to be measured where its whole interval lies on the better side of 0, and every seed agrees.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np

from protocol.errors import SettingsError
from protocol.page import Markup, tag
from server.estimates import Values, estimate
from server.robustness import OWN, Estimate, Replicates, Robustness, key
from server.scores import goodness

SHOWN = ("worst site", "emm/avg", "emm/e_p0.1", "emm_zeroed/avg", "rmm0.5/avg", "nm/low", "be", "ece")
"""Headlines of the table besides `own`."""


class Line(NamedTuple):
    """One method on one data set: `own`, its deviation over seeds, its gain over the control, the rest."""

    label: str
    own: Estimate
    deviation: float
    gain: Estimate | None
    agreed: bool
    others: Mapping[str, float]


def lines(
    found: Mapping[str, Sequence[tuple[Robustness, Replicates]]], metric: str, control: str
) -> list[Line]:
    """Return a line a method, in the order given; gains are over `control`, if it is there.

    Raises `SettingsError` where models were scored on different patients or draws.
    """
    _check_alike([each for seeds in found.values() for each, _ in seeds])
    own = {label: [told[key(OWN, OWN, metric)] for _, told in seeds] for label, seeds in found.items()}
    whole = {label: np.mean(values, 0) for label, values in own.items()}
    gains = {label: estimate(values - whole[control]) for label, values in whole.items() if control in whole}
    return [
        Line(
            label,
            estimate(whole[label]),
            stdev(float(v[0]) for v in own[label]) if len(own[label]) > 1 else 0.0,
            gains.get(label) if label != control else None,
            _agreed(own[label], own.get(control, [])),
            _means([each for each, _ in seeds]),
        )
        for label, seeds in found.items()
    ]


def verdict(metric: str, gain: Estimate | None, *, agreed: bool = True) -> str:
    """Say whether anything was gained; `agreed`: with every seed in the same direction."""
    if gain is None:
        return "the control"
    if not agreed:
        return "no gain measured: seeds disagree"
    low, high = sorted((goodness(metric, gain.low), goodness(metric, gain.high)))
    return "gain" if low > 0 else "loss" if high < 0 else "no gain measured"


def markdown(told: Sequence[Line], metric: str) -> str:
    """Return the table as Markdown."""
    names = [name for name in SHOWN if any(name in line.others for line in told)]
    head = ("method", f"{metric} [95 %] \u00b1 seeds", "gain over the control [95 %]", "", *names)
    rows = [_cells(line, metric, names) for line in told]
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ruler, *rows))


def forest(told: Sequence[Line], metric: str) -> Markup:
    """Return an SVG with a point and an interval for each method."""
    low, high = min(line.own.low for line in told), max(line.own.high for line in told)
    spread = (high - low) or 1.0
    left, width, height = 260, 640, 26

    def x(value: float) -> float:
        return round(left + 10 + (value - low) / spread * (width - left - 30), 1)

    parts: list[Markup] = []
    for place, line in enumerate(told):
        y = 30 + height * place
        about = tag("title", written(line.own))
        parts += [
            tag("text", line.label, x=left - 8, y=y + 4, text_anchor="end"),
            tag(
                "line", x1=x(line.own.low), x2=x(line.own.high), y1=y, y2=y, stroke="#0072b2", stroke_width=2
            ),
            tag("circle", about, cx=x(line.own.value), cy=y, r=4.5, fill="#0072b2"),
            tag("text", f"{line.own.value:.3f}", x=x(line.own.value), y=y - 8, text_anchor="middle"),
        ]
    base = 30 + height * len(told)
    ends = [tag("text", f"{v:.2f}", x=x(v), y=base + 6, text_anchor="middle") for v in (low, high)]
    title = tag("text", f"{metric}, test patients, 95 % interval", x=left, y=base + 24)
    style = tag("style", "text{font:12px sans-serif;fill:#1b2430}")
    size = f"0 0 {width} {base + 34}"
    return tag("svg", style, *parts, *ends, title, viewBox=size, xmlns="http://www.w3.org/2000/svg")


def written(found: Estimate) -> str:
    """Write a value with its interval."""
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _cells(line: Line, metric: str, names: Sequence[str]) -> list[str]:
    gain = "" if line.gain is None else written(line.gain)
    others = [f"{line.others[name]:.3f}" if name in line.others else "" for name in names]
    return [
        line.label,
        f"{written(line.own)} \u00b1 {line.deviation:.3f}",
        gain,
        verdict(metric, line.gain, agreed=line.agreed),
        *others,
    ]


def _agreed(ours: Sequence[Values], theirs: Sequence[Values]) -> bool:
    signs = {bool(mine[0] > other[0]) for mine, other in zip(ours, theirs, strict=False)}
    return len(signs) <= 1


def _means(seeds: Sequence[Robustness]) -> dict[str, float]:
    return {
        name: fmean(each.headlines[name].value for each in seeds)
        for name in seeds[0].headlines
        if all(name in each.headlines for each in seeds)
    }


def _check_alike(found: Sequence[Robustness]) -> None:
    kinds = {
        (each.metric, each.seed, each.replicates, tuple(sorted(each.patients.items()))) for each in found
    }
    if len(kinds) > 1:
        raise SettingsError(
            "these models were scored on different patients, metrics or draws: compare like with like"
        )
