"""Plain data against type annotations: what was expected, what was found, where.

Dataclasses and the keyword-only options of a catalogue's builders are both described by
annotations, so one function, `fit`, checks both and every message looks alike:

    training.batch: expected a whole number >= 1, found 0
    privacy.epsilom: no such key; the nearest is 'privacy.epsilon'

Nothing is converted but an `int` to a `float`, lists to tuples and mappings to read-only
ones: text is never a number, a number never a switch.
"""

import dataclasses
import difflib
import functools
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from protocol.errors import RecipeError
from protocol.plain import guard_text, join


@dataclass(frozen=True)
class Rule:
    """What a value must satisfy besides its type, beside the field: `Annotated[int, Rule(...)]`."""

    says: str
    holds: Callable[[Any], bool]
    names: tuple[str, ...] = ()


def one_of(*names: str) -> Rule:
    """One of a few names."""
    return Rule("one of " + ", ".join(names), lambda value: value in names, names)


def fit(value: Any, annotation: Any, path: str) -> Any:
    """`value` as `annotation` wants it, or RecipeError naming `path`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _ruled(value, annotation, path)
    if origin in (Union, types.UnionType):
        return _either(value, annotation, path)
    if origin is Literal:
        return _ruled(value, Annotated[Any, one_of(*map(str, get_args(annotation)))], path)
    if dataclasses.is_dataclass(annotation):
        return _dataclass(value, annotation, path)
    if annotation is Any:
        return freeze(value, path)
    if _is(origin or annotation, Mapping):
        return _mapping(value, annotation, path)
    if annotation is not str and _is(origin or annotation, Sequence):
        return _sequence(value, annotation, path)
    return _scalar(value, annotation, path)


def freeze(value: Any, path: str) -> Any:
    """Any plain value, read-only: scalars, tuples, mappings in the order of their keys."""
    if isinstance(value, Mapping):
        return _mapping(dict(sorted(_worded(value, path).items())), Mapping[str, Any], path)
    if isinstance(value, list | tuple):
        return tuple(freeze(item, f"{path}[{index}]") for index, item in enumerate(value))
    if isinstance(value, str):
        guard_text(value, path)
    elif isinstance(value, bool | int | float):
        return _scalar(value, type(value), path)
    elif value is not None:
        raise RecipeError(
            f"{path}: expected text, a number, a switch, a list or a mapping, found {found(value)}"
        )
    return value


def record(value: Any, kind: type, path: str) -> Any:
    """A dataclass from a mapping of its fields; null stands for all defaults."""
    given = {} if value is None else value
    if not isinstance(given, Mapping):
        raise RecipeError(f"{path or 'recipe'}: expected a mapping, found {found(value)}")
    hints = hints_of(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in _worded(given, path or "recipe"):
        if key not in fields:
            raise _misplaced(key, hints) or unknown(key, fields, path)
    missing = [name for name, field in fields.items() if name not in given and _required(field)]
    if missing:
        key, expected = join(path, missing[0]), describe(hints[missing[0]])
        raise RecipeError(f"{key}: expected {expected}, found nothing; the key is required")
    return kind(**{key: fit(item, hints[key], join(path, key)) for key, item in given.items()})


@functools.cache
def hints_of(thing: Any) -> Mapping[str, Any]:
    """Resolved annotations of a dataclass or function, with their rules."""
    return get_type_hints(thing, include_extras=True)


def unknown(name: object, known: Iterable[str], path: str, what: str = "key") -> RecipeError:
    """The error for a name that does not exist, with the nearest one that does."""
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    if what == "key":
        hint = f"the nearest is '{join(path, near[0])}'" if near else _listing(known)
        return RecipeError(f"{join(path, str(name)[:_SHOWN])}: no such key; {hint}")
    hint = f"the nearest is '{near[0]}'" if near else _listing(known)
    return RecipeError(f"{path}: no such {what} {found(name)}; {hint}")


def describe(annotation: Any) -> str:
    """An annotation in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        rule = annotation.__metadata__[0]
        return rule.says if rule.names else f"{describe(arguments[0])} {rule.says}"
    if origin in (Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if annotation is not str and _is(origin or annotation, Sequence):
        return f"a list of {describe(arguments[0])}" if arguments else "a list"
    return _WORDS.get(annotation, "a mapping")


def found(value: Any) -> str:
    """A value as a message shows it, cut short."""
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and abs(value) >= _BEYOND:  # Python refuses to write the longest ones out
        return "a number of more than 63 bits"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


_SHOWN = 60
_BEYOND = 2**63
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Any: "a value",
    Path: "a path",
    type(None): "null",
}


def _is(kind: Any, abstract: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, abstract)


def _required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _misplaced(key: object, hints: Mapping[str, Any]) -> RecipeError | None:
    for section, kind in hints.items():
        if dataclasses.is_dataclass(kind) and any(field.name == key for field in dataclasses.fields(kind)):
            return RecipeError(f"{key}: no such key here; the nearest is '{section}.{key}'")
    return None


def _listing(known: Sequence[str]) -> str:
    return "there are: " + ", ".join(known) if known else "there are none"


def _ruled(value: Any, annotation: Any, path: str) -> Any:
    result = fit(value, get_args(annotation)[0], path)
    for rule in annotation.__metadata__:
        if not rule.holds(result):
            near = difflib.get_close_matches(str(value), rule.names, n=1)
            hint = f"; the nearest is '{near[0]}'" if near else ""
            raise RecipeError(f"{path}: expected {describe(annotation)}, found {found(value)}{hint}")
    return result


def _either(value: Any, annotation: Any, path: str) -> Any:
    choices = get_args(annotation)
    if value is None and type(None) in choices:
        return None
    rest = [choice for choice in choices if choice is not type(None)]
    for choice in rest[:-1]:
        try:
            return fit(value, choice, path)
        except RecipeError:
            continue
    if len(rest) == 1:
        return fit(value, rest[0], path)
    try:
        return fit(value, rest[-1], path)
    except RecipeError:
        raise RecipeError(f"{path}: expected {describe(annotation)}, found {found(value)}") from None


def _dataclass(value: Any, kind: Any, path: str) -> Any:
    # A dataclass with a short form of its own says how it is read.
    reader = getattr(kind, "from_plain", None)
    return reader(value, path) if reader else record(value, kind, path)


def _mapping(value: Any, annotation: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{path}: expected a mapping, found {found(value)}")
    key_type, item_type = get_args(annotation) or (str, Any)
    places = ((join(path, key), key, item) for key, item in _worded(value, path).items())
    return types.MappingProxyType(
        {fit(key, key_type, place): fit(item, item_type, place) for place, key, item in places}
    )


def _worded(value: Mapping[Any, Any], path: str) -> Mapping[str, Any]:
    for key in value:
        if not isinstance(key, str):
            raise RecipeError(f"{path}: expected a key in words, found {found(key)}; quote it")
    return value


def _sequence(value: Any, annotation: Any, path: str) -> Any:
    if not isinstance(value, list | tuple):
        raise RecipeError(f"{path}: expected {describe(annotation)}, found {found(value)}")
    arguments = [argument for argument in get_args(annotation) if argument is not Ellipsis] or [Any]
    wanted = arguments * len(value) if len(arguments) == 1 else arguments
    if len(wanted) != len(value):
        raise RecipeError(f"{path}: expected {len(wanted)} values, found {len(value)}")
    pairs = enumerate(zip(value, wanted, strict=True))
    return tuple(fit(item, kind, f"{path}[{index}]") for index, (item, kind) in pairs)


def _place(value: Any, path: str) -> Path:
    # Only settings have places: `guard_text` keeps them out of a recipe's text.
    if not isinstance(value, str) or not value:
        raise RecipeError(f"{path}: expected a path, found {found(value)}")
    return Path(value)


def _scalar(value: Any, annotation: Any, path: str) -> Any:
    if annotation is Path:
        return _place(value, path)
    # bool is an int in Python, but `rounds: true` is a slip of the pen.
    accepted = (int, float) if annotation is float else annotation
    if not isinstance(value, accepted) or isinstance(value, bool) != (annotation is bool):
        raise RecipeError(f"{path}: expected {describe(annotation)}, found {found(value)}")
    if annotation is str:
        guard_text(value, path)
    elif not _holdable(value):
        raise RecipeError(f"{path}: expected {describe(annotation)} that fits, found {found(value)}")
    return float(value) if annotation is float else value


def _holdable(value: float) -> bool:
    return -_BEYOND < value < _BEYOND if isinstance(value, int) else math.isfinite(value)
