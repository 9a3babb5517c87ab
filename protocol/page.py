"""HTML without a template language: what is text stays text.

    tag("td", "a < b", class_="name")   ->   <td class="name">a &lt; b</td>

A string is escaped; only what `tag` made itself (`Markup`) passes as it is. So nothing that a
site, a recipe or an error message says can become markup, wherever it is printed.
"""

from collections.abc import Iterable, Sequence
from html import escape

_VOID = ("img", "meta")


class Markup(str):
    """Text that is already HTML."""

    __slots__ = ()


def tag(name: str, *children: "str | float | Markup", **attributes: str | float) -> Markup:
    """Return an element; `class_` and the like drop their underscore, others turn it into `-`."""
    told = "".join(f' {_name(key)}="{escape(str(value))}"' for key, value in attributes.items())
    inside = "".join(child if isinstance(child, Markup) else escape(str(child)) for child in children)
    return Markup(f"<{name}{told}>" if name in _VOID else f"<{name}{told}>{inside}</{name}>")


def join(parts: Iterable[Markup]) -> Markup:
    """Put elements after each other."""
    return Markup("".join(parts))


def table(
    head: Sequence["str | Markup"],
    rows: Iterable[Sequence["str | float | Markup"]],
    *,
    class_: str = "numbers",
) -> Markup:
    """Return a table whose first column names its rows; a `td` in a row is taken as it is.

    Of class "numbers" its columns are aligned to the right, of class "words" to the left.
    """
    top = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head))) if head else Markup()
    body = join(tag("tr", tag("th", row[0], scope="row"), *map(_cell, row[1:])) for row in rows)
    return tag("div", tag("table", top, tag("tbody", body), class_=class_), class_="wide")


def section(title: str, about: "str | Markup", *children: Markup) -> Markup:
    """Return a titled part of the page; `about` says what is to be seen and how it was computed."""
    return tag("section", tag("h2", title), tag("p", about, class_="about"), *children)


def page(title: str, *children: Markup) -> str:
    """Return a whole document."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        # Nothing may be fetched and nothing may run, whatever slips in.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
    )
    inside = tag("head", Markup(head), tag("title", title), tag("style", Markup(STYLE)))
    return f"<!doctype html>\n{tag('html', inside, tag('body', tag('main', *children)), lang='en')}\n"


def _cell(content: "str | float | Markup") -> Markup:
    return content if isinstance(content, Markup) and content.startswith("<td") else tag("td", content)


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


STYLE = """
:root { --ink: #1b2430; --soft: #566273; --line: #d5dbe3; --wash: #f4f6f9; --blue: #0b5c9e; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 15px/1.5 system-ui, -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 24px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 4px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 18px 0 6px; }
p { margin: 4px 0 12px; max-width: 82ch; }
code, pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { background: var(--wash); padding: 12px 14px; overflow-x: auto; border-radius: 6px; }
.run { color: var(--soft); margin: 2px 0 0; overflow-wrap: anywhere; }
.about, .note, figcaption, .legend { color: var(--soft); }
.note { font-size: 13px; }
.badge { display: inline-block; padding: 1px 10px; border-radius: 999px; font-size: 13px; font-weight: 600;
  border: 1px solid currentColor; vertical-align: middle; margin-left: 8px; white-space: nowrap; }
.good { color: #1a6b3c; } .warn { color: #8a5200; } .bad { color: #a3211a; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 20px 0 8px; }
.tile { background: var(--wash); border-radius: 8px; padding: 12px 14px; }
.tile b { display: block; font-size: 22px; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--soft); font-size: 13px; line-height: 1.4; }
.wide { overflow-x: auto; margin: 8px 0 14px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 12px; text-align: right; border-bottom: 1px solid var(--line); vertical-align: middle; }
th { font-weight: 600; white-space: nowrap; }
thead th { color: var(--soft); border-bottom: 2px solid var(--line); vertical-align: bottom; }
th[scope=row], th:first-child, td.text, .words th, .words td { text-align: left; }
.words th, .words td { vertical-align: top; }
td.text { min-width: 16ch; max-width: 76ch; overflow-wrap: anywhere; }
td.heat { min-width: 76px; text-align: center; border: 2px solid #fff; border-radius: 6px;
  line-height: 1.25; }
td.heat small, .count { display: block; font-size: 11px; opacity: .85; }
td.none { color: #8792a0; }
td.sum { border-left: 2px solid var(--line); }
.chips { display: inline-flex; gap: 4px; flex-wrap: nowrap; }
.chip { padding: 0 8px; border-radius: 4px; font-size: 12px; line-height: 20px; font-weight: 500;
  background: #1f5f8b; color: #fff; border: 1px solid #1f5f8b; }
.chip.off { background: none; color: #8792a0; border: 1px dashed #b4bdc8; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr)); gap: 24px; }
figure { margin: 0; }
figure > b { font-weight: 600; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; fill: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 13px; margin: 2px 0 4px; }
.legend span { display: inline-flex; align-items: center; gap: 6px; color: var(--ink); }
.legend svg { width: 26px; height: 12px; flex: none; }
.legend svg.swatch { width: 14px; height: 14px; }
svg text.letter { font-size: 11px; font-weight: 600; fill: #fff; text-anchor: middle; pointer-events: none; }
.grid { overflow-x: auto; margin: 8px 0; }
.grid svg { width: auto; max-width: none; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr));
  gap: 18px; }
.pictures img { width: 100%; height: auto; border-radius: 6px; background: #000; display: block; }
figcaption { font-size: 13px; margin-top: 4px; }
.callout { border-left: 4px solid #b26a00; background: #fff6e6; padding: 10px 16px;
  border-radius: 0 6px 6px 0; max-width: 82ch; }
details { margin: 8px 0; }
td details { margin: 0; }
summary { cursor: pointer; color: var(--blue); }
a { color: var(--blue); }
dt { font-weight: 600; margin-top: 8px; }
dd { margin: 0 0 4px; max-width: 82ch; color: var(--soft); }
@media print { main { max-width: none; padding: 0; } figure, tr { break-inside: avoid; } }
"""
