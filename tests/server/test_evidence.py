"""What attacks found: written, read back, judged, and shown with what it means."""

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from protocol.errors import CheckpointError
from protocol.recipe import recipe_hash
from server.evidence import FILE, KINDS, Attack, Evidence, from_json, read_evidence, to_json, verdict
from server.report import render
from tests.server import records

EPSILON = Attack("epsilon", 5.1, 0.8, 8.0, {"canaries": 1000, "guesses": 120})
MEMBERSHIP = Attack("membership", 0.9, 0.01, 0.05, {"models": 8})
INVERSION = Attack("inversion", 44.0, 3.0, 13.5, {"starts": 4})
EVIDENCE = Evidence("abc", "0123", "2026-01-01T10:15:00+00:00", (EPSILON, MEMBERSHIP, INVERSION))


def test_what_is_written_is_read_back() -> None:
    assert from_json(to_json(EVIDENCE)) == EVIDENCE
    naked = replace(EVIDENCE, attacks=(replace(EPSILON, defended=None, limit=None),))
    assert from_json(to_json(naked)) == naked


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"recipe": 1, "commit": 1, "made": 1, "attacks": [{"name": "x", "setting": {}}]}'],
)
def test_what_is_no_evidence_is_said(text: str) -> None:
    with pytest.raises(CheckpointError, match="make it anew"):
        from_json(text)


def test_a_run_that_nobody_attacked_has_none(tmp_path: Path) -> None:
    assert read_evidence(tmp_path) is None
    (tmp_path / FILE).write_text(to_json(EVIDENCE))
    assert read_evidence(tmp_path) == EVIDENCE


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (MEMBERSHIP, "below its limit"),
        (replace(MEMBERSHIP, defended=0.06), "ABOVE its limit"),
        (replace(MEMBERSHIP, control=0.1), "says little"),
        (replace(MEMBERSHIP, control=0.1, defended=0.5), "ABOVE its limit"),
        (EPSILON, "says little"),  # a thousand canaries never show more than 5.8
        (replace(EPSILON, limit=3.0), "below its limit"),
        (replace(MEMBERSHIP, defended=None, limit=None), "nothing defends"),
    ],
)
def test_a_verdict_never_says_more_than_was_found(attack: Attack, words: str) -> None:
    assert words in verdict(attack)
    assert not re.search(r"\b(safe|secure|proven|private)\b", verdict(attack))


def shown(evidence: Evidence | None) -> str:
    html = render(records.record(), records.recipe(), (), evidence)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def test_the_report_shows_each_attack_beside_its_control_with_its_definition() -> None:
    text = shown(EVIDENCE)
    for attack in EVIDENCE.attacks:
        assert KINDS[attack.name].definition in text
        assert f"{attack.control:.3f} {attack.defended:.3f} {attack.limit:.3f}" in text
    assert "An attack that fails is no proof" in text
    assert "A lower bound found by this attack, not a proof" in text
    assert "guesses 120" in text


def test_evidence_of_another_recipe_is_called_that() -> None:
    assert "of another recipe" in shown(EVIDENCE)
    assert "of another recipe" not in shown(replace(EVIDENCE, recipe=recipe_hash(records.recipe())))


def test_where_nobody_attacked_the_report_says_so() -> None:
    assert "None was made" in shown(None)
