"""The ledger never holds less than was released, wherever a process is killed."""

import json
import os
import stat
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.accounting import Event, epsilon
from privacy.ledger import Ledger
from protocol.errors import PrivacyError, SettingsError

DELTA = 1e-5
EVENT = Event(1.0, 1.0, 4)  # a rate of 1 is the cheapest to account


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "state" / "ledger.jsonl")


def file_of(ledger: Ledger) -> Path:
    return ledger._path


def test_a_new_cohort_has_paid_nothing(ledger: Ledger) -> None:
    assert ledger.events() == []
    assert not file_of(ledger).exists()


def test_a_reservation_counts_in_full_until_it_is_committed(ledger: Ledger) -> None:
    ledger.reserve("r", 1, EVENT)
    assert ledger.events() == [EVENT]
    ledger.commit("r", 1, 3)
    assert ledger.events() == [Event(1.0, 1.0, 3)]


def test_a_second_reservation_of_a_round_counts_besides_the_first(ledger: Ledger) -> None:
    ledger.reserve("r", 1, EVENT)
    ledger.reserve("r", 1, EVENT)
    ledger.commit("r", 1, 0)
    assert ledger.events() == [EVENT, Event(1.0, 1.0, 0)]
    ledger.commit("r", 1, 4)
    assert ledger.events() == [EVENT, Event(1.0, 1.0, 0)]


def test_runs_compose(ledger: Ledger) -> None:
    ledger.reserve("first", 1, EVENT)
    ledger.reserve("second", 1, Event(2.0, 1.0, 5))
    assert ledger.events("first") == [EVENT]
    assert ledger.events("second") == [Event(2.0, 1.0, 5)]
    assert ledger.events("third") == []
    assert len(ledger.events()) == 2


def test_the_budget_is_of_everything_so_far(ledger: Ledger) -> None:
    once, twice = epsilon([EVENT], DELTA), epsilon([EVENT, EVENT], DELTA)
    assert ledger.would_exceed(once - 1e-9, DELTA, EVENT)
    assert not ledger.would_exceed(once, DELTA, EVENT)
    ledger.reserve("r", 1, EVENT)
    assert ledger.would_exceed(once, DELTA, EVENT)
    assert not ledger.would_exceed(twice, DELTA, EVENT)


def test_only_its_owner_may_read_it(ledger: Ledger) -> None:
    ledger.reserve("r", 1, EVENT)
    file_of(ledger).chmod(0o644)
    ledger.reserve("r", 2, EVENT)
    assert stat.S_IMODE(file_of(ledger).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("run", "number", "steps", "message"),
    [
        ("r", 1, 5, "round 1 took 5 steps of 4 reserved"),
        ("r", 1, -1, "round 1 took -1 steps of 4 reserved"),
        ("r", 2, 1, "run r commits round 2, which it has not reserved"),
        ("s", 1, 1, "run s commits round 1, which it has not reserved"),
    ],
)
def test_a_commit_that_fits_no_reservation_is_refused(
    ledger: Ledger, run: str, number: int, steps: int, message: str
) -> None:
    ledger.reserve("r", 1, EVENT)
    before = file_of(ledger).read_bytes()
    with pytest.raises(PrivacyError, match=message):
        ledger.commit(run, number, steps)
    assert file_of(ledger).read_bytes() == before


# -- Crashes --------------------------------------------------------------------------------------
Rounds = list[tuple[str, int, int, int]]
"""Run, round, steps reserved, steps taken at most."""
ROUNDS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(1, 3), st.integers(1, 6), st.integers(0, 6)), max_size=6
)


def remembers(ledger: Ledger, rounds: Rounds, place: float) -> bool:
    """Whether a ledger that was cut at a share `place` of its bytes still holds what was released.

    Released is what was reserved before: a round trains only once its line is whole.
    """
    released: list[list[Event]] = [[]]
    sizes = [0]
    for run, number, steps, most in rounds:
        ledger.reserve(run, number, Event(1.0, 1.0, steps))
        released.append([*released[-1], Event(1.0, 1.0, min(most, steps))])
        sizes.append(file_of(ledger).stat().st_size)
        ledger.commit(run, number, min(most, steps))
    text = file_of(ledger).read_bytes() if rounds else b""
    cut = round(place * len(text))
    file_of(ledger).write_bytes(text[:cut])
    truth = [events for size, events in zip(sizes, released, strict=True) if size <= cut][-1]
    before = epsilon(ledger.events(), DELTA) >= epsilon(truth, DELTA)
    ledger.reserve("after", 9, EVENT)
    return before and epsilon(ledger.events(), DELTA) >= epsilon([*truth, EVENT], DELTA)


@given(rounds=ROUNDS, place=st.floats(0, 1))
def test_whatever_byte_a_crash_cuts_at_nothing_released_is_forgotten(
    tmp_path_factory: pytest.TempPathFactory, rounds: Rounds, place: float
) -> None:
    assert remembers(Ledger(tmp_path_factory.mktemp("ledger") / "ledger.jsonl"), rounds, place)


class Forgetful(Ledger):
    """A mutant: what was not committed does not count."""

    def events(self, run: str | None = None) -> list[Event]:
        lines = [json.loads(line) for line in file_of(self).read_bytes().split(b"\n")[:-1]]
        return [Event(1.0, 1.0, line["steps"]) for line in lines if line["do"] == "commit"]


def test_a_ledger_that_forgets_open_reservations_is_caught(tmp_path: Path) -> None:
    history = [("a", 1, 4, 4), ("a", 2, 4, 4)]
    places = [place / 20 for place in range(21)]
    assert all(remembers(Ledger(tmp_path / f"{place}"), history, place) for place in places)
    assert not all(remembers(Forgetful(tmp_path / f"forgetful {place}"), history, place) for place in places)


def test_a_torn_line_is_cut_off_and_not_glued_to_the_next(ledger: Ledger) -> None:
    ledger.reserve("r", 1, EVENT)
    with file_of(ledger).open("ab") as file:
        file.write(b'{"do": "reserve", "run": "r", "rou')
    assert ledger.events() == [EVENT]
    ledger.commit("r", 1, 2)
    assert ledger.events() == [Event(1.0, 1.0, 2)]


LINE = {"do": "reserve", "run": "r", "round": 1, "noise_multiplier": 1.0, "sampling_rate": 1.0, "steps": 4}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"\x00\x00\x00",
        b"\xff",
        b"[]",
        b"4",
        b"{}",
        b"[" * 100_000,
        json.dumps(LINE | {"do": "forget"}).encode(),
        json.dumps(LINE | {"do": ["reserve"]}).encode(),
        json.dumps(LINE | {"more": 1}).encode(),
        json.dumps(LINE | {"steps": 4.0}).encode(),
        json.dumps(LINE | {"steps": True}).encode(),
        json.dumps(LINE | {"steps": -4}).encode(),
        json.dumps(LINE | {"round": "1"}).encode(),
        json.dumps(LINE | {"noise_multiplier": float("nan")}).encode(),
        json.dumps(LINE | {"sampling_rate": 2}).encode(),
        b'{"do": "commit", "run": "r", "round": 7, "steps": 1}',
        b'{"do": "commit", "run": "r", "round": 1, "steps": 5}',
    ],
)
def test_any_other_damage_is_refused_with_its_place(ledger: Ledger, line: bytes) -> None:
    ledger.reserve("r", 1, EVENT)
    with file_of(ledger).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(PrivacyError, match=r"ledger\.jsonl, line 2: .*changed by hand or by a failing disk"):
        ledger.events()
    with pytest.raises(PrivacyError, match="line 2"):
        ledger.commit("r", 1, 1)


@given(st.data())
def test_a_changed_byte_never_makes_the_past_cheaper_unseen(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any line that no longer reads as written by us is refused; this ledger has no seal against skill."""
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "ledger.jsonl")
    ledger.reserve("r", 1, EVENT)
    ledger.reserve("r", 2, EVENT)
    text = bytearray(file_of(ledger).read_bytes())
    structure = [place for place, byte in enumerate(text[:-1]) if byte in b'{}":,\n']
    text[data.draw(st.sampled_from(structure))] = data.draw(st.sampled_from(b"x\x00}{"))
    file_of(ledger).write_bytes(text)
    try:
        events = ledger.events()
    except PrivacyError:
        return
    assert events == [EVENT, EVENT]


# -- The machine -----------------------------------------------------------------------------------
def test_a_line_is_on_the_disk_before_reserve_returns(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(stat.S_ISDIR(os.fstat(handle).st_mode)))
    ledger.reserve("r", 1, EVENT)
    assert synced == [False, True]  # the line, then the folder that names the new file
    ledger.commit("r", 1, 4)
    assert synced == [False, True, False]


def test_a_disk_that_fails_is_said(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SettingsError, match=r"ledger\.jsonl: No space left on device.*nothing is released"):
        ledger.reserve("r", 1, EVENT)


def test_a_ledger_that_cannot_be_read_is_not_an_empty_one(ledger: Ledger) -> None:
    file_of(ledger).mkdir(parents=True)
    with pytest.raises(SettingsError, match="Is a directory"):
        ledger.events()


def _reserve_many(path: Path, run: str) -> None:
    for number in range(40):
        Ledger(path).reserve(run, number, EVENT)


def test_two_processes_share_one_ledger(ledger: Ledger) -> None:
    context = get_context("fork")
    workers = [context.Process(target=_reserve_many, args=(file_of(ledger), run)) for run in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(ledger.events("a")) == len(ledger.events("b")) == 40
