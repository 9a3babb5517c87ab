"""The hospital's file: read with care, strict where it is silent, and asked before anything happens."""

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from client import spending
from client.home import HOSPITAL
from client.policy import (
    DAYS,
    EXACT,
    OPEN,
    Counts,
    Hours,
    Policy,
    fits,
    objections,
    parse_policy,
    permit,
    read_policy,
)
from client.settings import Settings
from privacy.keys import make_signer
from protocol.errors import PolicyError
from protocol.messages import Task
from protocol.recipe import SIGNED_FOR, dump_recipe, load_recipe, recipe_hash
from protocol.stages import stages_of
from tests.client.hospital import POLICY, RECIPE, Hospital, changed

TEXT = yaml.safe_dump(dict(RECIPE))
TASK = Task("train", "run", 1, TEXT)
HERE = Settings("ward", Path("data"), Path("state"))


def _policy(**sections: Any) -> Policy:
    return parse_policy(yaml.safe_dump(changed(POLICY, **sections)))


def _refusal(policy: Policy, recipe: Any = RECIPE, **task: Any) -> str:
    with pytest.raises(PolicyError) as caught:
        permit(policy, HERE, Task("train", "run", 1, yaml.safe_dump(dict(recipe)), **task))
    return str(caught.value)


@pytest.fixture(autouse=True)
def _memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Hospital(tmp_path, monkeypatch)


# -- The file ------------------------------------------------------------------------------------


def test_what_a_file_leaves_out_has_the_value_of_the_shipped_one() -> None:
    assert parse_policy(HOSPITAL.read_text()) == Policy() == parse_policy("")


def test_the_shipped_policy_allows_nothing_yet_and_the_open_one_everything() -> None:
    assert "recipes: 'ward' fits no rule" in _refusal(Policy())
    permit(OPEN, HERE, Task("train", "run", 1, TEXT.replace("epsilon: 2.0", "epsilon: null")))
    assert read_policy(None) is OPEN


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "privacy: {largest_epsilom_run: 8}",
            "largest_epsilom_run: no such key; the nearest is 'privacy.larg",
        ),
        ("largest_delta: 1.0e-5", "no such key here; the nearest is 'privacy.largest_delta'"),
        ("privacy: {required: 1}", "privacy.required: expected true or false, found 1"),
        ("privacy: {largest_epsilon_run: 0}", "privacy.largest_epsilon_run: expected a number > 0"),
        ("recipes: {hashes: [abc]}", "recipes.hashes[0]: expected text of 64 hexadecimal digits"),
        (
            "recipes: {rules: [{strategy: [fedavgg]}]}",
            "rules[0].strategy: no such strategy 'fedavgg'; the nearest",
        ),
        ("recipes: {rules: [{model: ['vit*']}]}", "recipes.rules[0].model: no such model 'vit*'"),
        ("leaves: {metrics: [tumour/dise]}", "leaves.metrics: no such metric 'dise'; the nearest is 'dice'"),
        (
            "hours: {zone: Europe/Berlim, times: [20:00-06:00]}",
            "hours.zone: no such time zone 'Europe/Berlim'; the",
        ),
        (
            "hours: {zone: UTC, times: ['8-17']}",
            "hours.times[0]: expected text such as 20:00-06:00, found '8-17'",
        ),
        ("hours: {zone: UTC, times: [20:00-06:00], days: [mo]}", "hours.days[0]: expected one of mon, tue"),
        ("counts: {told_in_steps_of: 0}", "counts.told_in_steps_of: expected a whole number >= 1"),
        ("privacy: !!python/name:os.system x", "tag"),
        ("a: &a 1", "anchors"),
        ("- 1", "expected a mapping"),
        ("{", "not readable as YAML"),
    ],
)
def test_a_broken_file_refuses_everything_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    hospital = Hospital(tmp_path, monkeypatch, text)
    arrival = hospital.train(RECIPE)
    assert arrival.status == "declined"
    assert "this site's policy is wrong and allows nothing" in arrival.reason
    assert message in arrival.reason
    assert hospital.reads == 0


@pytest.mark.parametrize("damage", ["missing", "binary"])
def test_a_file_that_cannot_be_read_refuses_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    hospital = Hospital(tmp_path, monkeypatch)
    path = tmp_path / "policy.yaml"
    path.unlink() if damage == "missing" else path.write_bytes(b"\xff\xfe")
    arrival = hospital.train(RECIPE)
    assert arrival.status == "declined"
    assert "cannot be read" in arrival.reason
    assert str(tmp_path) not in arrival.reason


@given(st.text(max_size=40), st.integers(0, len(HOSPITAL.read_text())))
def test_any_damage_is_a_policy_or_a_policy_error(inserted: str, place: int) -> None:
    text = HOSPITAL.read_text()
    with suppress(PolicyError):
        assert isinstance(parse_policy(text[:place] + inserted + text[place:]), Policy)


def test_a_policy_that_is_tightened_counts_from_the_next_task_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hospital = Hospital(tmp_path, monkeypatch)
    assert hospital.train(RECIPE).status == "answered"
    hospital.rule(changed(POLICY, privacy={"largest_epsilon_run": 1.0}))
    arrival = hospital.train(RECIPE, number=2)
    reason = "privacy.epsilon: 2 is above privacy.largest_epsilon_run 1"
    assert (arrival.status, arrival.reason) == ("declined", f"PolicyError: {reason}")
    assert reason in caplog.text


# -- Which recipes -------------------------------------------------------------------------------


def test_a_recipe_is_allowed_by_its_hash_and_no_other_is() -> None:
    recipe = load_recipe(TEXT)
    policy = _policy(recipes={"rules": [], "hashes": [recipe_hash(recipe)]})
    permit(policy, HERE, TASK)
    permit(policy, HERE, Task("train", "run", 1, dump_recipe(recipe)))
    assert "recipes" in _refusal(policy, changed(RECIPE, seed=43))


def test_a_recipe_is_allowed_by_its_signer(tmp_path: Path) -> None:
    board, stranger = make_signer(tmp_path / "board.key"), make_signer(tmp_path / "stranger.key")
    policy = _policy(recipes={"rules": [], "signers": [board.public.hex()]})
    canonical = dump_recipe(load_recipe(TEXT)).encode()
    signed = board.sign(SIGNED_FOR, canonical).hex()
    permit(policy, HERE, Task("train", "run", 1, TEXT, signature=signed))
    assert "signed by none" in _refusal(policy, changed(RECIPE, seed=43), signature=signed)
    for wrong in (
        "",
        "zz",
        "00" * 64,
        stranger.sign(SIGNED_FOR, canonical).hex(),
        board.sign("x", canonical).hex(),
    ):
        assert "signed by none" in _refusal(policy, signature=wrong)


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        ({}, True),
        ({"name": ["w*"]}, True),
        ({"name": ["v*"]}, False),
        ({"model": ["table_mlp", "table_linear"]}, True),
        ({"model": ["table_mlp"]}, False),
        ({"objective": ["bce"], "strategy": ["fed*"]}, True),
        ({"objective": ["bce"], "strategy": ["krum"]}, False),
        ({"objective": ["dice*"]}, False),
    ],
)
def test_a_rule_allows_what_fits_all_of_its_patterns(rule: dict[str, list[str]], *, allowed: bool) -> None:
    policy = _policy(recipes={"rules": [rule]})
    assert bool(objections(policy, TEXT)) is not allowed


SPLIT = changed(
    RECIPE,
    privacy={"noise_multiplier": 1.0, "sampling_rate": 0.1},
    secure={"enabled": True, "fewest": 5, "noise_over": 3},
)


@pytest.mark.parametrize(
    ("accepted", "refused"),
    [
        (None, "secure.least_colluders: null, this site counts on its own noise alone"),
        (1, ""),
        (2, ""),
        (3, "3 shares in sums of 5 withstand 2 colluding sites, below secure.least_colluders 3"),
    ],
)
def test_noise_that_others_add_counts_only_where_the_hospital_says_so(
    accepted: int | None, refused: str
) -> None:
    policy = _policy(secure={"least_colluders": accepted})
    reasons = objections(policy, yaml.safe_dump(SPLIT))
    assert [refused in reason for reason in reasons] == [True] * bool(refused)
    assert Policy().secure.least_colluders is None


def test_a_hospital_that_wants_masked_updates_declines_others() -> None:
    policy = _policy(secure={"required": True})
    assert _refusal(policy) == (
        "secure.required: secure.enabled is false, and this site sends masked updates only"
    )
    assert not objections(policy, yaml.safe_dump(changed(RECIPE, secure={"enabled": True})))


LONG: dict[str, dict[str, Any]] = {
    "rounds": {"rounds": 10**9},
    "steps": {"training": {"steps": 10**9}},
    "epochs": {"training": {"steps": None, "epochs": 10**9}},
    "a small rate": {"training": {"steps": None}, "privacy": {"sampling_rate": 1e-9}},
    "correlated": {
        "training": {"steps": None, "epochs": 10**9},
        "privacy": {"mechanism": "ftrl", "sampling_rate": 0.5},
    },
    "plain": {"training": {"steps": None, "epochs": 10**9}, "privacy": {"epsilon": None}},
}


@pytest.mark.parametrize("how", LONG)
def test_a_recipe_that_would_keep_the_machine_busy_is_refused_before_it_is_priced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Finding out what affords a billion steps is itself work: no accountant is asked."""
    priced: list[object] = []
    monkeypatch.setattr(spending, "calibrate", lambda *args: priced.append(args) or 1.0)
    hospital = Hospital(tmp_path, monkeypatch, changed(POLICY, privacy={"required": False}))
    arrival = hospital.train(changed(RECIPE, **LONG[how]))
    assert arrival.status == "declined"
    assert re.search(r"is above work\.largest_(rounds|steps) 10*$", arrival.reason)
    assert not priced


def test_without_the_limit_on_work_it_would_have_been_priced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: a policy that bounds nothing."""
    priced: list[object] = []
    monkeypatch.setattr(spending, "calibrate", lambda *args: priced.append(args) or 1.0)
    hospital = Hospital(tmp_path, monkeypatch, changed(POLICY, work={"largest_rounds": None}))
    hospital.train(changed(RECIPE, rounds=10**9))
    assert priced


def test_all_reasons_are_told_at_once() -> None:
    policy = _policy(devices=["cuda*"])
    reason = _refusal(
        policy, changed(RECIPE, privacy={"epsilon": 9.0, "noise_multiplier": 0.1}, strategy="krum")
    )
    for key in ("recipes: 'ward'", "privacy.epsilon: 9", "privacy.noise_multiplier: 0.1", "devices: 'cpu'"):
        assert key in reason


@given(st.integers(0, 100), st.integers(1, 100))
def test_a_message_larger_than_allowed_is_refused(values: int, most: int) -> None:
    policy = _policy(leaves={"largest_message_bytes": most})
    task = Task("train", "run", 1, TEXT, vectors={"head:disease": torch.zeros(values)})
    if 4 * values > most:
        with pytest.raises(PolicyError, match="largest_message_bytes"):
            permit(policy, HERE, task)
    else:
        permit(policy, HERE, task)


# -- When ----------------------------------------------------------------------------------------


def _plainly_open(hours: Hours, now: datetime) -> bool:
    """Walk back minute by minute to the last change: inside if the last thing met is a beginning."""
    for window in hours.times:
        start, end = window.split("-")
        for minutes in range(24 * 60):
            then = now - timedelta(minutes=minutes)
            clock = f"{then:%H:%M}"
            if minutes and clock == end and end != start:
                break
            if clock == start:
                if DAYS[then.weekday()] in hours.days:
                    return True
                break
            if clock == end:
                break
    return False


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2026, 2, 1)),  # noqa: DTZ001 - given UTC below
    st.lists(
        st.sampled_from(["20:00-06:00", "08:00-17:30", "00:00-00:00", "23:59-00:01"]), min_size=1, max_size=2
    ),
    st.sets(st.sampled_from(DAYS), min_size=1),
)
def test_hours_are_those_of_a_plain_walk_along_the_clock(
    moment: datetime, times: list[str], days: set[str]
) -> None:
    now = moment.replace(tzinfo=UTC, second=0, microsecond=0)
    policy = _policy(hours={"zone": "UTC", "times": times, "days": sorted(days)})
    assert policy.hours is not None
    if _plainly_open(policy.hours, now):
        permit(policy, HERE, TASK, now)
    else:
        with pytest.raises(PolicyError, match="hours: it is"):
            permit(policy, HERE, TASK, now)


def test_hours_are_by_the_clock_of_their_zone_and_describing_is_always_allowed() -> None:
    policy = _policy(hours={"zone": "Asia/Tokyo", "times": ["09:00-10:00"]})
    open_in_tokyo = datetime(2026, 5, 4, 0, 30, tzinfo=UTC)
    permit(policy, HERE, TASK, open_in_tokyo)
    later = open_in_tokyo + timedelta(hours=1)
    with pytest.raises(PolicyError, match=r"it is mon 10:30, allowed is 09:00-10:00"):
        permit(policy, HERE, TASK, later)
    permit(policy, HERE, Task("describe", "run", 0, TEXT), later)


# -- Who is behind it ----------------------------------------------------------------------------


@given(st.integers(0, 60), st.integers(0, 30), st.integers(1, 30))
def test_a_cohort_smaller_than_either_minimum_takes_no_part(
    patients: int, least: int, contributors: int
) -> None:
    policy = _policy(counts={"least_patients": least, "least_contributors": contributors})
    recipe = load_recipe(TEXT)
    if patients < least or 0 < patients < contributors:
        with pytest.raises(PolicyError, match="fewer than"):
            fits(policy, TASK, recipe, patients, ())
    else:
        fits(policy, TASK, recipe, patients, ())


def test_a_delta_above_one_in_the_patients_is_refused_under_any_policy() -> None:
    recipe = load_recipe(TEXT, ["privacy.delta=0.2"])
    fits(OPEN, TASK, recipe, 5, ())
    with pytest.raises(PolicyError, match=r"privacy.delta: 0.2 is more than one in"):
        fits(OPEN, TASK, recipe, 6, ())


@given(st.integers(1, 10**6), st.integers(0, 10**4), st.integers(0, 50), st.integers(1, 1000))
def test_counts_are_told_coarsely_or_not_at_all(count: int, patients: int, least: int, step: int) -> None:
    counts = Counts(least_told=least, told_in_steps_of=step)
    told = counts.tell(count, patients)
    assert told % step == 0
    assert bool(told) is (patients >= max(least, 1))
    assert not told or abs(told - count) <= max(step - 1, step / 2)
    assert EXACT.tell(count, max(patients, 1)) == count


# -- Stages --------------------------------------------------------------------------------------


def _staged(**stage: Any) -> dict[str, Any]:
    return changed(RECIPE, stages=[{"name": "before", "rounds": 5, "epsilon": 1.0, **stage}])


def test_every_stage_must_be_allowed() -> None:
    """Also one that the recipe's own rounds say nothing of."""
    assert not objections(_policy(), yaml.safe_dump(_staged()))
    assert "recipes: 'ward' fits no rule" in _refusal(_policy(), _staged(strategy="fedadam"))
    assert "recipes: 'ward' fits no rule" in _refusal(_policy(), _staged(model="parallel_unet"))


def test_an_objective_of_an_earlier_stage_that_couples_patients_is_refused() -> None:
    cox = {"death": {"kind": "survival", "objective": "cox"}}
    assert "'cox' couples the cases" in _refusal(_policy(), _staged(heads=cox))


def test_the_rounds_of_all_stages_count() -> None:
    policy = _policy(work={"largest_rounds": 5})
    assert "rounds: 6 is above work.largest_rounds 5" in _refusal(policy, _staged())
    assert not objections(policy, yaml.safe_dump(_staged(rounds=4)))


def test_the_mutant_that_looks_at_the_last_stage_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.policy.stages_of", lambda recipe: stages_of(recipe)[-1:])
    objections.cache_clear()
    assert not objections(_policy(), yaml.safe_dump(_staged(strategy="fedadam")))
    objections.cache_clear()
