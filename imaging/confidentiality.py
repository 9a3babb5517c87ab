"""What becomes of each attribute when an image is de-identified, as data.

    confidentiality.csv   DICOM PS3.15 2026d, table E.1-1: 657 attributes and what the Basic Profile
                          and three of its options do to them
    safe_private.csv      PS3.15 table E.3.10-1, as far as it concerns us: private attributes that may stay
    kept.yaml             what else an image needs; everything that stands in none of the three is removed
    words.yaml            the words that may stay in a description

The Basic Profile lists what is known to identify, and would let everything else pass: next year's attributes,
a retired one, one that a vendor put where it does not belong. Here, what nobody has listed goes.

The table's codes are D dummy, Z empty, X remove, U new UID, and several where it depends on the type that the
attribute has in an object: `X/Z/D` is X for type 3, Z for type 2, D for type 1. We always do what satisfies
the strictest type, so one rule is right in every object and the result stays valid. Sequences are the
exception: an item cannot be made up, so they are removed or emptied.
"""

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple

import yaml
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword

Action = Literal[
    "remove", "empty", "dummy", "keep", "items", "uid", "shift", "words", "identifier", "patient", "label"
]
Row = Mapping[str, str]


class Rule(NamedTuple):
    """What to do with an attribute's value, and what to do where that is impossible."""

    action: Action
    otherwise: Action = "remove"


DENIED = Rule("remove")
EDITION = "PS3.15 2026d"


@cache
def rules() -> Mapping[int, Rule]:
    """Return tag -> rule; an attribute without one is removed."""
    kept = _yaml("kept.yaml")
    plain = {_tag(keyword): Rule("keep") for module in kept["keep"].values() for keyword in module}
    plain |= {_tag(keyword): Rule("words", "dummy") for keyword in kept["words"]}
    plain |= {_tag(keyword): Rule("identifier", "empty") for keyword in kept["identifiers"]}
    plain |= {_tag(keyword): Rule("label", "dummy") for keyword in kept["labels"]}
    listed = {int(row["tag"], 16): row for row in table() if _is_of_an_image(row["tag"])}
    return plain | {tag: _rule(tag, row, plain.get(tag)) for tag, row in listed.items()}


@cache
def table() -> tuple[Row, ...]:
    """Return the rows of table E.1-1; overlays, curves and private groups have no single tag."""
    return _sheet("confidentiality.csv")


@cache
def safe_private() -> Mapping[tuple[int, str, int], str]:
    """Return (group, private creator, last two digits of the element) -> how many numbers may stay."""
    return {
        (int(row["group"], 16), row["creator"], int(row["element"], 16)): row["vm"]
        for row in _sheet("safe_private.csv")
    }


@cache
def words() -> frozenset[str]:
    """Return the words that may stay in a description, in lower case."""
    return frozenset(word for topic in _yaml("words.yaml").values() for word in topic)


def _rule(tag: int, row: Row, chosen: Rule | None) -> Rule:
    """Combine the table's row with what `kept.yaml` says of an attribute that the table lets us clean."""
    basic = _basic(tag, row["basic"])
    if tag in _PATIENT:
        return Rule("patient", basic)
    if row["modified_dates"] and _representation(tag) in {"DA", "TM", "DT"}:
        return Rule("shift", basic)
    return Rule(chosen.action if chosen else basic, basic)


def _basic(tag: int, codes: str) -> Action:
    if codes.endswith("U*"):
        return "items"
    if codes == "U":
        return "uid"
    if _representation(tag) == "SQ":
        return "empty" if codes in {"Z", "D", "X/Z"} else "remove"
    return "dummy" if "D" in codes else "empty" if "Z" in codes else "remove"


_PATIENT = {0x00100010, 0x00100020}  # name and number: both become the patient's pseudonym


def _representation(tag: int) -> str:
    return dictionary_VR(tag) if dictionary_has_tag(tag) else "UN"


def _is_of_an_image(tag: str) -> bool:
    """Not so the groups of commands, of a file's header and of a directory, and what is no single tag."""
    return tag >= "0008" and set(tag) <= set("0123456789ABCDEF")


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)  # a slip in our own list
    return tag


def _sheet(name: str) -> tuple[Row, ...]:
    lines = (files("imaging") / name).read_text(encoding="utf-8").splitlines()
    return tuple(csv.DictReader(line for line in lines if not line.startswith("#")))


def _yaml(name: str) -> Any:
    return yaml.safe_load((files("imaging") / name).read_text(encoding="utf-8"))
