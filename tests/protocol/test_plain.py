"""The door for other people's YAML: data passes, everything else is refused before it is built."""

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import plain
from protocol.errors import RecipeError
from protocol.plain import DEEPEST, MOST_BYTES, guard, guard_text

HOSTILE = [
    ("a: !!python/object/apply:os.system [echo]", "tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
    ("!!python/name:os.system x", "tag"),
    ("a: !!binary aGk=", "tag"),
    ("a: !own {b: 1}", "tag '!own'"),
    ("a: !own [1]", "tag '!own'"),
    ("a: &x [1]\nb: *x", "anchors and aliases"),
    ("a: *x", "anchors and aliases"),
    ("&x a: 1", "anchors and aliases"),
    ("<<: &x {a: 1}", "anchors and aliases"),
    ("<<: {a: 1}\nb: 2", "no merging with '<<'"),
    ("a: ${oc.env:HOME}", "a: found '${oc.env:HOME}'; interpolation"),
    ("a: [b, {c: '${d}'}]", "a[1].c: found '${d}'; interpolation"),
    ("${a}: 1", "interpolation"),
    ("a: '???'", "a: found '???'; '???' is not a value"),
    ("a: /etc/passwd", "a path on some machine"),
    ("a: ~/x", "a path on some machine"),
    ("a: C:\\x", "a path on some machine"),
    ("a: \\\\host\\share", "a path on some machine"),
    ("a: ../x", "'..' leaves the site's folder"),
    ("a: b/../c", "'..' leaves the site's folder"),
    ("a: b\\..", "'..' leaves the site's folder"),
    ("? [a]\n: 1", "a key must be a word, found a list or mapping"),
    ("a: 1\n---\nb: 2", "not readable as YAML"),
    ("a: [1", "not readable as YAML"),
    ("a: \x00", "not readable as YAML"),
    ("a: \ud800", "not readable as YAML"),
    ("[" * 100_000, "nested more than"),
    ("{a: " * 50_000, "nested more than"),
    ("- " * 100_000, "nested more than"),
    ("a: " + "b" * MOST_BYTES, "longer than 256 KiB"),
]


@pytest.mark.parametrize(
    ("text", "message"), HOSTILE, ids=[text[:24].encode("unicode_escape") for text, _ in HOSTILE]
)
def test_hostile_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        guard(text, "recipe")

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("look", "text"),
    [
        ("_guard_events", "a: !!python/object/apply:os.system [echo]"),
        ("_guard_events", "a: &x [1]\nb: *x"),
        ("_guard_node", "a: ${oc.env:HOME}"),
        ("_guard_node", "a: /etc/passwd"),
    ],
)
def test_a_door_that_does_not_look_is_caught(monkeypatch: pytest.MonkeyPatch, look: str, text: str) -> None:
    (message,) = (message for hostile, message in HOSTILE if hostile == text)
    monkeypatch.setattr(plain, look, lambda *looked_at, **depth: None)
    with pytest.raises(pytest.fail.Exception):
        test_hostile_text_is_refused(text, message)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a: 1",
        "a: [1, {b: null}]",
        "a: 1..2",
        "a: ...",
        "a: $HOME",
        "a: '{b}'",
        "a: b/c",
        "a: 5 ?? 4",
    ],
)
def test_data_passes(text: str) -> None:
    guard(text, "recipe")


def test_a_bomb_of_aliases_costs_nothing() -> None:
    """Ten lines that would expand to 10^9 scalars stop at the first anchor."""
    bomb = "a0: &a0 [x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
    )
    start = time.perf_counter()

    with pytest.raises(RecipeError, match="recipe, line 1: no anchors"):
        guard(bomb, "recipe")

    assert time.perf_counter() - start < 1


def test_depth_is_counted_from_the_root_of_the_recipe() -> None:
    """What an override nests lies below its key."""
    guard("[" * DEEPEST + "]" * DEEPEST, "recipe")
    guard("[" * (DEEPEST - 3) + "]" * (DEEPEST - 3), "a.b.c", "a.b.c")
    with pytest.raises(RecipeError, match="nested more than"):
        guard("[" * (DEEPEST - 2) + "]" * (DEEPEST - 2), "a.b.c", "a.b.c")
    with pytest.raises(RecipeError, match="nested more than"):
        guard("1", ".".join("a" * (DEEPEST + 1)), ".".join("a" * (DEEPEST + 1)))


def test_a_message_shows_little_of_what_it_refuses() -> None:
    with pytest.raises(RecipeError) as caught:
        guard_text("/" + "x" * 10_000, "a")

    assert len(str(caught.value)) < 200


@given(st.text(max_size=200))
def test_any_text_passes_or_is_refused_as_ours(text: str) -> None:
    with suppress(RecipeError):
        guard(text, "recipe")
