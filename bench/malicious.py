"""Ten hospitals and a malicious coordinator: what it asked, and what it got.

    python -m bench.malicious
    python -m bench.malicious --policy policy.yaml      # the same under a hospital's policy

Ten made-up hospitals hold private tables; the script is the coordinator, and sends the messages that
a hostile one would, through the same door as any other (`client.app.answer`). The table says
what the code at hand does, and nothing else: where something was given, it says what.
"""

import argparse
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from flwr.app import Message
from rich.console import Console
from rich.table import Table
from torch import Tensor

from client.app import answer
from client.settings import Settings
from client.site import open_site
from client.spending import history
from imaging import sources
from imaging.cohort import Cohort
from models.catalogue import build_model
from models.flat import Flat
from protocol.messages import KINDS, Reply, Task, pack_task, solidify, unpack_reply
from protocol.metrics import Tally
from protocol.recipe import Head, Modality, Part, Privacy, Recipe, Training, dump_recipe
from protocol.update import Vectors
from server.app import initial_parameters
from sim.attacks import hospital
from sim.inprocess import SERVER_NODE, identify
from strategies.catalogue import STRATEGIES

HOSPITALS = tuple(f"hospital-{number:02}" for number in range(1, 11))
PATIENTS = 60
NO_LABS = HOSPITALS[-1]
HUGE = 5_000_000
QUESTIONS = 40

HONEST = Recipe(
    "honest",
    {"ehr": Modality("table", 6), "labs": Modality("table", 3)},
    {"grade": Head("classification", 1, Part("bce")), "risk": Head("survival", 1, Part("exponential"))},
    Part("made_up"),
    Part("table_mlp", {"hidden": (8, 8)}),
    rounds=3,
    training=Training(batch=16, rate=0.05),
    privacy=Privacy(epsilon=8.0, noise_multiplier=2.0),
)
"""Epsilon 8 with the noise named, which saves the hospitals a search for it."""


@dataclass(frozen=True)
class Got:
    """One line of the table: `refused` says whether the coordinator went away empty-handed."""

    asked: str
    refused: bool
    why: str


@dataclass
class Coordinator:
    """Whoever writes the messages. `state` is where the hospitals keep theirs."""

    state: Path
    policy: Path | None = None
    _parameters: dict[str, Vectors] = field(default_factory=dict)

    def ask(self, kind: str, recipe: Recipe = HONEST, site: str = HOSPITALS[0], **changes: Any) -> Reply:
        """Send one task to one hospital; what is not in `changes` is as an honest server would have it."""
        task = Task(kind, "run", 0 if kind == "describe" else 1, dump_recipe(recipe), "a")
        if kind != "describe":
            task = replace(task, vectors=self.parameters(recipe, site, kind))
        if kind == "evaluate":
            task = replace(task, facts={"split": "validation", "subsets": False})
        return self.send(replace(task, **changes), site)

    def send(self, task: Task, site: str) -> Reply:
        """Deliver a task and return the reply."""
        message = Message(pack_task(task), SERVER_NODE + 1, KINDS[task.kind])
        # As a wire would: in one process a reply otherwise lends the memory that the next task overwrites.
        return unpack_reply(solidify(answer(message, self.settings(site))))

    def settings(self, site: str) -> Settings:
        """Return the hospital's own."""
        return Settings(site, self.state, self.state / site, (site,), policy=self.policy)

    def parameters(self, recipe: Recipe, site: str, kind: str) -> Vectors:
        """Return untrained parameters of the groups that the hospital has."""
        strategy = STRATEGIES[recipe.strategy.name](**recipe.strategy.options)
        groups = initial_parameters(recipe, strategy)
        del kind
        return {g: v for g, v in groups.items() if not (site == NO_LABS and g == "modality:labs")}

    def spent(self, site: str = HOSPITALS[0]) -> int:
        """Return how many private steps the hospital's ledger counts."""
        return sum(event.steps for event in history(self.state / site))


def attempts(coordinator: Coordinator) -> Iterator[Got]:
    """Make every attempt, in order."""
    yield _honest(coordinator)
    for site, (asked, recipe) in zip(HOSPITALS[3:], weakened().items(), strict=False):
        # Under a name of its own: as another model of "run" it would be refused for that alone.
        yield said(asked, coordinator.ask("train", recipe, site, run=recipe.name + "-weakened"))
    yield _twice(coordinator)
    yield said("round 3, then round 1 again", coordinator.ask("train", round=3), coordinator.ask("train"))
    yield said("round 99 of 3", coordinator.ask("train", round=99))
    for asked, changes in malformed(coordinator).items():
        yield said(asked, coordinator.ask("train", **changes))
    yield said(
        "labs' parameters of a hospital without labs",
        coordinator.ask("train", site=NO_LABS, vectors=coordinator.parameters(HONEST, HOSPITALS[0], "train")),
    )
    yield said(
        "files outside the hospital's folder: run '../../elsewhere'",
        coordinator.ask("train", replace(HONEST, strategy=Part("fedper")), run="../../elsewhere"),
    )
    yield said(
        "scores on training patients", coordinator.ask("evaluate", facts={"split": "train", "subsets": False})
    )
    yield said(
        "scores of a personal model (ditto)",
        coordinator.ask("evaluate", replace(HONEST, strategy=Part("ditto"))),
    )
    yield _read_out(coordinator)


def weakened() -> Mapping[str, Recipe]:
    """Return recipes that promise patients less than the honest one."""
    loose = HONEST.privacy
    return {
        "no privacy (epsilon null)": replace(HONEST, name="naked", privacy=Privacy()),
        "epsilon 1,000,000, noise multiplier 0.3": replace(
            HONEST, privacy=replace(loose, epsilon=1e6, noise_multiplier=0.3)
        ),
        "delta 0.9": replace(HONEST, privacy=replace(loose, delta=0.9)),
        "noise multiplier 0.01 under epsilon 8": replace(
            HONEST, privacy=replace(loose, noise_multiplier=0.01)
        ),
        "an objective that couples the batch (cox)": replace(
            HONEST, heads={"grade": HONEST.heads["grade"], "risk": Head("survival", 1, Part("cox"))}
        ),
        "an unlisted recipe: 100 steps of every patient": replace(
            HONEST, name="other", training=replace(HONEST.training, steps=100, batch=10_000)
        ),
    }


def malformed(coordinator: Coordinator) -> Mapping[str, Mapping[str, Any]]:
    """Return tasks that no honest server would send, as changes of one that it would."""
    right = coordinator.parameters(HONEST, HOSPITALS[0], "train")

    def with_shared(vector: Tensor) -> Mapping[str, Any]:
        return {"vectors": right | {"shared": vector}}

    return {
        "the private group": {"vectors": right | {"private": torch.zeros(4)}},
        "a group that no network has": {"vectors": right | {"modality:dna": torch.zeros(4)}},
        "parameters of another layout": with_shared(torch.zeros(len(right["shared"]) + 1)),
        "one number for a whole group": with_shared(torch.zeros(1)),
        f"{HUGE * 4 // 10**6} MB for a group of {len(right['shared'])} numbers": with_shared(
            torch.zeros(HUGE)
        ),
        "NaN parameters": with_shared(torch.full_like(right["shared"], float("nan"))),
    }


def said(asked: str, *replies: Reply) -> Got:
    """Return the line of a question by its last reply."""
    reply = replies[-1]
    if reply.error is not None:
        return Got(asked, refused=True, why=": ".join(reply.error))
    return Got(asked, refused=False, why=_given(reply))


def _given(reply: Reply) -> str:
    if reply.update is None:
        return f"facts: {', '.join(reply.facts)}"
    told = reply.facts.get("epsilon")
    return "an update" + (" without noise" if told is None else f"; epsilon spent {told:.2f}")


def _honest(coordinator: Coordinator) -> Got:
    replies = [coordinator.ask("train", site=site) for site in HOSPITALS]
    answered = sum(reply.error is None for reply in replies)
    line = said("round 1 of the honest recipe, of all ten", replies[0])
    return replace(line, why=f"{answered} of {len(HOSPITALS)} answered: {line.why}")


def _twice(coordinator: Coordinator) -> Got:
    site, before = HOSPITALS[1], coordinator.spent(HOSPITALS[1])
    replies = [coordinator.ask("train", site=site, attempt=attempt) for attempt in ("a", "b")]
    line = said("the same round twice, as another attempt", *replies)
    if line.refused:
        return line
    same = _digest(replies[0]) == _digest(replies[1])
    bytes_ = "the stored bytes" if same else "an update with fresh noise"
    return replace(line, why=f"{bytes_}; steps counted {before} -> {coordinator.spent(site)}; {line.why}")


def _read_out(coordinator: Coordinator) -> Got:
    """Bisect one validation patient's first value by the accuracy of a step function at a threshold."""
    asked = f"one patient's value, by crafted parameters and the scores of {QUESTIONS} evaluations"
    tables = open_site(coordinator.settings(HOSPITALS[0]), dump_recipe(_READER)).cohort
    truth = float(tables.cases.inputs["ehr"][tables.rows("validation"), 0].max())
    low, high = -10.0, 10.0
    for _ in range(QUESTIONS):
        middle = (low + high) / 2
        reply = coordinator.ask("evaluate", _READER, vectors=_step_at(middle))
        if reply.error is not None:
            return said(asked, reply)
        if _COUNTED not in reply.facts["scores"].get("own", {}):
            return Got(asked, refused=True, why="no score left that counts single predictions")
        low, high = (middle, high) if _anybody(reply) else (low, middle)
    hit = abs(low - truth) < 1e-3  # noqa: PLR2004 - three decimals are the value
    why = f"largest 'ehr' value of its validation patients read as {low:.4f}, it is {truth:.4f}"
    return Got(asked, refused=not hit, why=why)


_COUNTED = "same/mcc"
_READER = Recipe(
    "reader",
    {"ehr": Modality("table", 6)},
    {"same": Head("classification", 1, Part("bce"))},
    Part("made_up"),
    Part("table_linear"),
    privacy=Privacy(epsilon=8.0),
)
"""A recipe whose scores tell on which side of a threshold the first value of a table lies."""


def _step_at(threshold: float) -> Vectors:
    """Parameters of the linear model whose logit is 1e4 (value - threshold)."""
    flat = Flat(build_model(_READER))
    (group,) = flat.vectors
    layout = {slot.name.rpartition(".")[2]: slot for slot in flat.layout.groups[group]}
    vector = torch.zeros_like(flat.vectors[group])
    vector[layout["weight"].offset] = 1e4
    vector[layout["bias"].offset] = -1e4 * threshold
    return {group: vector}


def _anybody(reply: Reply) -> bool:
    """Say whether a case was predicted positive: the confusion matrix has its counts by prediction."""
    told = reply.facts["scores"]["own"][_COUNTED]
    rows = Tally(told["kind"], tuple(told["sums"])).sums
    return rows[1] + rows[3] > 0


def _digest(reply: Reply) -> str:
    deltas = {} if reply.update is None else reply.update.deltas
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in deltas.values())).hexdigest()


def _read(root: Path, recipe: Recipe, site: str | None) -> Cohort:
    """Make up one hospital; the last has no labs."""
    del root
    name = str(site)
    cohort = hospital.hospital(recipe, hospital.cases(recipe, PATIENTS, HOSPITALS.index(name))).cohort
    present = cohort.cases.present.clone()
    if name == NO_LABS and "labs" in recipe.modalities:
        present[:, list(recipe.modalities).index("labs")] = False
    split = torch.tensor([0, 0, 0, 1, 0, 2])[cohort.patient % 6]
    return replace(cohort, site=name, split=split, cases=cohort.cases.seeing(present))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", type=Path, default=None, help="a policy file that every hospital has")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = play(Path(folder), asked.policy)
    table = Table(
        "what it asked", "got", "what, or why not", title="ten hospitals, one malicious coordinator"
    )
    for line in lines:
        table.add_row(line.asked, "[green]nothing[/]" if line.refused else "[red]an answer[/]", line.why)
    Console().print(table)


def play(folder: Path, policy: Path | None = None) -> list[Got]:
    """Found the hospitals in `folder`, make every attempt, and return the lines."""
    identify()
    sources.SOURCES["made_up"] = _read
    open_site.cache_clear()
    try:
        return list(attempts(Coordinator(folder, policy)))
    finally:
        del sources.SOURCES["made_up"]
        open_site.cache_clear()


if __name__ == "__main__":
    main()
