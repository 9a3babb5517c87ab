"""What each patient has paid, written down before it is spent, and kept for longer than any run.

    released   a task that was answered before gets the same bytes again, and pays nothing
    reserve    the round's steps count from here on, or are refused
    release    the reply's bytes are on the disk, then the ledger says so; only now may they leave

Whatever instant a process is killed at, the ledger holds at least what was released: a
reservation counts in full until its release says how many steps were really taken. A task that
comes again while its reservation is open takes it up: nothing had left, since what leaves is
released before.

A *cohort* is a set of patients, each a pseudonym: an HMAC of its name under a key that stays
in this folder. Cohorts overlap, and a patient pays for every event of every cohort that it is in:

    history(p) = events of all cohorts that hold p
    cost of an event for a cohort = max over its patients of epsilon(history(p) + event)

Patients in the same cohorts have one history, and a history that another contains costs no more:
an accountant is asked about the few that are left, not about each patient. The histories are of
all runs, all recipes, all federations: they are the patient's, not the run's.

    FOLDER/
      ledger.sqlite   what happened (`privacy.store`): {"do": "reserve", ...}, {"do": "release", ...}
      ledger.lock     held by the one process that spends
      cohort.key      32 bytes; without it no patient is known again
      replies/        released bytes, until a later round of their run is released
"""

import hmac
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from privacy import store
from privacy.accounting import Event, epsilon
from privacy.heads import Head
from protocol import files
from protocol.errors import BudgetError, PrivacyError, SettingsError

FILE, KEY, REPLIES = "ledger.sqlite", "cohort.key", "replies"
PSEUDONYM_BYTES = 16

Price = Callable[[Iterable[Event], float], float]
"""An accountant: (events, delta) -> epsilon."""
History = tuple[Event, ...]
"""Events with equal ones added up, in a fixed order."""
Which = Callable[["Reservation"], bool]
"""Which reservations are asked about."""


@dataclass(frozen=True)
class Ask:
    """One task: what the coordinator calls it, and `base`, a hash of all that it was asked with."""

    run: str
    round: int
    attempt: str
    base: str


@dataclass(frozen=True)
class Cap:
    """The most that a patient may have paid: `epsilon` at `delta`; `remedy` ends the refusal's message.

    `of_run` limits the asking run's own events instead of the patient's whole history.
    """

    epsilon: float
    delta: float
    remedy: str
    of_run: bool = False


@dataclass(frozen=True)
class Patients:
    """A cohort: its name, a hash of its patients, and their pseudonyms in ascending order."""

    cohort: str
    pseudonyms: tuple[str, ...]


@dataclass(frozen=True)
class Reservation:
    """What a task has reserved, and what it took once released.

    `caps` are (epsilon, delta), those on the whole history; `at` is when, in ISO 8601.
    """

    counter: int
    at: str
    ask: Ask
    cohort: str
    event: Event
    caps: tuple[tuple[float, float], ...]
    taken: int | None = None
    reply: str = ""

    @property
    def counted(self) -> Event:
        """The steps taken, or all that are reserved."""
        return self.event if self.taken is None else replace(self.event, steps=self.taken)


@contextmanager
def spending_from(folder: Path, price: Price = epsilon) -> Generator["Ledger"]:
    """Open the ledger in `folder` for this process alone; it is made if there is none.

    Raises:
        SettingsError: if another process has it, or the machine does not let us write it.
        PrivacyError: if it is not as it was written.
    """
    with store.writing(folder / FILE) as db:
        ledger = Ledger(folder, db, price)
        ledger.begin()
        yield ledger


@contextmanager
def reading(folder: Path, price: Price = epsilon) -> Generator["Ledger"]:
    """Open the ledger in `folder` to look at it, also while a round is spending from it."""
    with store.reading(folder / FILE) as db:
        yield Ledger(folder, db, price)


def stands(folder: Path, seen: Head) -> bool:
    """Return whether the ledger in `folder`, if any, has gone through `seen`."""
    return _peek(folder, lambda db: store.holds(db, seen), otherwise=seen == Head())


def head(folder: Path) -> Head:
    """Return where the ledger in `folder` stands; one that does not exist stands at its beginning."""
    return _peek(folder, store.head, otherwise=Head())


class Ledger:
    """Reservations and releases of one file; `spending_from` and `reading` open it."""

    def __init__(self, folder: Path, db: sqlite3.Connection, price: Price) -> None:
        self._folder, self._db, self._price = folder, db, price
        self._key_check = ""
        self.reservations: dict[int, Reservation] = {}
        """By the counter of their entry, in order."""
        with store.reachable(folder / FILE):
            self._replay()

    def begin(self) -> None:
        """Write a new ledger's first entry; SettingsError where the key is not an old one's."""
        check = hmac.digest(self._key(), b"check", "sha256").hex()
        if not self._key_check:
            with store.reachable(self._folder / FILE):
                self._append({"do": "begin", "key": check})
        if check != self._key_check:
            raise SettingsError(
                f"{self._folder / KEY}: not the key that this ledger's patients are kept under: restore it "
                "together with the ledger; with another one nobody's past would be known"
            )

    def patients(self, names: Iterable[str]) -> Patients:
        """Return the cohort of patients with these names; the order and repetitions do not matter."""
        key = self._key()
        each = {hmac.digest(key, b"patient\0" + name.encode(), "sha256") for name in names}
        pseudonyms = sorted(pseudonym[:PSEUDONYM_BYTES].hex() for pseudonym in each)
        return Patients(_cohort(pseudonyms), tuple(pseudonyms))

    def released(self, ask: Ask) -> bytes | None:
        """Return the bytes that this task was answered with; None if it was not answered yet.

        Raises:
            PrivacyError: if the task was asked before with something else, or its bytes are gone.
        """
        known = self._reserved(ask)
        if known is None or known.taken is None:
            return None
        try:
            reply = self._file(ask).read_bytes()
        except OSError:
            reply = b""
        if sha256(reply).hexdigest() != known.reply:
            raise PrivacyError(
                f"round {ask.round} was released before and its bytes are not kept any more: go on with "
                "the next round, or ask with a new attempt, which spends again"
            )
        return reply

    def reserve(self, ask: Ask, patients: Patients, event: Event, caps: Sequence[Cap]) -> None:
        """Count `event` for `patients` from now on; an open reservation of the same is taken up.

        Raises:
            BudgetError: if a patient would have paid more than one of `caps`; nothing is written.
            PrivacyError: if the task was asked before with something else, or was answered.
        """
        known = self._reserved(ask)
        if known is not None and known.taken is not None:
            raise PrivacyError(f"round {ask.round} of run '{ask.run}' was released: it is not paid twice")
        taken_up = known is not None and (known.cohort, known.event) == (patients.cohort, event)
        self._afford(ask, patients, () if taken_up else (event,), caps)
        if taken_up:
            return
        limits = [(cap.epsilon, cap.delta) for cap in caps if not cap.of_run]
        body = {"do": "reserve", "ask": asdict(ask), "cohort": patients.cohort, "event": asdict(event)}
        with store.reachable(self._folder / FILE):
            self._append(body | {"caps": limits}, patients)

    def release(self, ask: Ask, steps: int, reply: bytes) -> None:
        """Keep the reply's bytes, then write down the `steps` that it took; then it may leave.

        Raises:
            PrivacyError: if nothing is reserved for the task, or it took more.
        """
        known = self._reserved(ask)
        if known is None or known.taken is not None:
            raise PrivacyError(f"run '{ask.run}' releases round {ask.round}, which it has not reserved")
        if not 0 <= steps <= known.event.steps:
            raise PrivacyError(f"round {ask.round} took {steps} steps of {known.event.steps} reserved")
        digest = sha256(reply).hexdigest()
        with store.reachable(self._folder / FILE):
            files.write(self._file(ask), reply)
            self._append({"do": "release", "reserved": known.counter, "steps": steps, "reply": digest})
            self._prune(ask)

    def histories(self, patients: Patients, of: Which | None = None) -> list[History]:
        """Return what these patients have paid: the histories that no other contains, at least one."""
        counted: dict[str, list[Event]] = {}
        for reservation in filter(of, self.reservations.values()):
            counted.setdefault(reservation.cohort, []).append(reservation.counted)
        with store.reachable(self._folder / FILE):
            patterns = self._patterns(patients)
        return _maximal({_added_up(e for name in p for e in counted.get(name, ())) for p in patterns})

    def spent(self, patients: Patients, delta: float, of: Which | None = None) -> float:
        """Return the epsilon at `delta` of the patient who has paid most."""
        return max(self._price(history, delta) for history in self.histories(patients, of))

    def enrolled(self, cohort: str) -> Patients:
        """Return a cohort that has reserved something."""
        found = self._db.execute("SELECT patient FROM members WHERE cohort = ? ORDER BY patient", (cohort,))
        return Patients(cohort, tuple(row[0] for row in found))

    # -- Reading ------------------------------------------------------------------------------------
    def _replay(self) -> None:
        for counter, body in store.entries(self._db):
            try:
                self._take(counter, body)
            except (KeyError, TypeError, ValueError, PrivacyError) as error:
                raise store.damaged(counter, f"makes no sense ({error!r})") from error
        for cohort in {reservation.cohort for reservation in self.reservations.values()}:
            if _cohort(self.enrolled(cohort).pseudonyms) != cohort:
                raise store.damaged(store.head(self._db).counter, f"cohort {cohort} has lost or won patients")

    def _take(self, counter: int, body: Mapping[str, Any]) -> None:
        if body["do"] == "begin":
            self._key_check = body["key"]
        elif body["do"] == "reserve":
            event, ask = Event(**body["event"]), Ask(**body["ask"])
            caps = tuple((e, d) for e, d in body["caps"])
            self.reservations[counter] = Reservation(counter, body["at"], ask, body["cohort"], event, caps)
        elif body["do"] == "release":
            known = self.reservations[body["reserved"]]
            self.reservations[known.counter] = replace(known, taken=body["steps"], reply=body["reply"])
        else:
            raise ValueError(body["do"])

    def _reserved(self, ask: Ask) -> Reservation | None:
        """Return the latest reservation of this task; PrivacyError if the name meant another one."""
        named = (r for r in reversed(self.reservations.values()) if replace(r.ask, base=ask.base) == ask)
        known = next(named, None)
        if known is not None and known.ask != ask:
            raise PrivacyError(
                f"round {ask.round} of run '{ask.run}' was asked before from another model or recipe: two "
                "answers under one name would be two releases for one price; ask with a new attempt"
            )
        return known

    def _patterns(self, patients: Patients) -> set[frozenset[str]]:
        """Return the sets of cohorts that any of these patients is in."""
        found = self._db.execute(_PATTERNS, (json.dumps(patients.pseudonyms),))
        return {frozenset(text.split(",")) if text else frozenset() for (text,) in found}

    def _afford(self, ask: Ask, patients: Patients, more: History, caps: Sequence[Cap]) -> None:
        for cap in caps:
            for history in self.histories(patients, _of(ask.run) if cap.of_run else None):
                # Not "> epsilon": what no accountant can put a number on is not affordable either.
                if not self._price((*history, *more), cap.delta) <= cap.epsilon:
                    raise BudgetError(
                        f"round {ask.round} would exceed epsilon {cap.epsilon:g} at delta {cap.delta:.3g} "
                        f"(spent {self._price(history, cap.delta):.3f}): {cap.remedy}"
                    )

    # -- Writing ------------------------------------------------------------------------------------
    def _append(self, body: dict[str, Any], patients: Patients | None = None) -> None:
        body = body | {"at": datetime.now(UTC).isoformat(timespec="seconds")}
        with store.transaction(self._db):
            if patients is not None:
                rows = ((p, patients.cohort) for p in patients.pseudonyms)
                self._db.executemany("INSERT OR IGNORE INTO members VALUES (?, ?)", rows)
            counter = store.append(self._db, body)
        self._take(counter, body)

    def _key(self) -> bytes:
        path = self._folder / KEY
        with store.reachable(path):
            if not path.exists() and not self._key_check:
                files.write(path, os.urandom(32))
            return path.read_bytes() if path.exists() else b""

    def _file(self, ask: Ask) -> Path:
        # The coordinator chose run and attempt: they are not names of files here.
        run, attempt = (sha256(text.encode()).hexdigest()[:32] for text in (ask.run, ask.attempt))
        return self._folder / REPLIES / f"{run}.{ask.round}.{attempt}"

    def _prune(self, ask: Ask) -> None:
        kept = self._file(ask)
        run = kept.name.partition(".")[0]
        for path in kept.parent.glob(f"{run}.*"):
            if int(path.name.split(".")[1]) < ask.round:
                path.unlink()


_PATTERNS = """
WITH asked(patient) AS (SELECT value FROM json_each(?))
SELECT DISTINCT cohorts FROM (
    SELECT group_concat(cohort) AS cohorts FROM asked LEFT JOIN members USING (patient) GROUP BY patient
)
"""


def _peek(folder: Path, look: Callable[[sqlite3.Connection], Any], otherwise: Any) -> Any:
    if not (folder / FILE).exists():
        return otherwise
    with store.reading(folder / FILE) as db, store.reachable(folder / FILE):
        return look(db)


def _of(run: str) -> Which:
    return lambda reservation: reservation.ask.run == run


def _cohort(pseudonyms: Sequence[str]) -> str:
    return sha256("".join(pseudonyms).encode()).hexdigest()[:32]


def _added_up(events: Iterable[Event]) -> History:
    steps: Counter[Event] = Counter()
    for event in events:
        steps[replace(event, steps=0)] += event.steps
    together = (replace(event, steps=n) for event, n in steps.items() if n)
    return tuple(sorted(together, key=repr))


def _maximal(histories: set[History]) -> list[History]:
    return sorted(
        (h for h in histories if not any(_within(h, other) for other in histories if other != h)),
        key=repr,
    )


def _within(history: History, other: History) -> bool:
    steps = {replace(event, steps=0): event.steps for event in other}
    return all(steps.get(replace(event, steps=0), 0) >= event.steps for event in history)
