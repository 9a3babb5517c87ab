"""Everything that leaves is accounted or declared: every value on the wire, and what a reader is told of it.

Whole runs with keys and books, at sites that let everything out. What is looked at are the packed
records, after all of the site's own code; what they are held against is the table that the sites
told, as report and model card show it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any, cast

import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from client import app
from client.app import ANSWERS
from client.egress import AROUND, VALUES
from client.settings import Settings
from client.site import Site
from protocol.messages import Reply, Task, pack_reply
from protocol.recipe import Evaluation, Part, Privacy, Recipe, Secure, Training
from server.card import card
from server.record import RunRecord
from server.report import render
from tests.secure import SecureFederation, secure_recipe

PRIVATE = secure_recipe(
    privacy=Privacy(epsilon=50.0, noise_multiplier=2.0, delta=1e-2),
    training=Training(batch=4, steps=1),
    secure=Secure(),
)
SECURE = replace(PRIVATE, secure=Secure(enabled=True))
PLAIN = replace(PRIVATE, privacy=Privacy(), strategy=Part("scaffold"))
LINES = [(pattern.split("/"), line) for pattern, line in {**VALUES, **AROUND}.items()]

Place = tuple[str, ...]


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SecureFederation:
    return SecureFederation(tmp_path, monkeypatch, ("centre", "east", "north"))


def heard(
    federation: SecureFederation, patch: pytest.MonkeyPatch, recipe: Recipe
) -> tuple[RunRecord, set[Place]]:
    """Run a recipe; return its record and the places of all values in all replies."""
    found: set[Place] = set()

    def hear(reply: Reply) -> RecordDict:
        content = pack_reply(reply)
        found.update(places(content))
        return content

    patch.setattr(app, "pack_reply", hear)
    return federation.run(recipe), found


def places(content: RecordDict) -> Iterator[Place]:
    yield from inside((), json.loads(str(cast("ConfigRecord", content["facts"])["json"])))
    for vector in cast("ArrayRecord", content["vectors"]):
        yield ("update", "extras" if "/" in vector else "deltas", *vector.split("/", 1))


def inside(place: Place, value: Any) -> Iterator[Place]:
    if not isinstance(value, Mapping):
        yield place
        return
    for name, inner in cast("Mapping[str, Any]", value).items():
        yield from inside((*place, name), inner)


def line(place: Place) -> str:
    """The line of a place, "" where it has none."""
    for pattern, found in LINES:
        if len(pattern) == len(place) and all(p in ("*", n) for p, n in zip(pattern, place, strict=True)):
            return found
    return ""


def undeclared(record: RunRecord, found: set[Place]) -> set[str]:
    """Places of values that left and of which no reader of the report is told."""
    told = dict(record.sites[0].leaves)
    return {"/".join(place) for place in found if told.get(line(place), "suppressed") == "suppressed"}


@pytest.mark.parametrize(
    "recipe", [PRIVATE, *(pytest.param(other, marks=pytest.mark.slow) for other in (SECURE, PLAIN))]
)
def test_every_value_that_leaves_is_accounted_or_declared(
    federation: SecureFederation, monkeypatch: pytest.MonkeyPatch, recipe: Recipe
) -> None:
    record, found = heard(federation, monkeypatch, recipe)
    assert [site.status for site in record.rounds[0].sites] == ["accepted"] * 3
    assert ("facts", "scores", "own", "tumour/dice", "sums") in found
    assert any(place[:2] == ("update", "deltas") for place in found)
    assert undeclared(record, found) == set()
    private = recipe.privacy.epsilon is not None
    assert record.sites[0].leaves["updates"].startswith("accounted" if private else "declared")
    assert (("facts", "loss") in found) is not private


def test_a_reader_of_report_and_card_is_told_of_every_kind(federation: SecureFederation) -> None:
    record = federation.run(PRIVATE)
    for text in (unescape(render(record, PRIVATE, ())), card(record, PRIVATE)):
        for kind, how in record.sites[0].leaves.items():
            assert kind in text
            assert how in text


CHOSEN = "(tumour/dice) follows from the scores of validation patients, and so tells of these without noise"


@pytest.mark.parametrize(
    ("recipe", "words"),
    [(PRIVATE, CHOSEN), (replace(PRIVATE, evaluation=Evaluation()), "Scores choose nothing.")],
)
def test_what_is_chosen_by_scores_is_said(federation: SecureFederation, recipe: Recipe, words: str) -> None:
    record = federation.run(recipe)
    for text in (unescape(render(record, recipe, ())), card(record, recipe)):
        assert words in text
        assert "no run ends early because of a score" in text


# -- Mutants -------------------------------------------------------------------------------------
def telling(patch: pytest.MonkeyPatch, kind: str, facts: Mapping[str, Any]) -> None:
    """Let the site's code answer `kind` with more than it should."""
    honest = ANSWERS[kind]

    def answer(site: Site, task: Task) -> Reply:
        reply = honest(site, task)
        return replace(reply, facts={**reply.facts, **facts})

    patch.setitem(ANSWERS, kind, answer)


MUTANTS = [("train", "gradient_norm"), ("train", "loss"), ("evaluate", "hardest_case")]


@pytest.mark.parametrize(
    ("kind", "value"), [MUTANTS[0], *(pytest.param(*m, marks=pytest.mark.slow) for m in MUTANTS[1:])]
)
def test_the_mutant_that_tells_more_is_caught(
    federation: SecureFederation, monkeypatch: pytest.MonkeyPatch, kind: str, value: str
) -> None:
    """Without the last look, which would have kept the value (or the whole reply) at home."""
    telling(monkeypatch, kind, {value: 0.5})
    monkeypatch.setattr(app, "leave", lambda reply, site: reply)
    record, found = heard(federation, monkeypatch, PRIVATE)
    (stray,) = undeclared(record, found)
    assert stray.rpartition("/")[2] == value


def test_the_mutant_that_tells_more_after_the_last_look_is_caught(
    federation: SecureFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = app.written_down

    def written_down(settings: Settings, task: Task, reply: Reply) -> Reply:
        reply = honest(settings, task, reply)
        return replace(reply, facts={**reply.facts, "patients_today": 7})

    monkeypatch.setattr(app, "written_down", written_down)
    assert undeclared(*heard(federation, monkeypatch, PRIVATE)) == {"facts/patients_today"}
