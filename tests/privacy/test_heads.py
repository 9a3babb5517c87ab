"""Heads are signed by one side, countersigned by the other, and good for nothing else."""

from pathlib import Path
from typing import Any

import pytest

from privacy.heads import (
    Head,
    canonical,
    chained,
    countersign,
    countersigned,
    from_plain,
    plain,
    sign,
    signed,
)
from privacy.keys import make_signer

HEADS = {"ledger": Head(3, "ab"), "audit": Head(7, "cd")}


def test_a_word_is_read_as_it_was_given(tmp_path: Path) -> None:
    site, coordinator = make_signer(tmp_path / "site"), make_signer(tmp_path / "coordinator")
    assert from_plain(plain(HEADS)) == HEADS
    assert signed(site.public, "north", sign(site, "north", HEADS)) == HEADS
    assert countersigned(coordinator.public, "north", countersign(coordinator, "north", HEADS)) == HEADS


def test_a_word_is_no_other_sites_no_other_keys_and_not_the_other_sides(tmp_path: Path) -> None:
    site, other = make_signer(tmp_path / "site"), make_signer(tmp_path / "other")
    word = sign(site, "north", HEADS)
    assert signed(site.public, "south", word) is None
    assert signed(other.public, "north", word) is None
    assert countersigned(site.public, "north", word) is None
    for changed in ({"ledger": (4, "ab")}, {"audit": (7, "ce")}, {"signature": "00"}):
        assert signed(site.public, "north", word | changed) is None


@pytest.mark.parametrize(
    "word",
    [
        None,
        4,
        [],
        {},
        {"ledger": [1, "a"], "audit": [1, "a"]},
        {"ledger": [1, "a"], "audit": [1, "a"], "signature": "xy"},
        {"ledger": [1, "a"], "audit": [1], "signature": "00"},
        {"ledger": [1, "a"], "audit": ["1", "a"], "signature": "00"},
        {"ledger": [True, "a"], "audit": [1, "a"], "signature": "00"},
        {"ledger": [-1, "a"], "audit": [1, "a"], "signature": "00"},
        {"ledger": [2**70, "a"], "audit": [1, "a"], "signature": "00"},
        {"ledger": [1, 2], "audit": [1, "a"], "signature": "00"},
        {"ledger": [1, "a"], "audit": [1, "a"], "signature": 7},
    ],
)
def test_what_is_no_word_is_none(tmp_path: Path, word: Any) -> None:
    assert signed(make_signer(tmp_path / "site").public, "north", word) is None


def test_a_chain_depends_on_every_entry_and_their_order() -> None:
    assert len({chained("", "a"), chained("", "b"), chained(chained("", "a"), "b"), chained("a", "b")}) == 4
    assert canonical({"b": 1, "a": [2]}) == '{"a":[2],"b":1}'
