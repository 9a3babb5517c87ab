"""Plain data against annotations: what fits, and what the message says where it does not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

import pytest

from protocol.errors import RecipeError
from protocol.typed import Rule, describe, fit, found, freeze, one_of, record, unknown

SMALL = Annotated[int, Rule("< 10", lambda value: value < 10)]
COLOUR = Annotated[str, one_of("red", "green")]


@dataclass(frozen=True)
class Inner:
    deep: int = 0


@dataclass(frozen=True)
class Outer:
    need: int
    inner: Inner = Inner()


FITS = [
    (3, int, 3),
    (3, float, 3.0),
    (True, bool, True),
    ("x", str, "x"),
    ("/srv/../scans", Path, Path("/srv/../scans")),
    (3, SMALL, 3),
    ("red", COLOUR, "red"),
    ("a", Literal["a", "b"], "a"),
    (None, int | None, None),
    (3, Optional[int], 3),  # noqa: UP045  the older spelling is an annotation too
    (3, Union[str, int], 3),  # noqa: UP007
    ("x", int | str | None, "x"),
    ([1, 2], tuple[int, ...], (1, 2)),
    ([1, "a"], tuple[int, str], (1, "a")),
    ((1, 2), Sequence[float], (1.0, 2.0)),
    ([1, "a"], tuple, (1, "a")),
    ({"a": 1}, Mapping[str, float], {"a": 1.0}),
    ({"a": [1]}, dict, {"a": (1,)}),
    ({"deep": 2}, Inner, Inner(2)),
    (None, Inner, Inner()),
    ({"b": [1, {"c": None}]}, Any, {"b": (1, {"c": None})}),
]


@pytest.mark.parametrize(("value", "annotation", "result"), FITS)
def test_fits(value: Any, annotation: Any, result: Any) -> None:
    fitted = fit(value, annotation, "key")

    assert fitted == result
    assert type(fitted) is type(result) or isinstance(fitted, Mapping)


REFUSED = [
    (True, int, "key: expected a whole number, found true"),
    (False, float, "key: expected a number, found false"),
    (1, bool, "key: expected true or false, found 1"),
    (1.0, int, "key: expected a whole number, found 1.0"),
    ("1", int, "key: expected a whole number, found '1'"),
    (1, str, "key: expected text, found 1"),
    ("", Path, "key: expected a path, found ''"),
    (1, Path | None, "key: expected a path, found 1"),
    (None, str, "key: expected text, found null"),
    (float("nan"), float, "key: expected a number that fits, found nan"),
    (float("-inf"), Any, "key: expected a number that fits, found -inf"),
    (2**63, int, "key: expected a whole number that fits, found a number of more than 63 bits"),
    (-(10**5000), float, "key: expected a number that fits, found a number of more than 63 bits"),
    (12, SMALL, "key: expected a whole number < 10, found 12"),
    ("gren", COLOUR, "key: expected one of red, green, found 'gren'; the nearest is 'green'"),
    ("zzz", COLOUR, "key: expected one of red, green, found 'zzz'"),
    ("c", Literal["a", "b"], "key: expected one of a, b, found 'c'"),
    ("x", int | None, "key: expected a whole number, found 'x'"),
    ({}, int | str, "key: expected a whole number or text, found an empty mapping"),
    ("ab", tuple[str, ...], "key: expected a list of text, found 'ab'"),
    (3, tuple, "key: expected a list, found 3"),
    ([1, "a"], tuple[int, ...], "key[1]: expected a whole number, found 'a'"),
    ([1], tuple[int, str], "key: expected 2 values, found 1"),
    ([1], Mapping[str, int], "key: expected a mapping, found a list"),
    ({"a": "x"}, Mapping[str, int], "key.a: expected a whole number, found 'x'"),
    ({1: 2}, Mapping[str, int], "key: expected a key in words, found 1; quote it"),
    ({"a": {None: 2}}, Any, "key.a: expected a key in words, found null; quote it"),
    (3, Inner, "key: expected a mapping, found 3"),
    ({"deep": "x"}, Inner, "key.deep: expected a whole number, found 'x'"),
    ({"dep": 1}, Inner, "key.dep: no such key; the nearest is 'key.deep'"),
    ({"zzz": 1}, Inner, "key.zzz: no such key; there are: deep"),
    (
        {"a": "${b}"},
        Any,
        "key.a: found '${b}'; interpolation '${...}' is not allowed: write the value itself",
    ),
    (
        datetime.now(UTC).date(),
        Any,
        "key: expected text, a number, a switch, a list or a mapping, found datetime",
    ),
]


@pytest.mark.parametrize(("value", "annotation", "message"), REFUSED, ids=range(len(REFUSED)))
def test_refused(value: Any, annotation: Any, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        fit(value, annotation, "key")

    assert str(caught.value).startswith(message)


def test_a_record_says_which_key_is_missing_misplaced_or_not_in_words() -> None:
    for value, message in [
        ({}, "need: expected a whole number, found nothing; the key is required"),
        ({"need": 1, "deep": 2}, "deep: no such key here; the nearest is 'inner.deep'"),
        ({True: 1}, "recipe: expected a key in words, found true; quote it"),
        ([], "recipe: expected a mapping, found a list"),
    ]:
        with pytest.raises(RecipeError) as caught:
            record(value, Outer, "")
        assert str(caught.value) == message


def test_frozen_values_are_read_only_and_in_the_order_of_their_keys() -> None:
    frozen = freeze({"b": [1], "a": {"d": 1, "c": 2}}, "key")

    assert list(frozen) == ["a", "b"]
    assert list(frozen["a"]) == ["c", "d"]
    with pytest.raises(TypeError):
        frozen["a"]["c"] = 3


def test_an_unknown_name_that_is_no_key_is_quoted() -> None:
    assert str(unknown("fedpox", ["fedavg", "fedprox"], "strategy", what="strategy")) == (
        "strategy: no such strategy 'fedpox'; the nearest is 'fedprox'"
    )
    assert str(unknown("x", ["fedavg"], "strategy", "strategy")).endswith("there are: fedavg")
    assert str(unknown("x", [], "model", "model")).endswith("there are none")


def test_messages_stay_short() -> None:
    assert len(found("a" * 10_000)) < 100
    assert len(str(unknown("a" * 10_000, ["b"], "recipe"))) < 100


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (tuple[float, ...], "a list of a number"),
        (Mapping[str, int], "a mapping"),
        (Inner, "a mapping"),
        (int | None, "a whole number or null"),
        (Literal[1, 2], "one of 1, 2"),
        (Any, "a value"),
    ],
)
def test_annotations_in_words(annotation: Any, words: str) -> None:
    assert describe(annotation) == words


def test_found_in_words() -> None:
    assert [found(value) for value in ({}, {"a": 1}, (), None, True, False)] == [
        "an empty mapping",
        "a mapping",
        "a list",
        "null",
        "true",
        "false",
    ]
