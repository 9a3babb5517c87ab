"""The ledger knows what every patient has paid, in whatever runs, and never holds less."""

import json
import os
import signal
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy import ledger as books
from privacy import store
from privacy.accounting import Event, epsilon
from privacy.heads import Head, canonical, chained
from privacy.ledger import Ask, Cap, Ledger, Patients, reading, spending_from
from protocol.errors import BudgetError, PrivacyError, SettingsError

DELTA = 1e-5
EVENT = Event(1.0, 1.0, 4)  # a rate of 1 is the cheapest to account
NAMES = ("ada", "bea", "cyd")
ORIGINAL = store.SYNCHRONOUS
ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.fixture(autouse=True, scope="module")
def _quick_disk() -> Iterator[None]:
    """Nothing here pulls a plug."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SYNCHRONOUS", "OFF")
        patch.setattr(os, "fsync", lambda handle: None)
        yield


def rho(events: Iterable[Event], delta: float) -> float:
    """Zero-concentrated DP (Bun and Steinke, TCC 2016): composes exactly, and costs nothing to ask."""
    del delta
    return sum(event.steps / (2 * event.noise_multiplier**2) for event in events)


def cap(epsilon: float) -> Cap:
    return Cap(epsilon, DELTA, "stop here")


def ask(number: int = 1, run: str = "r", attempt: str = "a", base: str = "m") -> Ask:
    return Ask(run, number, attempt, base)


def pay(ledger: Ledger, question: Ask, event: Event = EVENT, names: Sequence[str] = NAMES) -> None:
    ledger.reserve(question, ledger.patients(names), event, [cap(1e9)])


@contextmanager
def opened(folder: Path) -> Iterator[Ledger]:
    with spending_from(folder, rho) as ledger:
        yield ledger


def counted(folder: Path) -> list[Event]:
    with reading(folder, rho) as ledger:
        return [each.counted for each in ledger.reservations.values()]


# -- What counts -----------------------------------------------------------------------------------
def test_a_new_cohort_has_paid_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        assert ledger.histories(ledger.patients(NAMES)) == [()]
        assert ledger.spent(ledger.patients(NAMES), DELTA) == 0


def test_a_reservation_counts_in_full_until_it_is_released(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        pay(ledger, ask())
        assert ledger.histories(ledger.patients(NAMES)) == [(EVENT,)]
        ledger.release(ask(), 3, b"reply")
        assert ledger.histories(ledger.patients(NAMES)) == [(replace(EVENT, steps=3),)]
    assert counted(tmp_path) == [replace(EVENT, steps=3)]


def test_nothing_is_left_of_a_round_without_steps(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        pay(ledger, ask())
        ledger.release(ask(), 0, b"")
        assert ledger.histories(ledger.patients(NAMES)) == [()]


def test_a_task_that_comes_again_takes_its_open_reservation_up(tmp_path: Path) -> None:
    for _ in range(3):
        with opened(tmp_path) as ledger:
            pay(ledger, ask())
    assert counted(tmp_path) == [EVENT]


@pytest.mark.parametrize("other", [ask(2), ask(run="s"), ask(attempt="b")])
def test_another_round_run_or_attempt_counts_besides(tmp_path: Path, other: Ask) -> None:
    with opened(tmp_path) as ledger:
        pay(ledger, ask())
        pay(ledger, other)
    assert counted(tmp_path) == [EVENT, EVENT]


def test_a_reservation_of_something_else_counts_besides(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        pay(ledger, ask())
        pay(ledger, ask(), Event(2.0, 1.0, 5))
        pay(ledger, ask(), Event(2.0, 1.0, 5), NAMES[:2])
        ledger.release(ask(), 0, b"")
    assert counted(tmp_path) == [EVENT, Event(2.0, 1.0, 5), Event(2.0, 1.0, 0)]


def test_the_same_name_for_another_model_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        pay(ledger, ask())
        for refused in (lambda: pay(ledger, ask(base="n")), lambda: ledger.released(ask(base="n"))):
            with pytest.raises(PrivacyError, match="asked before from another model or recipe"):
                refused()
    assert counted(tmp_path) == [EVENT]


@pytest.mark.parametrize(
    ("question", "steps", "message"),
    [
        (ask(), 5, "round 1 took 5 steps of 4 reserved"),
        (ask(), -1, "round 1 took -1 steps of 4 reserved"),
        (ask(2), 1, "run 'r' releases round 2, which it has not reserved"),
        (ask(run="s"), 1, "run 's' releases round 1, which it has not reserved"),
    ],
)
def test_a_release_that_fits_no_reservation_is_refused(
    tmp_path: Path, question: Ask, steps: int, message: str
) -> None:
    with opened(tmp_path) as ledger:
        pay(ledger, ask())
        with pytest.raises(PrivacyError, match=message):
            ledger.release(question, steps, b"reply")
        assert ledger.released(question) is None
    assert counted(tmp_path) == [EVENT]


def test_a_round_is_released_and_paid_once(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        pay(ledger, ask())
        ledger.release(ask(), 4, b"reply")
        with pytest.raises(PrivacyError, match="not reserved"):
            ledger.release(ask(), 4, b"another")
        with pytest.raises(PrivacyError, match="not paid twice"):
            pay(ledger, ask())


# -- Released bytes --------------------------------------------------------------------------------
def test_a_repeated_task_gets_its_bytes_and_pays_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        pay(ledger, ask())
        assert ledger.released(ask()) is None
        ledger.release(ask(), 4, b"reply")
    before = books.head(tmp_path)
    with opened(tmp_path) as ledger:
        assert ledger.released(ask()) == b"reply"
    assert books.head(tmp_path) == before


def test_bytes_are_kept_until_a_later_round_of_their_run(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        for question in (ask(1), ask(1, "s"), ask(1, attempt="b"), ask(2)):
            pay(ledger, question)
            ledger.release(question, 4, question.run.encode())
        for gone in (ask(1), ask(1, attempt="b")):
            with pytest.raises(PrivacyError, match=r"not kept any more.*new attempt"):
                ledger.released(gone)
        assert ledger.released(ask(2)) == b"r"
        assert ledger.released(ask(1, "s")) == b"s"


def test_bytes_that_were_changed_do_not_leave(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        pay(ledger, ask())
        ledger.release(ask(), 4, b"reply")
        (kept,) = (tmp_path / books.REPLIES).iterdir()
        kept.write_bytes(b"other")
        with pytest.raises(PrivacyError, match="not kept"):
            ledger.released(ask())


def test_the_coordinators_names_are_no_paths_here(tmp_path: Path) -> None:
    with opened(tmp_path / "books") as ledger:
        question = ask(run="../../out", attempt="/etc/x")
        pay(ledger, question)
        ledger.release(question, 4, b"reply")
        assert ledger.released(question) == b"reply"
    assert [path.name for path in tmp_path.iterdir()] == ["books"]


# -- Budgets ---------------------------------------------------------------------------------------
def test_what_would_exceed_is_refused_and_not_written(tmp_path: Path) -> None:
    once, twice = epsilon([EVENT], DELTA), epsilon([EVENT, EVENT], DELTA)
    with spending_from(tmp_path) as ledger:
        patients = ledger.patients(NAMES)
        with pytest.raises(BudgetError, match=r"round 1 would exceed .* \(spent 0.000\): stop here"):
            ledger.reserve(ask(), patients, EVENT, [cap(once - 1e-9)])
        ledger.reserve(ask(), patients, EVENT, [cap(once)])
        with pytest.raises(BudgetError, match=f"spent {once:.3f}"):
            ledger.reserve(ask(2), patients, EVENT, [cap(twice), cap(twice - 1e-9)])
        ledger.reserve(ask(2), patients, EVENT, [cap(twice)])
    assert counted(tmp_path) == [EVENT, EVENT]


def test_runs_compose_and_a_cap_may_be_of_the_run_alone(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        pay(ledger, ask(run="first"))
        second = ask(run="second")
        patients = ledger.patients(NAMES)
        with pytest.raises(BudgetError):
            ledger.reserve(second, patients, EVENT, [cap(2.0)])
        ledger.reserve(second, patients, EVENT, [replace(cap(2.0), of_run=True)])
        with pytest.raises(BudgetError):
            ledger.reserve(replace(second, round=2), patients, EVENT, [replace(cap(2.0), of_run=True)])


def test_an_open_reservation_is_not_taken_up_under_a_lower_cap(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        pay(ledger, ask())
        ledger.reserve(ask(), ledger.patients(NAMES), EVENT, [cap(2.0)])
        with pytest.raises(BudgetError):
            ledger.reserve(ask(), ledger.patients(NAMES), EVENT, [cap(1.9)])


@pytest.mark.parametrize("event", [Event(0.0, 1.0, 1), Event(1e-4, 1.0, 1)])
def test_what_has_no_price_is_not_affordable(tmp_path: Path, event: Event) -> None:
    with spending_from(tmp_path) as ledger, pytest.raises(BudgetError):
        ledger.reserve(ask(), ledger.patients(NAMES), event, [cap(1e6)])


# -- Cohorts overlap -------------------------------------------------------------------------------
PEOPLE = "abcdef"
Round = tuple[str, int, int]
"""Patients, logarithm of the noise, steps."""
ROUNDS = st.lists(
    st.tuples(
        st.sets(st.sampled_from(PEOPLE), min_size=1).map(lambda names: "".join(sorted(names))),
        st.integers(0, 2),
        st.integers(1, 6),
    ),
    max_size=7,
)


def twin(rounds: Iterable[Round], most: float) -> tuple[list[bool], dict[str, float]]:
    """Account patient by patient: which rounds were afforded, and what everybody has paid."""
    paid = dict.fromkeys(PEOPLE, 0.0)
    afforded: list[bool] = []
    for names, power, steps in rounds:
        price = steps / (2 * 4.0**power)
        afforded.append(all(paid[name] + price <= most for name in names))
        if afforded[-1]:
            paid |= {name: paid[name] + price for name in names}
    return afforded, paid | {"worst": max(paid.values())}


def by_ledger(folder: Path, rounds: Iterable[Round], most: float) -> tuple[list[bool], dict[str, float]]:
    afforded: list[bool] = []
    with opened(folder) as ledger:
        for number, (names, power, steps) in enumerate(rounds, 1):
            event = Event(2.0**power, 0.5, steps)
            try:
                ledger.reserve(ask(number), ledger.patients(names), event, [cap(most)])
                afforded.append(True)
            except BudgetError:
                afforded.append(False)
        paid = {name: ledger.spent(ledger.patients(name), DELTA) for name in PEOPLE}
        worst = ledger.spent(ledger.patients(PEOPLE), DELTA)
    return afforded, paid | {"worst": worst}


@given(rounds=ROUNDS, most=st.sampled_from([1.0, 2.5, 6.0]))
def test_a_patient_in_two_cohorts_is_one_patient(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[Round], most: float
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    assert by_ledger(folder, rounds, most) == twin(rounds, most)


def _only_the_same_cohort(self: Ledger, patients: Patients) -> set[frozenset[str]]:
    return {frozenset({patients.cohort})}


def _whatever_cohort(self: Ledger, patients: Patients) -> set[frozenset[str]]:
    return {frozenset(each.cohort for each in self.reservations.values())}


@pytest.mark.parametrize("mutant", [_only_the_same_cohort, _whatever_cohort])
def test_cohorts_that_do_not_know_each_other_are_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: Any
) -> None:
    rounds = [("ab", 0, 4), ("bc", 0, 4), ("d", 0, 4)]
    assert by_ledger(tmp_path / "right", rounds, 6.0) == twin(rounds, 6.0)
    monkeypatch.setattr(Ledger, "_patterns", mutant)
    assert by_ledger(tmp_path / "wrong", rounds, 6.0) != twin(rounds, 6.0)


def test_the_accountant_is_asked_about_histories_not_patients(tmp_path: Path) -> None:
    asked: list[int] = []

    def counting(events: Iterable[Event], delta: float) -> float:
        asked.append(1)
        return rho(events, delta)

    everybody = [str(number) for number in range(3000)]
    with spending_from(tmp_path, counting) as ledger:
        pay(ledger, ask(1), names=everybody[:2000])
        pay(ledger, ask(2), names=everybody[1000:])
        assert len(ledger.histories(ledger.patients(everybody))) == 1  # those in both have paid all of either
        pay(ledger, ask(3), names=everybody)
    assert len(asked) == 3


# -- Whose ledger ----------------------------------------------------------------------------------
def test_no_name_is_in_the_folder_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    names = ["Meier, Anna 1957", "Schmidt, Otto 1949"]
    with opened(tmp_path) as ledger:
        pay(ledger, ask(), names=names)
        ledger.release(ask(), 4, b"reply")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {books.FILE, books.KEY, "ledger.lock"}
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not any(word in path.read_bytes() for word in (b"Meier", b"Anna", b"Schmidt", b"1957"))


def test_a_pseudonym_means_nothing_without_the_key(tmp_path: Path) -> None:
    with opened(tmp_path / "here") as here, opened(tmp_path / "there") as there:
        assert here.patients(NAMES) == here.patients([*reversed(NAMES), NAMES[0]])
        assert not set(here.patients(NAMES).pseudonyms) & set(there.patients(NAMES).pseudonyms)


@pytest.mark.parametrize("hurt", [lambda path: path.unlink(), lambda path: path.write_bytes(bytes(32))])
def test_another_key_would_forget_everybody_and_is_refused(
    tmp_path: Path, hurt: Callable[[Path], object]
) -> None:
    with opened(tmp_path) as ledger:
        pay(ledger, ask())
    hurt(tmp_path / books.KEY)
    with pytest.raises(SettingsError, match="not the key that this ledger's patients are kept under"):
        opened(tmp_path).__enter__()


# -- Changed by hand -------------------------------------------------------------------------------
def _filled(folder: Path) -> Path:
    with opened(folder) as ledger:
        for number in (1, 2):
            pay(ledger, ask(number))
            ledger.release(ask(number), 3, b"reply")
    return folder / books.FILE


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET body = '{}' WHERE counter = 2",
        "DELETE FROM entries WHERE counter = 5",
        "DELETE FROM members",
        "UPDATE members SET cohort = 'x'",
        "INSERT INTO entries VALUES (9, '{}', '')",
        "INSERT OR REPLACE INTO entries VALUES (2, '{}', '')",
        "INSERT INTO entries (body, hash) VALUES ('{}', '')",
    ],
)
def test_sqlite_itself_refuses_to_change_the_past(tmp_path: Path, statement: str) -> None:
    path = _filled(tmp_path)
    with sqlite3.connect(path) as db, pytest.raises(sqlite3.IntegrityError, match=r"stay|follow"):
        db.execute(statement)
    db.close()


def _edit(path: Path, *statements: str) -> None:
    db = sqlite3.connect(path)
    for (trigger,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        db.execute(f"DROP TRIGGER {trigger}")
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


@pytest.mark.parametrize(
    ("statement", "entry"),
    [
        ("UPDATE entries SET body = replace(body, '\"steps\":4', '\"steps\":1') WHERE counter = 2", 2),
        ("UPDATE entries SET hash = upper(hash) WHERE counter = 3", 3),
        ("DELETE FROM entries WHERE counter = 2", 2),
        ("DELETE FROM entries WHERE counter = 1", 1),
        ("UPDATE entries SET counter = counter + 9", 1),
        ("DELETE FROM members WHERE patient = (SELECT min(patient) FROM members)", 5),
        ("INSERT INTO members SELECT 'x', cohort FROM members LIMIT 1", 5),
    ],
)
def test_a_changed_ledger_is_refused_with_its_place(tmp_path: Path, statement: str, entry: int) -> None:
    path = _filled(tmp_path)
    _edit(path, statement)
    for use in (opened, reading):
        with pytest.raises(PrivacyError, match=rf"ledger, entry {entry}: .*changed by hand"):
            use(tmp_path).__enter__()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"do": "forget"},
        {"do": "begin"},
        {"do": "reserve"},
        {"do": "reserve", "at": "", "ask": {}, "cohort": "", "event": {}, "caps": []},
        {"do": "release", "reserved": 99, "steps": 1, "reply": ""},
        {"do": "release", "reserved": 2, "reply": ""},
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    path, last = _filled(tmp_path), books.head(tmp_path)
    text = canonical(body)
    _edit(path, f"INSERT INTO entries VALUES (6, '{text}', '{chained(last.hash, text)}')")
    with pytest.raises(PrivacyError, match=r"entry 6: makes no sense"):
        opened(tmp_path).__enter__()


def test_what_is_no_ledger_is_said(tmp_path: Path) -> None:
    path = tmp_path / books.FILE
    path.write_bytes(b"not a database, but long enough to be looked at" * 99)
    with pytest.raises(PrivacyError, match="not a ledger, or damaged"):
        opened(tmp_path).__enter__()
    path.unlink()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(SettingsError, match="a ledger of version 2"):
        opened(tmp_path).__enter__()
    with pytest.raises(SettingsError, match="there is no such file"):
        reading(tmp_path / "nowhere").__enter__()


# -- An older copy ---------------------------------------------------------------------------------
def test_a_ledger_stands_where_it_has_been_and_nowhere_else(tmp_path: Path) -> None:
    assert books.head(tmp_path) == Head()
    assert books.stands(tmp_path, Head())
    assert not books.stands(tmp_path, Head(1, "ab"))
    seen = [books.head(tmp_path)]
    with opened(tmp_path) as ledger:
        for number in (1, 2):
            pay(ledger, ask(number))
            seen.append(books.head(tmp_path))
    assert [head.counter for head in seen] == [0, 2, 3]
    assert all(books.stands(tmp_path, head) for head in seen)
    assert not books.stands(tmp_path, Head(4, seen[2].hash))
    assert not books.stands(tmp_path, Head(3, seen[1].hash))


def test_a_restored_copy_that_went_on_is_another_ledger(tmp_path: Path) -> None:
    path = _filled(tmp_path)
    old = path.read_bytes()
    with opened(tmp_path) as ledger:
        pay(ledger, ask(3))
    seen = books.head(tmp_path)
    path.write_bytes(old)
    assert not books.stands(tmp_path, seen)
    with opened(tmp_path) as ledger:
        pay(ledger, ask(4))
        pay(ledger, ask(5))
    assert books.head(tmp_path).counter > seen.counter
    assert not books.stands(tmp_path, seen)


# -- The machine -----------------------------------------------------------------------------------
def test_a_transaction_is_on_the_disk_when_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SYNCHRONOUS", ORIGINAL)
    with store.writing(tmp_path / books.FILE) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("truncate",)
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_transaction_is_whole_or_absent(tmp_path: Path) -> None:
    with store.writing(tmp_path / books.FILE) as db:
        with pytest.raises(ValueError, match="Circular"), store.transaction(db):
            store.append(db, {"first": store.append(db, {}), "then": ENDLESS})
        assert store.head(db) == Head()


def test_a_machine_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / books.FILE).mkdir()
    with pytest.raises(SettingsError, match=r"ledger\.sqlite: unable to open.*nothing is released"):
        opened(tmp_path).__enter__()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with opened(tmp_path / "full") as ledger:
        pay(ledger, ask())
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(SettingsError, match=r"No space left on device.*nothing is released"):
            ledger.release(ask(), 4, b"reply")
        assert ledger.released(ask()) is None


def _hold(folder: Path, pipe: Connection) -> None:
    with opened(folder) as ledger:
        pay(ledger, ask())
        pipe.send("held")
        pipe.recv()


def test_a_second_process_is_locked_out_may_read_and_goes_on_when_the_first_is_killed(
    tmp_path: Path,
) -> None:
    context = get_context("fork")
    ours, theirs = context.Pipe()
    holder = context.Process(target=_hold, args=(tmp_path, theirs))
    holder.start()
    try:
        assert ours.poll(30)
        with pytest.raises(SettingsError, match=rf"process {holder.pid} is spending from this ledger"):
            opened(tmp_path).__enter__()
        assert counted(tmp_path) == [EVENT]
    finally:
        os.kill(holder.pid or 0, signal.SIGKILL)
        holder.join()
    with opened(tmp_path) as ledger:
        pay(ledger, ask(2))
    assert counted(tmp_path) == [EVENT, EVENT]


# -- A server that asks anything -------------------------------------------------------------------
ASKS = st.lists(
    st.tuples(
        st.builds(
            ask, st.integers(1, 3), st.sampled_from("rs"), st.sampled_from("ab"), st.sampled_from("mn")
        ),
        st.booleans(),
    ),
    max_size=14,
)


@given(asks=ASKS)
def test_whatever_is_asked_no_two_answers_go_under_one_price(
    tmp_path_factory: pytest.TempPathFactory, asks: list[tuple[Ask, bool]]
) -> None:
    """A task may be repeated, renamed, broken off: every different answer that left was paid for."""
    folder = tmp_path_factory.mktemp("ledger")
    left: set[bytes] = set()
    for number, (question, finishes) in enumerate(asks):
        with opened(folder) as ledger:
            try:
                known = ledger.released(question)
                if known is None:
                    ledger.reserve(question, ledger.patients(NAMES), EVENT, [cap(8.0)])
                    if not finishes:
                        continue
                    known = json.dumps(number).encode()
                    ledger.release(question, EVENT.steps, known)
                left.add(known)
            except PrivacyError:
                continue
            assert rho([EVENT] * len(left), DELTA) <= ledger.spent(ledger.patients(NAMES), DELTA) <= 8.0
