"""The model card of a run: what was made, from what, how good, how private, and for what.

    Mitchell et al.: Model Cards for Model Reporting. FAT* 2019.

    chapters(record, recipe)   the card as data: title, words, tables
    markdown(title, chapters)  RUN/model-card.md

A function of the record and the recipe alone, so that the card of a run is the same whoever asks.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from privacy.pace import pace
from privacy.statement import UNIT, statement
from protocol.metrics import METRICS
from protocol.recipe import Recipe, recipe_hash
from protocol.stages import stage_at
from server.record import RunRecord, Scores, SiteRound, SiteSummary
from server.scores import mean_over_sites, overall, worst
from server.split import assumption

FILE = "model-card.md"

_NONE = "\u2013"


@dataclass(frozen=True)
class Table:
    """Column names (none: words beside words) and rows of text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Chapter:
    """One part of the card."""

    title: str
    words: str
    tables: Sequence[Table] = ()


def chapters(record: RunRecord, recipe: Recipe) -> list[Chapter]:
    """Return the card of a run, also of one that did not get to its end."""
    return [
        _model(record, recipe),
        _use(recipe),
        _privacy(record, recipe),
        _data(record, recipe),
        *_scores(record),
    ]


def markdown(title: str, parts: Sequence[Chapter]) -> str:
    """Return the card as Markdown; what a site or a recipe says stays text."""
    blocks = [f"# {_text(title)}"]
    for part in parts:
        blocks += [f"## {_text(part.title)}", _text(part.words), *map(_markdown_table, part.tables)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def chosen(record: RunRecord, recipe: Recipe) -> str:
    """Return a sentence on what the scores decide: no noise covers that either."""
    fixed = "No site is left out and no run ends early because of a score."
    if not recipe.evaluation.select or not any(ended.scores for ended in record.rounds):
        return f"Scores choose nothing. {fixed}"
    return (
        f"Which round's parameters count as the best ({recipe.evaluation.select}) follows from the scores of "
        f"validation {UNIT}s, and so tells of these without noise; the last round's do not. {fixed}"
    )


def leaving(record: RunRecord) -> list[Table]:
    """Return every kind of value that leaves a site, as the sites told at the start; [] if none did."""
    sites = [site for site in record.sites if site.leaves]
    kinds = dict.fromkeys(kind for site in sites for kind in site.leaves)
    rows = [(kind, *(site.leaves.get(kind, _NONE) for site in sites)) for kind in kinds]
    return [Table(("what leaves", *(site.site for site in sites)), rows)] if rows else []


def card(record: RunRecord, recipe: Recipe) -> str:
    """Return the Markdown of a run's card."""
    return markdown(f"Model card: {recipe.name}", chapters(record, recipe))


# -- Chapters ------------------------------------------------------------------------------------


def _model(record: RunRecord, recipe: Recipe) -> Chapter:
    rows = [
        ("run", record.run),
        ("recipe", f"{recipe.name}, SHA-256 {recipe_hash(recipe)}"),
        ("code", record.environment.get("commit", "commit not known")),
        ("started", record.started),
        ("state", f"{record.status}, {len(record.rounds)} of {recipe.all_rounds} rounds"),
        *([("ended early", record.early)] if record.early else []),
        ("network", recipe.model.name),
        ("strategy", recipe.strategy.name),
        ("inputs", ", ".join(f"{name} ({each.kind})" for name, each in recipe.modalities.items())),
        ("outputs", ", ".join(f"{name} ({head.kind})" for name, head in recipe.heads.items())),
    ]
    return Chapter("Model", "", [Table((), rows)])


def _use(recipe: Recipe) -> Chapter:
    words = (
        f"Research on federated learning: predicting {', '.join(recipe.heads)} from any subset of "
        f"{', '.join(recipe.modalities)}. This is not a medical device. It has not been validated for the "
        "care of patients, and no decision about a patient may rest on it. The scores below are of held-out "
        "patients of the same hospitals; at another hospital, scanner or population they may be worse."
    )
    return Chapter("Intended use", words)


def _privacy(record: RunRecord, recipe: Recipe) -> Chapter:
    if recipe.privacy.epsilon is None:
        return Chapter("Privacy", statement(recipe), leaving(record))
    words = [statement(recipe), chosen(record, recipe)]
    head = (
        "site",
        "epsilon (PRV)",
        "epsilon (PLD)",
        "delta",
        "noise multiplier",
        "sampling rate",
        "steps",
        "rounds",
    )
    rows = [_spent(site, told, recipe) for site, told in _last_spent(record)]
    last = {site.site: told[max(told)] for site, told in _last_spent(record)}
    tables = [Table(head, rows), *leaving(record)]
    return Chapter("Privacy", " ".join([*words, *assumption(recipe, last)]), tables)


def _data(record: RunRecord, recipe: Recipe) -> Chapter:
    splits = "train / validation / test"
    sites = [_cohort(site, recipe) for site in record.sites]
    has = {name: [s.site for s in record.sites if _has(s, name)] for name in recipe.modalities}
    lacks = [
        (
            name,
            ", ".join(here) or _NONE,
            ", ".join(s.site for s in record.sites if s.site not in here) or _NONE,
        )
        for name, here in has.items()
    ]
    labels = [f"cases labelled for {name}" for name in recipe.heads]
    return Chapter(
        "Data",
        "Counts as the sites told them at the start; no patient is named. Modalities and labels are of "
        "training cases.",
        [
            Table(("site", f"patients, {splits}", f"cases, {splits}", "modalities: cases", *labels), sites),
            Table(("modality", "sites that have it", "sites without any"), lacks),
        ],
    )


def _scores(record: RunRecord) -> Iterator[Chapter]:
    metrics = dict.fromkeys(m for found in record.subsets.values() for told in found.values() for m in told)
    if not metrics:
        yield Chapter("Scores", "No held-out patients were scored.")
    for metric in metrics:
        known = METRICS[metric.rpartition("/")[2]]
        words = f"Held-out patients, final parameters; {known.unit}, {known.direction} is better. "
        f"{known.definition}"
        head = (
            "modalities shown",
            "mean over sites",
            "worst site",
            "its value",
            "all cases together",
            "over",
        )
        yield Chapter(f"Scores: {metric}", words, [Table(head, list(_by_subset(record, metric)))])


def _by_subset(record: RunRecord, metric: str) -> Iterator[Sequence[str]]:
    names = dict.fromkeys(subset for found in record.subsets.values() for subset in found)
    for subset in sorted(names, key=lambda name: name.count("+")):
        here: dict[str, Scores] = {s: f[subset] for s, f in record.subsets.items() if subset in f}
        site, value = worst(here, metric)
        cases = sum(told[metric].count for told in here.values() if metric in told)
        numbers = mean_over_sites(here, metric), overall(here, metric)
        yield subset, _number(numbers[0]), site or _NONE, _number(value), _number(numbers[1]), f"{cases:g}"


# -- Rows ----------------------------------------------------------------------------------------


def _last_spent(record: RunRecord) -> Iterator[tuple[SiteSummary, dict[int, SiteRound]]]:
    for site in record.sites:
        heard = ((r.number, s) for r in record.rounds for s in r.sites if s.site == site.site)
        told = {number: each for number, each in heard if each.epsilon is not None}
        if told:
            yield site, told


def _spent(site: SiteSummary, told: Mapping[int, SiteRound], recipe: Recipe) -> tuple[str, ...]:
    paces = [pace(stage_at(recipe, number).recipe, site.patients.get("train", 0)) for number in told]
    last = told[max(told)]
    return (
        site.site,
        _number(last.epsilon),
        _number(last.epsilon_pld),
        _NONE if last.delta is None else f"{last.delta:.2e}",
        _number(last.noise_multiplier),
        f"{paces[-1][0]:.3g}",
        str(sum(steps for _, steps in paces)),
        str(len(told)),
    )


def _cohort(site: SiteSummary, recipe: Recipe) -> tuple[str, ...]:
    patterns = ", ".join(f"{pattern}: {count}" for pattern, count in site.patterns.items())
    labels = [str(site.labels.get(head, 0)) for head in recipe.heads]
    return site.site, _splits(site.patients), _splits(site.cases), patterns or _NONE, *labels


def _has(site: SiteSummary, modality: str) -> bool:
    return any(count and modality in pattern.split("+") for pattern, count in site.patterns.items())


def _splits(counts: Mapping[str, int]) -> str:
    return " / ".join(str(counts.get(split, 0)) for split in ("train", "validation", "test"))


def _number(value: float | None) -> str:
    return _NONE if value is None or math.isnan(value) else f"{value:.3f}"


# -- Markdown ------------------------------------------------------------------------------------


def _markdown_table(table: Table) -> str:
    rows = [[_text(cell) for cell in row] for row in table.rows]
    if not table.head:
        return "\n".join(f"- {name}: {value}" for name, value in rows)
    lines = [[_text(cell) for cell in table.head], ["---"] * len(table.head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _text(words: str) -> str:
    """Keep what others wrote from becoming markup, a column or a line of its own."""
    plain = " ".join(words.split()).replace("&", "&amp;").replace("<", "&lt;")
    return plain.translate({ord(mark): f"\\{mark}" for mark in "|[]`"})
