"""The last look: nothing leaves that the site does not own, and no number that nobody thought of."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from client import app
from client.egress import AROUND, VALUES, leave, release, statement, without_paths
from client.home import HOSPITAL
from client.policy import OPEN, Leaves, Policy, parse_policy
from client.site import Site
from protocol.errors import PolicyError, PrivacyError
from protocol.messages import Reply, Task
from protocol.metrics import METRICS, Tally
from protocol.recipe import Privacy, load_recipe
from protocol.update import Update
from tests.client.hospital import POLICY, RECIPE, Hospital, changed

OWNED = {"shared": 5, "modality:flair": 3}


def _update(*groups: str, counts: dict[str, int] | None = None) -> Update:
    deltas = {group: torch.ones(2) for group in groups}
    return Update(deltas, counts or {g: OWNED.get(g, 1) for g in groups}, 1.0)


@given(st.lists(st.text(st.characters(exclude_characters="/\n", codec="utf-8"), min_size=1), min_size=1))
def test_no_folder_of_a_site_leaves_in_an_errors_words(names: list[str]) -> None:
    """Nothing between the slashes stays, whatever stands there but what ends a path in our sentences."""
    path = "/".join(["", *(re.sub(": |; ", "_", name) for name in names)])
    told = without_paths(f"{path}: cannot be read: make it readable")
    assert told == "<path>: cannot be read: make it readable"


def test_what_is_no_path_leaves_as_it_is() -> None:
    told = "1/2 of modality:t1/2 at https://mlflow.example/x; see data.name and T1w/T2w"
    assert without_paths(told) == told
    assert without_paths("~/scans (old)/O'Hara, Jo: no room; ask") == "<path>: no room; ask"


def test_what_is_owned_passes_untouched() -> None:
    update = _update("shared", "modality:flair")
    assert release(update, OWNED) is update


@pytest.mark.parametrize("group", ["private", "modality:t1", "head:tumour"])
def test_a_stray_group_stays(group: str) -> None:
    with pytest.raises(PrivacyError, match=group):
        release(_update("shared", group), OWNED)


def test_a_stray_group_in_an_extra_stays() -> None:
    update = Update({"shared": torch.ones(2)}, {"shared": 5}, 1.0, {"control": {"private": torch.ones(2)}})
    with pytest.raises(PrivacyError, match="private"):
        release(update, OWNED)


def test_a_count_that_is_not_the_cohorts_stays() -> None:
    with pytest.raises(PrivacyError, match="shared"):
        release(_update("shared", counts={"shared": 6}), OWNED)


def test_an_update_larger_than_allowed_stays() -> None:
    extra = Update({"shared": torch.ones(2)}, {"shared": 5}, 1.0, {"control": {"shared": torch.ones(2)}})
    assert release(extra, OWNED, Leaves(largest_message_bytes=16)) is extra
    with pytest.raises(PolicyError, match="message of 16 B, at most 15"):
        release(extra, OWNED, Leaves(largest_message_bytes=15))


# -- Facts ---------------------------------------------------------------------------------------

PLAIN = load_recipe(yaml.safe_dump(changed(RECIPE, privacy={"epsilon": None})))
PRIVATE = replace(PLAIN, privacy=Privacy(epsilon=2.0))
STRICT = parse_policy(HOSPITAL.read_text())
TALLIES: Mapping[str, tuple[float, ...]] = {
    "dice": (20.123, 23.0),
    "hd95_mm": (100.3, 23.0, 4.0),
    "accuracy": (19.0, 23.0),
    "c_index": (100.5, 123.0),
    "balanced_accuracy": (9.0, 2.0, 3.0, 9.0),
    "mcc": (9.0, 2.0, 3.0, 9.0),
    "auroc": (3.0, 1.0, 0.0, 900.0, 0.0, 1.0),
    "ece": (0.5,) * 15 + (1.0,) * 30,
    "loss": (20.123, 23.0),
}


def _site(policy: Policy, recipe: Any = PLAIN) -> Site:
    return Site(None, recipe, None, None, {}, None, torch.arange(0), 0, {}, policy)  # pyright: ignore[reportArgumentType]


def _scores(policy: Policy, scores: Mapping[str, tuple[float, ...]]) -> dict[str, Any]:
    told = {f"head/{kind}": vars(Tally(kind, sums)) for kind, sums in scores.items()}
    reply = leave(Reply("ward", "evaluate", "run", 1, facts={"scores": {"own": told}}), _site(policy))
    return reply.facts["scores"]["own"]


def test_every_fact_has_a_line_and_every_line_one_of_three_fates() -> None:
    for policy in (OPEN, STRICT):
        for recipe in (PLAIN, PRIVATE):
            lines = statement(policy, recipe)
            assert {*VALUES.values(), *AROUND.values()} == set(lines)
            assert all(how.split(":")[0] in {"accounted", "suppressed", "declared"} for how in lines.values())
    assert statement(OPEN, PRIVATE)["updates"] == "accounted"
    assert statement(OPEN, PLAIN)["updates"].startswith("declared")


def test_a_fact_that_nobody_thought_of_stays() -> None:
    for kind in ("describe", "train", "evaluate"):
        with pytest.raises(PrivacyError, match=r"\['facts/gradient_norm'\] may not leave"):
            leave(Reply("ward", kind, "run", 1, facts={"gradient_norm": 3.2}), _site(OPEN))


def test_a_value_inside_a_known_fact_stays_as_well() -> None:
    facts = {"summary": {"site": "ward", "patients": {"train": 40}, "mean_age": 61.5}}
    with pytest.raises(PrivacyError, match=r"\['facts/summary/mean_age'\] may not leave"):
        leave(Reply("ward", "describe", "run", 0, facts=facts), _site(OPEN))


@pytest.mark.parametrize(
    ("policy", "recipe", "leaves"),
    [(OPEN, PLAIN, True), (OPEN, PRIVATE, False), (STRICT, PLAIN, False), (STRICT, PRIVATE, False)],
)
def test_a_loss_leaves_only_without_privacy_and_where_it_may(
    policy: Policy, recipe: Any, *, leaves: bool
) -> None:
    reply = Reply("ward", "train", "run", 1, facts={"loss": 0.7, "seconds": 1.0})
    assert ("loss" in leave(reply, _site(policy, recipe)).facts) is leaves


def test_scores_stay_by_default_and_nothing_is_computed_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "score", None)
    hospital = Hospital(tmp_path, monkeypatch)
    task = Task("evaluate", "run", 1, yaml.safe_dump(dict(RECIPE)), facts={"split": "test", "subsets": True})
    reply = hospital.asked(task).reply
    assert reply is not None
    assert reply.facts == {"scores": {}}


def test_only_the_metrics_named_leave() -> None:
    exact = replace(OPEN, leaves=replace(OPEN.leaves, metrics=("*/dice", "head/acc*")))
    found = _scores(exact, TALLIES)
    assert set(found) == {"head/dice", "head/accuracy"}
    assert found["head/dice"]["sums"] == TALLIES["dice"]
    assert _scores(OPEN, TALLIES).keys() == {f"head/{kind}" for kind in METRICS}


@given(
    st.sampled_from([0.001, 0.01, 0.05, 0.5]),
    st.sampled_from([1, 5, 10]),
    st.floats(0, 1),
    st.integers(1, 400),
)
def test_rounded_scores_are_multiples_over_rounded_counts(
    step: float, counted_by: int, value: float, count: int
) -> None:
    counts = replace(STRICT.counts, told_in_steps_of=counted_by)
    policy = replace(OPEN, counts=counts, leaves=replace(OPEN.leaves, scores_in_steps_of=step))
    found = _scores(policy, {"dice": (value * count, float(count))})["head/dice"]
    told = Tally(found["kind"], tuple(found["sums"]))
    assert told.count % counted_by == 0
    assert abs(told.value - value) <= step / 2 + 1e-9
    assert abs(told.value / step - round(told.value / step)) < 1e-6


def test_kinds_that_show_single_cases_stay_when_scores_are_rounded() -> None:
    policy = replace(OPEN, leaves=replace(OPEN.leaves, scores_in_steps_of=0.01))
    assert set(_scores(policy, TALLIES)) == {
        f"head/{kind}" for kind in ("dice", "hd95_mm", "accuracy", "c_index", "loss")
    }


def test_a_score_over_fewer_patients_than_may_be_told_is_not_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four validation patients: enough for a policy of four, too few for one of five."""
    found: list[dict[str, Any]] = []
    for least in (4, 5):
        rules = changed(POLICY, leaves={"metrics": ["*/accuracy"]}, counts={"least_told": least})
        hospital = Hospital(tmp_path, monkeypatch, rules)
        facts = {"split": "validation", "subsets": False}
        vectors = {"head:disease": torch.zeros(4)}
        task = Task("evaluate", "run", 1, yaml.safe_dump(dict(RECIPE)), vectors=vectors, facts=facts)
        reply = hospital.asked(task).reply
        assert reply is not None
        found.append(reply.facts["scores"]["own"])
    assert [set(scores) for scores in found] == [{"disease/accuracy"}, set()]


def test_the_mutant_without_the_last_look_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "leave", lambda reply, site: reply)
    with pytest.raises(AssertionError):
        test_a_score_over_fewer_patients_than_may_be_told_is_not_computed(tmp_path, monkeypatch)


def test_describing_is_as_coarse_as_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """36 of 40 patients train, 4 validate: told is 40 of the first and nothing of the others."""
    hospital = Hospital(tmp_path, monkeypatch)
    facts = hospital.describe(RECIPE).facts
    assert facts["owned"] == {"shared": 40, "modality:table": 40, "head:disease": 40}
    assert facts["summary"]["patients"] == {"train": 40, "validation": 0, "test": 0}
    assert facts["summary"]["patterns"] == {"table": 40}
    assert facts["leaves"]["scores"] == "suppressed"
    trained = hospital.train(RECIPE).reply
    assert trained is not None
    assert trained.update is not None
    assert trained.update.counts == {"head:disease": 40}
