"""A run as one HTML file that needs nothing else: no network, no script, no other file.

Everything is computed from the record, so the report of a killed run is as true as far as it
got. Each part says how its numbers came about; each metric links to its definition.
"""

import math
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence

from privacy.statement import ADJACENCY, OUTSIDE, UNIT, audience
from protocol.charts import Cell, Line, Point, chart, grid, site_lines, swatch
from protocol.metrics import METRICS, subset_name, subsets_of
from protocol.page import Markup, join, page, section, table, tag
from protocol.recipe import Recipe, build, recipe_hash
from protocol.stages import stages_of
from server.card import Chapter, chapters, chosen, leaving
from server.evidence import KINDS, Attack, Evidence, verdict
from server.evidence import title as attack_title
from server.heat import shades
from server.record import RunRecord, Scores, SiteRound
from server.robustness import Robustness
from server.robustness_page import chapter as robustness_chapter
from server.scores import (
    emm_average,
    emm_expectation,
    mean_over_sites,
    over_subsets,
    overall,
    unmeasured,
    worst,
)
from server.split import assumption
from strategies.base import Promise, Strategy
from strategies.catalogue import STRATEGIES

Overlay = tuple[str, bytes]
"""A caption and a PNG."""

_NONE = "\u2013"

LOST = (0.1, 0.3, 0.5)
"""Chances to lose a modality, for the expectation over subsets."""

STATUSES: dict[str, tuple[str, str, str]] = {
    "accepted": ("#3d8f63", "", "its update counts"),
    "refused": ("#a3211a", "R", "its update did not pass the checks"),
    "failed": ("#d55e00", "F", "it answered with an error"),
    "late": ("#a86f00", "L", "no answer before the deadline"),
    "declined": ("#6b4fa0", "D", "its own policy did not allow it"),
    "spent": ("#566273", "S", "its privacy budget would have been exceeded: it takes no further part"),
}
"""What became of a site in a round -> colour, letter, meaning."""

TERMS = {
    "loss": "The objective that training minimises, mean over the steps of a round at a site.",
    "round": "One ask-and-aggregate: sites train on the same parameters, their updates are combined.",
    "update norm": "Root mean square over sites of the Euclidean length of an accepted update.",
    "mean over sites": "Every site counts the same; sites without a value are left out.",
    "all cases": "The metric over the cases of all sites together: large sites count more.",
    "worst site": "The value of the site that is served worst.",
    "EMM average": "Entire-missing-modality: mean over the modality subsets that could be measured "
    "(Liao et al., arXiv 2503.18445). Here each subset is measured on the cases that own it.",
    "EMM expectation": "The expected score if each modality is lost with chance p by itself, over the "
    "subsets that could be measured.",
    "epsilon": "How much one patient's presence can change the chance of anything the coordinator sees, "
    "as a factor e^epsilon, except with chance delta. Lower is more private.",
    "PRV, PLD": "Two accountants that share no code: privacy random variables (Gopi et al., NeurIPS 2021), "
    "an upper bound and the number to quote; privacy loss distributions (Doroshenko et al., PETS 2022), "
    "its check.",
    "noise multiplier": "Standard deviation of the noise divided by the clip norm.",
}


def render(
    record: RunRecord,
    recipe: Recipe,
    overlays: Sequence[Overlay],
    evidence: Evidence | None = None,
    robustness: Robustness | None = None,
) -> str:
    """Return the report of a run as HTML text; `overlays` are shown as they are given.

    `evidence` is what attacks on this recipe found, `robustness` what `consilium evaluate` found, None where
    nobody has looked.
    """
    metric = chosen_metric(record, recipe)
    return page(
        f"{record.run}: report",
        _head(record, recipe, metric),
        _cohorts(record, recipe),
        _learning(record, metric),
        _subsets(record, recipe, metric),
        robustness_chapter(robustness),
        _privacy(record, recipe),
        _promised(record, recipe),
        _attacks(recipe, evidence),
        _participation(record),
        _cost(record),
        _pictures(overlays),
        _card(record, recipe),
        _definitions(record),
        _environment(record),
    )


def chosen_metric(record: RunRecord, recipe: Recipe) -> str:
    """Return the metric to show first: the recipe's choice, else the first that was measured; "" if none."""
    select = recipe.evaluation.select
    return select if _known(select) else next(iter(_metrics(record)), "")


# -- Parts, from the top of the page down --------------------------------------------------------


def _head(record: RunRecord, recipe: Recipe, metric: str) -> Markup:
    kind = {"finished": "good", "failed": "bad"}.get(record.status, "warn")
    badge = tag("span", _status(record), class_=f"badge {kind}")
    facts = [
        ("recipe", f"{recipe.name}, SHA-256 {recipe_hash(recipe)[:16]}"),
        ("started", record.started),
        ("strategy", _part(recipe.strategy.name, recipe.strategy.options)),
        ("model", _part(recipe.model.name, recipe.model.options)),
        ("data", _part(recipe.data.name, recipe.data.options)),
        *(("before it", told) for told in _earlier(recipe)),
        ("code", record.environment.get("commit", "commit not known")),
    ]
    return tag(
        "header",
        tag("h1", recipe.name, badge),
        tag("p", record.run, class_="run"),
        *([tag("p", tag("b", "Ended early. "), record.early, class_="callout")] if record.early else []),
        tag("div", *(_tile(*tile) for tile in _tiles(record, recipe, metric)), class_="tiles"),
        table((), facts, class_="words"),
        tag("details", tag("summary", "the whole recipe"), tag("pre", record.recipe)),
    )


def _earlier(recipe: Recipe) -> Iterable[str]:
    for stage in stages_of(recipe)[:-1]:
        heads = ", ".join(f"{name} ({head.kind})" for name, head in stage.recipe.heads.items())
        parts = f"{stage.recipe.model.name}, {stage.recipe.strategy.name}"
        yield f"{stage.name}, rounds {stage.first} to {stage.last}: {heads}; {parts}"


def _tiles(record: RunRecord, recipe: Recipe, metric: str) -> Iterable[tuple[str, str]]:
    yield f"{len(record.rounds)} of {recipe.all_rounds}", "rounds"
    patients = sum(sum(site.patients.values()) for site in record.sites)
    yield str(len(record.sites)), f"sites, {patients} patients"
    last = next((ended for ended in reversed(record.rounds) if ended.scores), None)
    if last is not None:
        value = mean_over_sites(last.scores, metric)
        yield _number(value), f"{metric}, validation after round {last.number}, mean over sites"
    complete = subset_name(tuple(recipe.modalities))
    here = {site: found[complete] for site, found in record.subsets.items() if complete in found}
    if here:
        yield _number(mean_over_sites(here, metric)), f"{metric}, held out, complete cases, mean over sites"
    if values := over_subsets(record.subsets, metric):
        yield _number(emm_average(values)), f"{metric}, held out, EMM average over subsets"
    yield _privacy_tile(record)
    if (promise := _promise(recipe)) is not None:
        spent, _ = _prices(record, promise)
        about = (
            f"of the models that sites see, \u03b4 = {promise.delta:.1e}, per {promise.unit}, not per {UNIT}"
        )
        yield f"\u03b5 = {spent:.2f}", about


def _privacy_tile(record: RunRecord) -> tuple[str, str]:
    spent = [s for ended in record.rounds for s in ended.sites if s.epsilon is not None]
    if not spent:
        return "none", "differential privacy: nothing is promised"
    most = max(spent, key=lambda site: site.epsilon or 0)
    return f"\u03b5 = {most.epsilon:.2f}", f"most spent at a site, \u03b4 = {most.delta:.1e}, per {UNIT}"


def _tile(number: str, about: str) -> Markup:
    return tag("div", tag("b", number), tag("span", about), class_="tile")


def _cohorts(record: RunRecord, recipe: Recipe) -> Markup:
    sites = [site.site for site in record.sites]
    names = _ordered({p for site in record.sites for p in site.patterns}, recipe)
    patterns = [
        (_chips(name, recipe), *(_count(site.patterns.get(name, 0)) for site in record.sites))
        for name in names
    ]
    heads = list(recipe.heads)
    rows = [
        (
            site.site,
            _splits(site.patients),
            _splits(site.cases),
            *(_count(site.labels.get(h, 0)) for h in heads),
        )
        for site in record.sites
    ]
    splits = "train / validation / test"
    labels = [f"training cases labelled for {head}" for head in heads]
    return section(
        "Who has what, and who lacks what",
        "Training cases by the modalities that they have, as the sites told at the start. A site's update "
        "counts for a part of the network by how many of its cases use that part.",
        table(("modalities present", *sites), patterns),
        table(("site", f"patients, {splits}", f"cases, {splits}", *labels), rows),
        *(
            tag("p", tag("b", f"{site.site} takes no part. "), site.declined, class_="callout")
            for site in record.sites
            if site.declined
        ),
    )


def _learning(record: RunRecord, metric: str) -> Markup:
    scores: dict[str, list[Point]] = {}
    losses: dict[str, list[Point]] = {}
    for ended in record.rounds:
        for site, told in ended.scores.items():
            if metric in told:
                scores.setdefault(site, []).append((ended.number, told[metric].value))
        for each in ended.sites:
            if each.loss is not None:
                losses.setdefault(each.site, []).append((ended.number, each.loss))
    norms = [(ended.number, ended.update_norm) for ended in record.rounds]
    colours = {line.name: line for line in site_lines({site.site: [] for site in record.sites})}
    return section(
        "Learning",
        "Validation cases with the modalities they have, scored with the combined parameters after a round; "
        "training loss of a site within the round. Bold: mean over sites.",
        tag(
            "div",
            chart(f"{metric}, validation", _like(colours, site_lines(scores, "mean")), "round", ""),
            chart("loss, training", _like(colours, site_lines(losses, "mean")), "round", ""),
            class_="charts",
        ),
        tag(
            "details",
            tag("summary", "length of the updates"),
            tag(
                "div",
                chart("update norm", [Line("all sites", norms, "#1b2430")], "round", ""),
                class_="charts",
            ),
        ),
    )


def _subsets(record: RunRecord, recipe: Recipe, metric: str) -> Markup:
    about = (
        "Held-out test cases scored with the final parameters. A row is what the model was shown: of a case "
        "that has more it sees just these modalities, and a case that lacks one of them is not in the row. "
        "Colour: from the worst to the best value of the table; n: what the value is an average over."
    )
    if not record.subsets:
        return section("Held-out patients, by modality subset and site", about, _note("Not evaluated yet."))
    others = [name for name in _metrics(record) if name != metric]
    return section(
        "Held-out patients, by modality subset and site",
        about,
        _heat(record, recipe, metric),
        *(
            tag("details", tag("summary", f"the same for {name}"), _heat(record, recipe, name))
            for name in others
        ),
    )


def _heat(record: RunRecord, recipe: Recipe, metric: str) -> Markup:
    names = _ordered({name for found in record.subsets.values() for name in found}, recipe)
    by_name = {n: {site: found[n] for site, found in record.subsets.items() if n in found} for n in names}
    shade = shades(metric, [t[metric].value for s in by_name.values() for t in s.values() if metric in t])
    sites = [site.site for site in record.sites if site.site in record.subsets]
    rows = [
        (
            _chips(name, recipe),
            *(_heat_cell(here.get(site, {}), metric, shade) for site in sites),
            _sum_cell(mean_over_sites(here, metric)),
            _sum_cell(worst(here, metric)[1]),
            _sum_cell(overall(here, metric)),
        )
        for name, here in by_name.items()
    ]
    head = (metric, *sites, "mean over sites", "worst site", "all cases")
    return join([_metric_note(metric), table(head, rows), _emm(record, recipe, metric)])


def _emm(record: RunRecord, recipe: Recipe, metric: str) -> Markup:
    values = over_subsets(record.subsets, metric)
    modalities = tuple(recipe.modalities)
    if not values or not set(values) <= set(map(subset_name, subsets_of(modalities))):
        return Markup()
    expected = ", ".join(f"{_number(emm_expectation(values, modalities, p))} (p = {p:g})" for p in LOST)
    text = f"Over all cases: EMM average {_number(emm_average(values))}; EMM expectation {expected}."
    if missing := unmeasured(values, modalities):
        text += f" Left out, since no site has such cases: {', '.join(missing)}."
    return tag("p", text)


def _privacy(record: RunRecord, recipe: Recipe) -> Markup:
    title = "Privacy spent"
    spent: dict[str, list[SiteRound]] = {}
    for ended in record.rounds:
        for each in ended.sites:
            if each.epsilon is not None:
                spent.setdefault(each.site, []).append(each)
    if not spent:
        words = "No differential privacy: nothing is promised. "
        what = (
            "Updates may reveal single patients to whoever sees them; only the scans themselves stayed home."
        )
        return section(title, "", tag("p", tag("b", words), what, class_="callout"), _what_leaves(record))
    lines = site_lines({site: _epsilons(record, site) for site in spent})
    if recipe.privacy.epsilon is not None and record.rounds:
        ends = (record.rounds[0].number, record.rounds[-1].number)
        lines.append(Line("budget", [(x, recipe.privacy.epsilon) for x in ends], "#a3211a", "4 4"))
    head = ("site", "\u03b5 (PRV)", "\u03b5 (PLD)", "\u03b4", "noise multiplier", "rounds in which it spent")
    rows = [(site, *_spent_row(told)) for site, told in spent.items()]
    return section(
        title,
        f"Differential privacy against {audience(recipe)}. Unit: one {UNIT}. "
        f"Adjacency: {ADJACENCY}. Each site accounts for its own {UNIT}s, and no {UNIT} is at two sites, so "
        f"that the sites' numbers do not add up. Outside this guarantee, and without noise: {OUTSIDE}. "
        f"{chosen(record, recipe)} The second table says in which form each leaves, where it does.",
        tag("div", chart("\u03b5 spent by this run, PRV", lines, "round", ""), class_="charts"),
        table(head, rows),
        *(tag("p", words) for words in assumption(recipe, {site: told[-1] for site, told in spent.items()})),
        _what_leaves(record),
    )


def _promised(record: RunRecord, recipe: Recipe) -> Markup:
    promise = _promise(recipe)
    if promise is None:
        return Markup("")
    row = (
        *map(_number, _prices(record, promise)),
        f"{promise.delta:.2e}",
        _number(promise.noise_multiplier),
        str(_releases(record)),
    )
    return section(
        f"What the models hide of a {promise.unit}",
        f"The strategy noises the parameters after each round. Unit: one {promise.unit}, not one {UNIT}. "
        f"Adjacency: {promise.adjacency}. It holds against whoever sees models, and not against the "
        "coordinator, who sees each update before. A round that was lost and repeated counts twice.",
        table(("\u03b5 (PRV)", "\u03b5 (PLD)", "\u03b4", "noise multiplier", "models"), [row]),
    )


def _promise(recipe: Recipe) -> Promise | None:
    strategy: Strategy = build(STRATEGIES, recipe.strategy, "strategy")
    return strategy.promise


def _releases(record: RunRecord) -> int:
    return record.rounds[-1].releases if record.rounds else 0


def _prices(record: RunRecord, promise: Promise) -> tuple[float, float]:
    """Return what the models cost by both accountants."""
    from privacy.accounting import Event, epsilon, epsilon_pld  # noqa: PLC0415 - two seconds, for few runs

    events = [Event(promise.noise_multiplier, 1.0, _releases(record))]
    return epsilon(events, promise.delta), epsilon_pld(events, promise.delta)


def _what_leaves(record: RunRecord) -> Markup:
    return join(
        table(
            told.head,
            [(kind, *(tag("td", how, class_="text") for how in each)) for kind, *each in told.rows],
            class_="words",
        )
        for told in leaving(record)
    )


def _spent_row(told: Sequence[SiteRound]) -> tuple[str, ...]:
    last = told[-1]
    numbers = (last.epsilon, last.epsilon_pld)
    fine = _NONE if last.delta is None else f"{last.delta:.2e}"
    return (*(_number(n) for n in numbers), fine, _number(last.noise_multiplier), str(len(told)))


def _attacks(recipe: Recipe, evidence: Evidence | None) -> Markup:
    title = "Attacks on it"
    if evidence is None:
        return section(title, "", _note("None was made: consilium privacy audit RUN makes them."))
    rows = [(attack_title(a), KINDS[a.name].unit, *_attack_row(a)) for a in evidence.attacks]
    kinds = [KINDS[name] for name in dict.fromkeys(a.name for a in evidence.attacks)]
    terms = [(tag("dt", kind.title), tag("dd", kind.definition)) for kind in kinds]
    other = "" if evidence.recipe == recipe_hash(recipe) else " They are of another recipe than this run's."
    return section(
        title,
        "What attacks on this recipe's own network and training found, on made-up patients: without any "
        "defence, as the recipe trains, and the limit that it must not pass. An attack that fails is no "
        "proof of privacy; a number here is what this attack found, and a better one may find more. Made "
        f"{evidence.made}, code {evidence.commit}.{other}",
        table(("attack", "unit", "undefended", "as it trains", "limit", "what it means"), rows),
        tag("dl", *(part for pair in terms for part in pair)),
    )


def _attack_row(attack: Attack) -> tuple[str | Markup, ...]:
    numbers = (_number(value) for value in (attack.control, attack.defended, attack.limit))
    setting = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in attack.setting.items())
    return (*numbers, tag("td", verdict(attack), tag("small", setting, class_="count"), class_="text"))


def _participation(record: RunRecord) -> Markup:
    about = "What became of each site in each round."
    if not record.rounds:
        return section("Participation", about, _note("No round has ended yet."))
    asked = {(ended.number, each.site): each for ended in record.rounds for each in ended.sites}
    numbers = [ended.number for ended in record.rounds]
    sites = [s.site for s in record.sites if any((number, s.site) in asked for number in numbers)]
    rows = {site: [_square(number, asked.get((number, site))) for number in numbers] for site in sites}
    legend = tag(
        "div",
        *(tag("span", swatch(c, letter), f"{name}: {what}") for name, (c, letter, what) in STATUSES.items()),
        tag("span", swatch("#eef1f4"), "not asked"),
        class_="legend",
    )
    reasons = [
        (str(number), site, each.status, tag("td", each.reason, class_="text"))
        for (number, site), each in asked.items()
        if each.status != "accepted"
    ]
    why = (
        table(("round", "site", "status", "reason"), reasons, class_="words")
        if reasons
        else _note("Every answer was accepted.")
    )
    return section("Participation", about, grid(rows, numbers), legend, why)


def _square(number: int, told: SiteRound | None) -> Cell:
    if told is None:
        return "#eef1f4", "", f"round {number}: not asked"
    colour, letter, _ = STATUSES.get(told.status, STATUSES["failed"])
    return colour, letter, f"round {number}, {told.site}: {told.status} {told.reason}".strip()


def _cost(record: RunRecord) -> Markup:
    title = "Time and traffic"
    about = (
        "Seconds by the coordinator's clock for a whole round (train: until the last answer is summed), and "
        "by a site's own clock for its training. Bytes are those of the parameters, before a wire compresses."
    )
    if not record.rounds:
        return section(title, about, _note("No round has ended yet."))
    phases = list(dict.fromkeys(name for ended in record.rounds for name in ended.seconds))
    whole = [(name, *_spread([e.seconds.get(name, 0.0) for e in record.rounds])) for name in phases]
    sites = [
        (site.site, *_site_cost([each for e in record.rounds for each in e.sites if each.site == site.site]))
        for site in record.sites
    ]
    return section(
        title,
        about,
        table(("a round, seconds", "median", "least", "most", "all rounds"), whole),
        table(("site", "training, median s", "all rounds, s", "sent to it", "sent by it"), sites),
    )


def _site_cost(told: Sequence[SiteRound]) -> tuple[str, ...]:
    seconds = [each.seconds for each in told if each.status == "accepted"]
    median, *_, total = _spread(seconds)
    return median, total, _size(sum(e.bytes_down for e in told)), _size(sum(e.bytes_up for e in told))


def _pictures(overlays: Sequence[Overlay]) -> Markup:
    if not overlays:
        return Markup()
    figures = [
        tag(
            "figure",
            tag("img", src=f"data:image/png;base64,{b64encode(png).decode()}", alt=caption),
            tag("figcaption", caption),
        )
        for caption, png in overlays
    ]
    return section(
        "Examples",
        "Held-out test cases of data that may be shown (phantom or public).",
        tag("div", *figures, class_="pictures"),
    )


def _card(record: RunRecord, recipe: Recipe) -> Markup:
    parts = [part for chapter in chapters(record, recipe) for part in _chapter(chapter)]
    return section(
        "Model card",
        "What whoever uses the model should know; the same as in model-card.md beside this report.",
        tag("details", tag("summary", "the card"), *parts),
    )


def _chapter(chapter: Chapter) -> Iterable[Markup]:
    yield tag("h3", chapter.title)
    if chapter.words:
        yield tag("p", chapter.words)
    for each in chapter.tables:
        yield table(each.head, each.rows, class_="numbers" if each.head else "words")


def _definitions(record: RunRecord) -> Markup:
    used = dict.fromkeys(name.rpartition("/")[2] for name in _metrics(record))
    metrics = [
        (
            tag(
                "dt",
                name,
                f" ({METRICS[name].unit}, {METRICS[name].direction} is better)",
                id=f"metric-{name}",
            ),
            tag("dd", METRICS[name].definition),
        )
        for name in used
    ]
    terms = [(tag("dt", name), tag("dd", what)) for name, what in TERMS.items()]
    return section(
        "What the numbers mean", "", tag("dl", *(part for pair in (*metrics, *terms) for part in pair))
    )


def _environment(record: RunRecord) -> Markup:
    facts = table((), sorted(record.environment.items()), class_="words")
    return section("Environment", "Of the coordinator, when the run was last started.", facts)


# -- Small things --------------------------------------------------------------------------------


def _metrics(record: RunRecord) -> list[str]:
    """All metrics measured anywhere, in the order in which the sites told them."""
    validated = [told for ended in record.rounds for told in ended.scores.values()]
    held_out = [told for found in record.subsets.values() for told in found.values()]
    return list(dict.fromkeys(name for told in (*validated, *held_out) for name in told if _known(name)))


def _known(metric: str) -> bool:
    return metric.rpartition("/")[2] in METRICS


def _ordered(names: Iterable[str], recipe: Recipe) -> list[str]:
    """Subset names, few modalities first, in the recipe's order; then any other name."""
    known = [subset_name(subset) for subset in subsets_of(tuple(recipe.modalities))]
    given = set(names)
    return [name for name in known if name in given] + sorted(given - set(known))


def _chips(name: str, recipe: Recipe) -> Markup:
    """A subset as one chip a modality, hollow where it is absent."""
    here = name.split("+")
    if not set(here) <= set(recipe.modalities):
        return tag("span", name)
    chips = (tag("span", m, class_="chip" if m in here else "chip off") for m in recipe.modalities)
    return tag("span", *chips, class_="chips", title=name)


def _heat_cell(scores: Scores, metric: str, shade: Callable[[float], str]) -> Markup:
    if metric not in scores or math.isnan(scores[metric].value):
        return tag("td", _NONE, class_="heat none")
    tally = scores[metric]
    count = tag("small", f"n = {tally.count:g}")
    return tag("td", _number(tally.value), count, class_="heat", style=shade(tally.value))


def _metric_note(metric: str) -> Markup:
    known = METRICS[metric.rpartition("/")[2]]
    words = f" ({known.unit}, {known.direction} is better). {known.definition}"
    return tag("p", tag("b", metric), words, class_="note")


def _epsilons(record: RunRecord, site: str) -> list[Point]:
    """What a site had spent after each round; it keeps its value in rounds without it."""
    points: list[Point] = []
    for ended in record.rounds:
        told = [s.epsilon for s in ended.sites if s.site == site and s.epsilon is not None]
        if told or points:
            points.append((ended.number, told[0] if told else points[-1][1]))
    return points


def _like(known: Mapping[str, Line], lines: Iterable[Line]) -> list[Line]:
    """The same lines in the colours that their sites have in every chart."""
    return [
        Line(n.name, n.points, known[n.name].colour, known[n.name].dash, known[n.name].width)
        if n.name in known
        else n
        for n in lines
    ]


def _spread(values: Sequence[float]) -> tuple[str, str, str, str]:
    """Median, least, most and sum, to three digits."""
    if not values:
        return _NONE, _NONE, _NONE, _NONE
    ordered = sorted(values)
    numbers = ordered[len(ordered) // 2], ordered[0], ordered[-1], sum(ordered)
    median, least, most, total = (f"{float(f'{number:.3g}'):,g}" for number in numbers)
    return median, least, most, total


def _sum_cell(value: float) -> Markup:
    return tag("td", _number(value), class_="sum")


def _splits(counts: Mapping[str, int]) -> str:
    return " / ".join(str(counts.get(split, 0)) for split in ("train", "validation", "test"))


def _count(number: int) -> Markup:
    return tag("td", number) if number else tag("td", _NONE, class_="none")


def _number(value: float | None) -> str:
    return _NONE if value is None or math.isnan(value) else f"{value:.3f}"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _part(name: str, options: Mapping[str, object]) -> str:
    told = ", ".join(f"{key} {value}" for key, value in options.items())
    return f"{name} ({told})" if told else name


def _status(record: RunRecord) -> str:
    # A killed run cannot write down that it was.
    return "going on, or killed" if record.status == "running" else record.status


def _note(text: str) -> Markup:
    return tag("p", text, class_="note")
