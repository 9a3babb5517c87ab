"""What the coordinator writes down of a run, and in which order, so that a crash loses nothing.

    RUN/
      recipe.yaml        canonical text of the recipe
      record.json        who takes part, environment, and at the end every round
      rounds.jsonl       one line a round, appended as it ends
      checkpoints/       parameters and the strategy's memory after a round; two are kept
      best.safetensors   parameters of the best validation score so far
      releases           one byte a model that the strategy has noised, before any site sees it
      report.html
      model-card.md      of a finished run
      model/             its final parameters (`models.exported`), if none of them stayed at the sites
      audit.json         what attacks on the recipe found, if somebody made them
      robustness.*       scores under failures and corruptions, if somebody looked

Order: checkpoint of round r, its metrics, the tasks of round r + 1, the line of round r + 1.
After a kill, lines of rounds that no checkpoint holds are dropped and made again.
"""

import logging
import math
import os
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from safetensors.torch import save_file

from protocol import files
from protocol.recipe import Recipe, dump_recipe
from protocol.update import Vectors
from server import card, checkpoint, export
from server.record import Round, RunRecord, Scores, SiteRound, round_from_json, round_to_json, to_json
from server.report import render
from server.scores import goodness, mean_over_sites
from server.tracking import Tracker
from strategies.base import State

Watch = Callable[[int, SiteRound | Round], None]
"""Told, with the round's number, of every site heard and every round ended: a progress bar."""

log = logging.getLogger("consilium.run")

STRIKES = 3


class Book:
    """One run's folder, record and tracking run."""

    def __init__(
        self, folder: Path, recipe: Recipe, record: RunRecord, watch: Watch, tracker: Tracker | None = None
    ) -> None:
        self.folder = folder
        self.record = record
        self._recipe = recipe
        self._tracker = tracker
        self._watch = watch
        self._best = -math.inf
        self.set_aside: set[str] = set()
        self._failures: Counter[str] = Counter()
        self._spent = {(r.number, site.site) for r in record.rounds for site in r.sites if _is_spent(site)}
        self._note_all(record.rounds)

    @property
    def rounds_done(self) -> int:
        """Rounds that need not be run again."""
        return len(self.record.rounds)

    def spent(self, since: int) -> set[str]:
        """Return the sites that have no budget left for the stage that began with round `since`."""
        return {site for number, site in self._spent if number >= since}

    def checkpoint(self, number: int, state: State) -> None:
        """Write the state after round `number`, durably; only then does the tracker hear of that round."""
        checkpoint.save(self.folder / "checkpoints", flatten(state), {"run": self.record.run}, number)
        if self._tracker is not None and self.record.rounds:
            self._tracker.log_round(self.record.rounds[-1])

    def heard(self, number: int, site: SiteRound) -> None:
        """Note what became of one site's task."""
        if _is_spent(site):
            self._spent.add((number, site.site))
        self._watch(number, site)

    def release(self) -> int:
        """Note, durably, that the strategy noises one more model; return how many it has been.

        A round that a crash takes back may have been seen: it counts, and so does its repetition.
        """
        with (self.folder / "releases").open("ab") as file:
            file.write(b".")
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def round(self, ended: Round, state: State) -> None:
        """Write a round down, durably, and tell the watcher."""
        with (self.folder / "rounds.jsonl").open("a", encoding="utf-8") as file:
            file.write(round_to_json(ended) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.record = replace(self.record, rounds=(*self.record.rounds, ended))
        for site in ended.sites:
            self._count_failures(site, ended.number)
        if self._note_all((ended,)):
            save_file(state.parameters, self.folder / "best.safetensors")
        self._watch(ended.number, ended)

    def conclude(self, subsets: Mapping[str, Mapping[str, Scores]]) -> None:
        """Note the held-out scores of the final parameters: site -> subset -> scores."""
        self.record = replace(self.record, subsets=subsets)

    def end_early(self, why: str) -> None:
        """Note why a run is finished before its last round."""
        log.warning("ended after round %d of %d: %s", self.rounds_done, self._recipe.all_rounds, why)
        self.record = replace(self.record, early=why)

    def finish(self, status: str, state: State | None = None) -> None:
        """Write the whole record, the report and the model of `state`, and close the tracking run."""
        self.record = replace(self.record, status=status)
        files.write_text(self.folder / "record.json", to_json(self.record))
        files.write_text(self.folder / "report.html", render(self.record, self._recipe, ()))
        if state is not None:
            files.write_text(self.folder / card.FILE, card.card(self.record, self._recipe))
            export.keep(self.folder, self._recipe, state)
        if self._tracker is not None:
            self._tracker.finish(status)

    def _count_failures(self, site: SiteRound, number: int) -> None:
        """Ask a site no more that has failed `STRIKES` times in a row; a resumed run asks it again."""
        self._failures[site.site] = self._failures[site.site] + 1 if site.status == "failed" else 0
        if self._failures[site.site] == STRIKES:
            self.set_aside.add(site.site)
            why = (
                f"failed {STRIKES} times in a row, the last time: {site.reason}; a resumed run asks it again"
            )
            self._watch(number, SiteRound(site.site, "set aside", why))

    def _note_all(self, rounds: tuple[Round, ...]) -> bool:
        better = False
        for ended in rounds:
            score = self._score(ended)
            if score > self._best:
                self._best, better = score, True
        return better

    def _score(self, ended: Round) -> float:
        select = self._recipe.evaluation.select
        earlier = ended.number <= self._recipe.all_rounds - self._recipe.rounds
        if not select or not ended.scores or earlier:
            return -math.inf
        score = mean_over_sites(ended.scores, select)
        return -math.inf if math.isnan(score) else goodness(select, score)


def _is_spent(site: SiteRound) -> bool:
    return site.status == "spent"


def flatten(state: State) -> Vectors:
    """Name every vector of a state: `parameters/<group>`, `memory/<name>/<group>`."""
    flat = {f"parameters/{group}": vector for group, vector in state.parameters.items()}
    for name, vectors in state.memory.items():
        flat |= {f"memory/{name}/{group}": vector for group, vector in vectors.items()}
    return flat


def unflatten(vectors: Vectors) -> State:
    """Rebuild the state that `flatten` named."""
    state = State({}, {})
    for key, vector in vectors.items():
        kind, _, rest = key.partition("/")
        name, _, group = rest.partition("/")
        if kind == "parameters":
            state.parameters[rest] = vector
        else:
            state.memory.setdefault(name, {})[group] = vector
    return state


def read_rounds(folder: Path, upto: int) -> tuple[Round, ...]:
    """Read the rounds that a checkpoint of round `upto` covers, and drop the rest from the file.

    A last line torn by a kill is not covered by a checkpoint either, and goes with the rest.
    """
    path = folder / "rounds.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()[:upto] if path.exists() else []
    files.write_text(path, "".join(f"{line}\n" for line in lines))
    return tuple(round_from_json(line) for line in lines)


def new_folder(recipe: Recipe, out: Path) -> Path:
    """Make the folder of a new run of `recipe`, with the recipe in it, and return it."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = out.resolve() / f"{recipe.name}-{stamp}-{secrets.token_hex(2)}"
    write_recipe(folder, recipe)
    return folder


def write_recipe(folder: Path, recipe: Recipe) -> str:
    """Write the canonical recipe into a new run folder and return its text."""
    text = dump_recipe(recipe)
    folder.mkdir(parents=True)
    files.write_text(folder / "recipe.yaml", text)
    return text
