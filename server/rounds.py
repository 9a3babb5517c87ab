"""The rounds of a stage, on one screen.

    for each round
        1. choose whom to ask
        2. checkpoint: a crash from here on loses this round and no other
        3. ask, admit, aggregate: each reply is checked and summed as its turn comes
        4. evaluate the new parameters and write everything down

Steps 3's sum and the strategy's state are the only model-sized things held, beside the one
reply in hand, whatever the number of sites.
"""

import logging
import math
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from models.catalogue import build_model
from models.flat import Flat
from protocol.errors import AdmissionError, QuorumError, SettingsError
from protocol.messages import Reply, Task
from protocol.recipe import Recipe
from protocol.stages import Stage
from protocol.update import Update
from server.admission import check, numbers, scores
from server.book import Book
from server.record import Round, Scores, SiteRound
from server.roster import Member, able_to_train, choose
from server.secure import SecureRound
from server.wire import Arrival, Wire
from server.witness import Witness
from strategies.base import Received, State, Strategy

log = logging.getLogger("consilium.rounds")


@dataclass(frozen=True)
class Plan:
    """What stays the same through a stage of a run; an ordinary run is one stage.

    `text` is the whole run's recipe, the stage's own is in `stage`. `attempt` tells this process's
    tasks from a killed one's.
    """

    run: str
    stage: Stage
    text: str
    strategy: Strategy
    members: Sequence[Member]
    attempt: str = field(default_factory=lambda: secrets.token_hex(4))
    signature: str = ""
    witness: Witness | None = None

    @property
    def recipe(self) -> Recipe:
        """The stage's recipe."""
        return self.stage.recipe

    def told(self, site: str) -> dict[str, Any]:
        """Return what any task to `site` carries besides."""
        return self.witness.facts(site) if self.witness else {}

    def known(self) -> Witness:
        """Return the witness, without which no secure sum is possible; SettingsError where there is none."""
        if self.witness is None:
            raise SettingsError(
                "secure.enabled: the coordinator's folder has no file of the federation's keys: introduce "
                "the sites first, or set secure.enabled=false"
            )
        return self.witness


@dataclass
class Heard:
    """What became of a round's sites, and the accepted updates' norms, as they come."""

    sites: list[SiteRound] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    def norm(self) -> float:
        """Root mean square of the norms."""
        return math.sqrt(sum(n * n for n in self.norms) / max(len(self.norms), 1))


def run(plan: Plan, wire: Wire, state: State, book: Book) -> State:
    """Take the run from where `book` stands to the last round of the plan's stage.

    The run's last stage ends earlier where no quorum has budget left: what was learned counts.
    """
    layout = Flat(build_model(plan.recipe), plan.strategy.local.private).layout
    state = replace(state, layout=layout)
    try:
        for number in range(book.rounds_done + 1, plan.stage.last + 1):
            state = one_round(plan, wire, state, book, number)
    except QuorumError as error:
        if not _out_of_budget(plan, book):
            raise
        book.end_early(f"the sites' privacy budgets are spent: {error}")
    book.checkpoint(book.rounds_done, state)
    return state


def one_round(plan: Plan, wire: Wire, state: State, book: Book, number: int) -> State:
    """Ask, admit, aggregate, evaluate and write down; `QuorumError` before anything of it changes `state`."""
    recipe, stage = plan.recipe, plan.stage
    roster = choose(recipe, plan.members, book.spent(stage.first) | book.set_aside, number)
    clock = Clock()
    if number > stage.first or number == 1:  # between stages stands the end of the one before
        book.checkpoint(number - 1, state)
    clock.lap("checkpoint")
    tasks = [(member, train_task(plan, state, member, number)) for member in roster]
    heard = Heard()
    if recipe.secure.enabled:
        secure = SecureRound(recipe, tasks, wire, plan.known(), state.spare["secure"])
        updates = secured(secure, book, heard)
    else:
        arrivals = wire.ask([(m.site, t) for m, t in tasks], recipe.roster.deadline_s)
        updates = admitted(plan, tasks, arrivals, book, heard)
    releases = book.release() if plan.strategy.promise is not None else 0
    state = plan.strategy.step(state, updates)
    clock.lap("train")
    found = validate(plan, wire, state, number) if _scored(stage, number) else {}
    clock.lap("evaluate")
    sites = tuple(heard.sites)
    book.round(Round(number, sites, clock.seconds, heard.norm(), found, releases), state)
    return state


def _out_of_budget(plan: Plan, book: Book) -> bool:
    """Say whether the last stage has rounds to show, and spent budgets alone keep it from another one."""
    stage, quorum = plan.stage, plan.recipe.roster.quorum
    begun = not stage.name and book.rounds_done >= stage.first
    spent = book.spent(stage.first)
    able = len(able_to_train(plan.recipe, plan.members, book.set_aside))
    left = len(able_to_train(plan.recipe, plan.members, book.set_aside | spent))
    return begun and left < quorum <= able


def admitted(
    plan: Plan,
    tasks: Sequence[tuple[Member, Task]],
    arrivals: Iterator[Arrival],
    book: Book,
    heard: Heard,
) -> Iterator[Update]:
    """Yield the updates that pass admission; note what became of every site.

    Raises `QuorumError` after the last one, before the strategy changes anything, when too
    few were accepted.
    """
    for member, task in tasks:
        arrival = next(arrivals)  # not by `zip`, which holds the one before while the next is on its way
        verdict, update, norm = judge(member, task, arrival, plan.witness)
        heard.sites.append(verdict)
        book.heard(task.round, verdict)
        if update is not None:
            heard.norms.append(norm)
            yield Received(**vars(update), site=member.site)
        del arrival, update  # a model's size, while the next is on its way
    if len(heard.norms) < plan.recipe.roster.quorum:
        told = "; ".join(f"{s.site} {s.status}: {s.reason}" for s in heard.sites if s.status != "accepted")
        msg = f"{len(heard.norms)} updates accepted, quorum is {plan.recipe.roster.quorum} ({told})"
        raise QuorumError(msg)


def secured(secure: SecureRound, book: Book, heard: Heard) -> Iterator[Update]:
    """Yield the one update that stands for all of them; its norm is the only one to be known.

    Raises `QuorumError` before it when too few took part.
    """
    try:
        update = secure.aggregate()
    finally:
        heard.sites.extend(secure.sites.values())
        for verdict in heard.sites:
            book.heard(secure.number, verdict)
    heard.norms.append(math.sqrt(sum(float(v.dot(v)) for v in update.deltas.values())))
    yield update


def judge(
    member: Member, task: Task, arrival: Arrival, witness: Witness | None = None
) -> tuple[SiteRound, Update | None, float]:
    """Return what the record says of this site, its update if accepted, and its norm."""
    known = SiteRound(
        member.site,
        arrival.status,
        arrival.reason,
        groups=tuple(task.vectors),
        bytes_down=arrival.bytes_down,
        bytes_up=arrival.bytes_up,
    )
    if arrival.reply is None:
        return known, None, 0.0
    try:
        if witness is not None:
            witness.note(member.site, arrival.reply)
        update, norm = check(arrival.reply, task, member.owned)
        told = numbers(arrival.reply.facts, ("loss", "seconds", *_PRIVACY))
    except AdmissionError as error:
        return replace(known, status="refused", reason=str(error)), None, 0.0
    cases = max(update.counts.values(), default=max(member.owned.values()))
    return replace(known, status="accepted", cases=cases, **told), update, norm


def train_task(plan: Plan, state: State, member: Member, number: int) -> Task:
    """Return what `member` is asked to train: only the groups that it owns travel."""
    model = plan.strategy.model_for(state, member.site)
    received = {
        name: {g: v for g, v in state.memory[name].items() if g in member.owned}
        for name in plan.strategy.sends
    }
    vectors = {group: vector for group, vector in model.items() if group in member.owned}
    told = plan.told(member.site)
    return Task(
        "train", plan.run, number, plan.text, plan.attempt, vectors, received, told, signature=plan.signature
    )


def validate(plan: Plan, wire: Wire, state: State, number: int) -> dict[str, Scores]:
    """Score the validation cases with the modalities they have: site -> scores."""
    found = evaluate(plan, wire, state, number, "validation")
    return {site: next(iter(told.values()), {}) for site, told in found.items()}


def evaluate(
    plan: Plan, wire: Wire, state: State, number: int, split: str, *, subsets: bool = False
) -> dict[str, dict[str, Scores]]:
    """Ask every site that has cases in `split`: site -> modality subset -> scores.

    Without `subsets` the only one is each case's own modalities.
    """
    tasks: list[tuple[str, Task]] = []
    for member in plan.members:
        if not member.summary.cases.get(split):
            continue
        model = plan.strategy.model_for(state, member.site)
        vectors = {g: v for g, v in model.items() if g in member.usable}
        facts = {"split": split, "subsets": subsets} | plan.told(member.site)
        task = Task(
            "evaluate",
            plan.run,
            number,
            plan.text,
            plan.attempt,
            vectors,
            facts=facts,
            signature=plan.signature,
        )
        tasks.append((member.site, task))
    found: dict[str, dict[str, Scores]] = {}
    for arrival in wire.ask(tasks, plan.recipe.roster.deadline_s):
        if arrival.reply is not None and _attested(plan, arrival.site, arrival.reply):
            found[arrival.site] = scores(arrival.reply)
    return found


def _attested(plan: Plan, site: str, reply: Reply) -> bool:
    try:
        if plan.witness:
            plan.witness.note(site, reply)
    except AdmissionError as error:
        log.warning("scores are left out: %s", error)
        return False
    return True


class Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Note the seconds since the last lap under `name`."""
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now


_PRIVACY = ("epsilon", "epsilon_pld", "delta", "noise_multiplier")


def _scored(stage: Stage, number: int) -> bool:
    every = stage.recipe.evaluation.every
    return every > 0 and (number % every == 0 or number == stage.last)
