"""D5: wherever a site is killed in a private round, its ledger holds at least what left."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, cast

import pytest
import torch

from client import spending
from client.policy import OPEN
from client.settings import Settings
from client.site import Site
from client.spending import Spending, paid, planned
from privacy import ledger as books
from privacy import store
from privacy.accounting import Event, epsilon
from privacy.ledger import Ask, Ledger, reading
from protocol.errors import BudgetError, PrivacyError
from protocol.messages import Reply, Task, reply_to_bytes
from protocol.recipe import Privacy, Training, dump_recipe
from protocol.update import Update
from tests.federation import recipe

STEPS, DELTA = 3, 1e-3
PRIVATE = Privacy(epsilon=20.0, noise_multiplier=2.0, sampling_rate=1.0, delta=DELTA)
OURS = (spending.__file__, books.__file__, store.__file__)
TEXT = dump_recipe(recipe(rounds=2))
Pay = Callable[[Site, Task, Any], Reply]


@pytest.fixture(autouse=True, scope="module")
def _quick_disk() -> Iterator[None]:
    """A kill is not a power failure: what was written stays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SYNCHRONOUS", "OFF")
        patch.setattr(os, "fsync", lambda handle: None)
        yield


def site_at(folder: Path, privacy: Privacy = PRIVATE, names: str = "abcd") -> Site:
    """As much of a site as paying needs: one case a patient."""
    rows = torch.arange(len(names))
    cohort = SimpleNamespace(patients=tuple(names), patient=rows)
    settings = Settings("north", folder, folder / "state")
    whole = recipe(privacy=privacy, training=Training(steps=STEPS), rounds=2)
    return cast(
        "Site", SimpleNamespace(recipe=whole, settings=settings, cohort=cohort, rows=rows, policy=OPEN)
    )


def task(number: int = 1, start: float = 0.0, attempt: str = "a", run: str = "run") -> Task:
    return Task("train", run, number, TEXT, attempt, {"shared": torch.full((3,), start)})


def work(site: Site, asked: Task, known: Spending | None) -> Reply:
    """Train: an update that no second training gives again."""
    noise = torch.frombuffer(bytearray(os.urandom(12)), dtype=torch.int32).float()
    return Reply(
        "north", "train", asked.run, asked.round, Update({"shared": noise}, {"shared": 4}, float(STEPS))
    )


def counted(folder: Path) -> list[Event]:
    path = folder / "state"
    if not (path / books.FILE).exists():
        return []
    with suppress(books.SettingsError), reading(path) as ledger:
        return [each.counted for each in ledger.reservations.values()]
    return []  # killed before the file had its tables


# -- Without a crash -------------------------------------------------------------------------------
def test_without_privacy_nothing_is_paid_and_nothing_written(tmp_path: Path) -> None:
    reply = paid(site_at(tmp_path, Privacy()), task(), work)
    assert reply.update is not None
    assert list(tmp_path.iterdir()) == []


def test_a_repeated_task_gets_identical_bytes_and_spends_nothing(tmp_path: Path) -> None:
    first = paid(site_at(tmp_path), task(), work)
    again = paid(site_at(tmp_path), task(), work)
    assert reply_to_bytes(first) == reply_to_bytes(again)
    assert counted(tmp_path) == [Event(2.0, 1.0, STEPS)]
    assert first.facts["epsilon"] == epsilon([Event(2.0, 1.0, STEPS)], DELTA)
    assert 0 <= first.facts["epsilon"] - first.facts["epsilon_pld"] <= 0.012


def test_a_repeated_task_from_another_model_is_refused(tmp_path: Path) -> None:
    paid(site_at(tmp_path), task(), work)
    with pytest.raises(PrivacyError, match="asked before from another model"):
        paid(site_at(tmp_path), task(start=1.0), work)
    with pytest.raises(PrivacyError, match="asked before from another model"):
        paid(site_at(tmp_path), replace(task(), recipe="another"), work)
    assert len(counted(tmp_path)) == 1


def test_another_attempt_is_another_release(tmp_path: Path) -> None:
    first = paid(site_at(tmp_path), task(), work)
    other = paid(site_at(tmp_path), task(attempt="b"), work)
    assert reply_to_bytes(first) != reply_to_bytes(other)
    assert len(counted(tmp_path)) == 2


def test_over_budget_is_refused_before_training(tmp_path: Path) -> None:
    def never(*_: object) -> Reply:
        pytest.fail("it was trained")

    tight = replace(PRIVATE, epsilon=epsilon([Event(2.0, 1.0, STEPS)], DELTA))
    paid(site_at(tmp_path, tight), task(), work)
    with pytest.raises(BudgetError, match=r"round 2 would exceed epsilon .*: raise privacy\.epsilon"):
        paid(site_at(tmp_path, tight), task(2), never)


def test_two_runs_of_one_cohort_compose_and_the_second_gets_the_noise_that_is_left(tmp_path: Path) -> None:
    budget = replace(PRIVATE, epsilon=2.0, noise_multiplier=None)
    for number in (1, 2):
        reply = paid(site_at(tmp_path, budget), task(number, run="one"), work)
    assert 1.9 < reply.facts["epsilon"] <= 2.0
    same = replace(budget, noise_multiplier=reply.facts["noise_multiplier"])
    for names in ("abcd", "dxyz"):  # one patient of the first run is enough
        with pytest.raises(BudgetError, match="round 1 would exceed epsilon 2"):
            paid(site_at(tmp_path, same, names), task(run="two"), work)
    more = replace(budget, epsilon=3.0)
    for number in (1, 2):
        reply = paid(site_at(tmp_path, more), task(number, run="two"), work)
    assert 2.9 < reply.facts["epsilon"] <= 3.0
    assert planned(site_at(tmp_path, more)).event.noise_multiplier < reply.facts["noise_multiplier"]


# -- Killed ------------------------------------------------------------------------------------------
def _die_at_line(place: int, count: Path) -> None:
    """SIGKILL this process as it comes to the `place`-th line of ours, or write down how many there are."""
    seen = 0

    def each_line(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen
        if frame.f_code.co_filename not in OURS:
            return None
        seen += event == "line"
        if place and seen == place:
            os.kill(os.getpid(), signal.SIGKILL)
        if not place:
            count.write_text(str(seen))
        return each_line

    sys.settrace(each_line)


def _in_a_process(folder: Path, asked: Task, pay: Pay, place: int) -> None:
    def live() -> None:
        _die_at_line(place, folder / "count")
        leave(folder, pay(site_at(folder), asked, work))

    process = get_context("fork").Process(target=live)
    process.start()
    process.join()


def leave(folder: Path, reply: Reply) -> None:
    (folder / "left").write_bytes(reply_to_bytes(reply))


def lines_of(folder: Path, asked: Task, pay: Pay) -> int:
    _in_a_process(folder, asked, pay, 0)
    return int((folder / "count").read_text())


def survives(folder: Path, asked: Task, pay: Pay, place: int) -> bool:
    """Kill a round at a line; say whether the ledger holds what left, and what comes again is right."""
    before = counted(folder)
    _in_a_process(folder, asked, pay, place)
    left = (folder / "left").read_bytes() if (folder / "left").exists() else None
    once = Event(2.0, 1.0, STEPS)
    released = [*before, once] if left else before
    now = epsilon(counted(folder), DELTA)
    bounded = epsilon(released, DELTA) <= now <= epsilon([*released, once], DELTA)
    try:
        again, third = (reply_to_bytes(pay(site_at(folder), asked, work)) for _ in range(2))
    except PrivacyError:
        return False
    return bounded and again == third and left in {None, again} and counted(folder) == [*before, once]


def _killed_everywhere(folder: Path, pay: Pay, number: int, every: int) -> Iterator[bool]:
    """Kill round `number` at every so many of its lines, the last first, each in a fresh copy of the site."""
    origin = folder / "origin"
    (origin / "state").mkdir(parents=True)
    for earlier in range(1, number):
        paid(site_at(origin), task(earlier), work)
    lines = lines_of(shutil.copytree(origin, folder / "whole"), task(number), pay)
    assert lines > 100
    for place in range(lines, 0, -every):
        here = shutil.copytree(origin, folder / str(place))
        yield survives(here, task(number), pay, place)
        shutil.rmtree(here)


def test_killed_at_some_lines_of_a_round_nothing_that_left_is_forgotten(tmp_path: Path) -> None:
    assert all(_killed_everywhere(tmp_path, paid, 2, every=41))


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_killed_at_any_line_of_a_round_nothing_that_left_is_forgotten(tmp_path: Path, number: int) -> None:
    """More than ten places twenty times: the first round makes the ledger, the second adds to it."""
    results = list(_killed_everywhere(tmp_path, paid, number, every=1))
    assert len(results) >= 200
    assert all(results)


def _leaves_before_it_is_kept(site: Site, asked: Task, train: Any) -> Reply:
    def leaky(*words: Any) -> Reply:
        reply = train(*words)
        leave(site.settings.data, reply)
        return reply

    return paid(site, asked, leaky)


def _pays_afterwards(site: Site, asked: Task, train: Any) -> Reply:
    reply = train(site, asked, None)
    leave(site.settings.data, reply)
    return paid(site, asked, lambda *_: reply)


def _commits_before_it_is_kept(self: Ledger, ask: Ask, steps: int, reply: bytes) -> None:
    known = self._reserved(ask)
    assert known is not None
    digest = books.sha256(reply).hexdigest()
    self._append({"do": "release", "reserved": known.counter, "steps": steps, "reply": digest})
    books.files.write(self._file(ask), reply)


@pytest.mark.parametrize("mutant", [_leaves_before_it_is_kept, _pays_afterwards])
def test_a_site_that_does_things_in_another_order_is_caught(tmp_path: Path, mutant: Pay) -> None:
    assert not all(_killed_everywhere(tmp_path, mutant, 1, every=4))


def test_a_ledger_that_commits_what_is_not_kept_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "release", _commits_before_it_is_kept)
    assert not all(_killed_everywhere(tmp_path, paid, 1, every=1))
