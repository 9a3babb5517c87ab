"""D9 and A8: a coordinator who asks for less privacy than the hospital demands, or sends more than data.

What counts as too weak is decided here from the raw text's values, by a rule written apart from
`client.policy`; what an accepted round cost is read from the ledger and computed by the other accountant.
"""

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from client import policy as doors
from client import spending, training
from client.spending import history
from privacy.accounting import epsilon_pld
from protocol.messages import Task
from tests.client.hospital import POLICY, RECIPE, Hospital, changed

FLOOR = POLICY["privacy"]
INF = math.inf

# Few different honest values, so that their accounting is computed once; many tricks.
privacies = st.fixed_dictionaries(
    {"epsilon": st.sampled_from([2.0, 2.0, 4.0, 4.0, 4.0001, 100.0, 1e300, None])},
    optional={
        "delta": st.sampled_from([None, 1e-3, 1.1e-3, 0.5, 1 - 1e-9]),
        "noise_multiplier": st.sampled_from([None, 1e-300, 1e-9, 0.79, 0.8, 3.0]),
        "clip_norm": st.sampled_from([1e-3, 1.0, 10.0, 10.5, 1e30, 1e300]),
        "sampling_rate": st.sampled_from([None, 1.0]),
        "mode": st.sampled_from(["auto", "hooks", "functorch"]),
    },
)
trainings = st.fixed_dictionaries(
    {"steps": st.just(1)},
    optional={"batch": st.sampled_from([8, 10**6]), "epochs": st.sampled_from([1, 10**9])},
)
survivals = {"kind": "survival", "objective": "cox"}
heads = st.sampled_from([RECIPE["heads"], RECIPE["heads"], {"disease": survivals}])
tasks = st.builds(
    lambda privacy, train, head, rounds: {
        **changed(RECIPE, rounds=rounds, training=train),
        "privacy": privacy,
        "heads": head,
    },
    privacies,
    trainings,
    heads,
    st.sampled_from([1, 1, 3]),
)


def too_weak(recipe: Mapping[str, Any]) -> bool:
    """Say whether the recipe asks for less than `POLICY`, by its own words."""
    asked = recipe["privacy"]
    return (
        asked.get("epsilon") is None
        or asked["epsilon"] > FLOOR["largest_epsilon_run"]
        or (asked.get("delta") or 0) > FLOOR["largest_delta"]
        or (asked.get("noise_multiplier") or INF) < FLOOR["least_noise_multiplier"]
        or asked.get("clip_norm", 1.0) > FLOOR["largest_clip_norm"]
        or any(head["objective"] == "cox" for head in recipe["heads"].values())
    )


class Attempt:
    """A hospital under attack, and what it noticed."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.hospital = Hospital(folder, patch)
        self.private_steps = self.weak = self.accepted = 0
        honest = training.private

        def counted(*arguments: Any) -> Any:
            self.private_steps += 1
            return honest(*arguments)

        patch.setattr(training, "private", counted)
        patch.setattr(spending, "epsilon_pld", lambda events, delta: 0.0)  # the test's own oracle, below

    def __call__(self, recipe: Mapping[str, Any]) -> None:
        books = self.hospital.settings.books
        shutil.rmtree(books, ignore_errors=True)
        steps, reads = self.private_steps, self.hospital.reads
        arrival = self.hospital.train(recipe)
        paid = history(books)
        if too_weak(recipe):
            self.weak += 1
            assert arrival.status == "declined", (arrival.status, arrival.reason)
            assert (paid, self.private_steps, self.hospital.reads) == ((), steps, reads)
        elif arrival.reply is not None:
            self.accepted += 1
            delta = recipe["privacy"].get("delta") or FLOOR["largest_delta"]
            assert len(paid) == 1
            assert paid[0].noise_multiplier >= FLOOR["least_noise_multiplier"]
            assert epsilon_pld(paid, delta) <= recipe["privacy"]["epsilon"]
        else:
            assert arrival.status == "spent", arrival.reason
            assert paid == ()


def _fuzzed(attempt: Attempt, examples: int) -> None:
    failures: list[AssertionError] = []

    @settings(
        max_examples=examples,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(tasks)
    def fuzz(recipe: Mapping[str, Any]) -> None:
        try:
            attempt(recipe)
        except AssertionError as failure:
            failures.append(failure)

    # A site remembers what it has opened, so an example does not fail twice as Hypothesis wants it to.
    fuzz()
    if failures:
        raise failures[0]


@pytest.mark.slow
def test_no_fuzzed_task_below_the_floor_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = Attempt(tmp_path, monkeypatch)
    _fuzzed(attempt, 170)
    assert attempt.weak >= 100
    assert attempt.accepted >= 3


def _nothing(*arguments: Any) -> tuple[str, ...]:
    return ()


def _without_the_floor(recipe: Any, floor: Any, patients: int, spent: Any = ()) -> Any:
    """At epsilon 4 the run needs less noise than the policy demands."""
    return _honest_price(recipe, replace(floor, least_noise_multiplier=0.0), patients, spent)


_honest_price = spending.priced
MUTANTS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "numbers are not compared": (doors, "_above", _nothing),
    "the floor is not asked": (doors, "_too_weak", _nothing),
    "the first door is open": (doors, "objections", _nothing),
    "noise left to the site ignores the floor": (spending, "priced", _without_the_floor),
    "caps are forgotten": (spending, "caps", lambda *arguments: {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_of_the_policy_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    monkeypatch.setattr(*MUTANTS[mutant])
    with pytest.raises(AssertionError):
        _fuzzed(Attempt(tmp_path, monkeypatch), 60)


@pytest.mark.slow
def test_many_small_runs_cannot_add_up_to_more_than_the_cohort_s_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other run names, other rounds: the patients are the same."""
    monkeypatch.setattr(spending, "epsilon_pld", lambda events, delta: 0.0)
    limits = {"least_noise_multiplier": 0.1, "largest_epsilon_cohort": 4.5}
    hospital = Hospital(tmp_path, monkeypatch, changed(POLICY, privacy=limits))
    asked = changed(RECIPE, privacy={"epsilon": 4.0})
    outcomes = [hospital.train(asked, run=f"run{n}").status for n in range(3)]
    assert outcomes == ["answered", "answered", "spent"]  # the second has what noise makes of the rest
    assert epsilon_pld(history(hospital.settings.books), 1e-3) <= limits["largest_epsilon_cohort"]


@pytest.mark.slow
def test_a_run_cannot_outlast_its_limit_by_changing_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round claims to be the only one of a recipe with the whole budget."""
    hospital = Hospital(tmp_path, monkeypatch, changed(POLICY, privacy={"least_noise_multiplier": 0.1}))
    outcomes = [
        hospital.train(changed(RECIPE, seed=n, rounds=n, privacy={"epsilon": 4.0}), number=n).status
        for n in range(1, 4)
    ]
    assert outcomes == ["answered", "spent", "spent"]


HOSTILE = {
    "unknown key": {"privacy": {"epsilon": 2.0, "bypass": True}},
    "unknown section": {"backdoor": {}},
    "unknown model": {"model": "os.system"},
    "class path": {"model": {"name": "table_linear", "_target_": "os.system"}},
    "option of another": {"strategy": {"name": "fedavg", "policy": "off"}},
    "absolute path": {"data": {"name": "memory", "root": "/etc"}},
    "path upwards": {"data": {"name": "memory", "root": "../../other"}},
    "interpolation": {"name": "${oc.env:HOME}"},
    "missing value": {"name": "???"},
    "text for a number": {"privacy": {"epsilon": "2.0"}},
    "switch for a number": {"privacy": {"epsilon": True}},
    "infinity": {"privacy": {"epsilon": math.inf}},
    "not a number": {"privacy": {"epsilon": math.nan}},
    "negative": {"privacy": {"epsilon": -1.0}},
    "zero noise": {"privacy": {"epsilon": 2.0, "noise_multiplier": 0.0}},
    "no rounds": {"rounds": 0},
    "list for a mapping": {"privacy": [2.0]},
}
TEXT = yaml.safe_dump(dict(RECIPE))
HOSTILE_TEXTS = {
    "tag": TEXT.replace("ward", "!!python/object/apply:os.system [id]"),
    "anchor": TEXT.replace("ward", "&a ward") + "x: *a\n",
    "merge": TEXT + "<<: {privacy: {epsilon: null}}\n",
    "duplicate key": TEXT + "privacy: {epsilon: null}\n",
    "second document": TEXT + "---\nprivacy: {epsilon: null}\n",
    "bomb": "a: &a [x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(9)) + TEXT,
    "deep": TEXT + "x: " + "[" * 500 + "]" * 500 + "\n",
    "long": TEXT + "# " + "x" * 300_000,
    "not yaml": "{" + TEXT,
    "binary": "\x00\x01",
    "empty": "",
    "scalar": "hello",
    "lookalike key": TEXT.replace("epsilon", "epsil\u043en"),
    "other case": TEXT.replace("epsilon", "Epsilon"),
    "octal": TEXT.replace("2.0", "0o20"),
    "sexagesimal": TEXT.replace("2.0", "1:0"),
}


@pytest.mark.parametrize("trick", [*HOSTILE, *HOSTILE_TEXTS])
def test_a_hostile_recipe_is_refused_before_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trick: str
) -> None:
    hospital = Hospital(tmp_path, monkeypatch)
    recipe = HOSTILE_TEXTS[trick] if trick in HOSTILE_TEXTS else {**RECIPE, **HOSTILE[trick]}
    arrival = hospital.train(recipe)
    assert arrival.status in {"failed", "declined"}, arrival
    assert arrival.reason.startswith(("RecipeError: ", "PolicyError: "))
    assert hospital.reads == 0
    assert not hospital.settings.state.exists()


def test_groups_that_the_site_does_not_own_are_refused_before_a_step_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = Attempt(tmp_path, monkeypatch)
    task = Task("train", "run", 1, TEXT, vectors={"head:disease": torch.zeros(4), "head:x": torch.zeros(1)})
    arrival = attempt.hospital.asked(task)
    assert arrival.status == "declined"
    assert "head:x" in arrival.reason
    assert attempt.private_steps == 0
