"""The coordinator remembers where a site's books stood, also after it was killed."""

from pathlib import Path

import pytest

from privacy.heads import Head, Heads, countersigned, sign
from privacy.keys import COORDINATOR_KEY, FEDERATION, Pins, Signer, make_signer, write_pins
from protocol.errors import AdmissionError, CheckpointError
from protocol.messages import HEADS, WITNESS, Reply
from server.witness import FILE, Witness, open_witness


@pytest.fixture
def north(tmp_path: Path) -> Signer:
    key = make_signer(tmp_path / "north.key")
    write_pins(
        tmp_path / FEDERATION, Pins(make_signer(tmp_path / COORDINATOR_KEY).public, {"north": key.public})
    )
    return key


def heads(ledger: int, audit: int, text: str = "") -> Heads:
    return {"ledger": Head(ledger, f"l{ledger}{text}"), "audit": Head(audit, f"a{audit}{text}")}


def reply(key: Signer, told: Heads, site: str = "north") -> Reply:
    return Reply(site, "train", "r", 1, facts={HEADS: sign(key, site, told)})


def opened(folder: Path) -> Witness:
    witness = open_witness(folder)
    assert witness is not None
    return witness


def test_without_a_federation_there_is_no_witness(tmp_path: Path) -> None:
    assert open_witness(tmp_path) is None


def test_what_was_noted_goes_back_countersigned_also_after_a_restart(tmp_path: Path, north: Signer) -> None:
    assert opened(tmp_path).facts("north") == {}
    opened(tmp_path).note("north", reply(north, heads(3, 7)))
    opened(tmp_path).note("north", reply(north, heads(3, 8)))
    word = opened(tmp_path).facts("north")[WITNESS]
    coordinator = make_signer(tmp_path / COORDINATOR_KEY).public
    assert countersigned(coordinator, "north", word) == heads(3, 8)
    assert countersigned(coordinator, "south", word) is None


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (heads(2, 8), "ledger of site 'north' went back from entry 3 to 2"),
        (heads(4, 6), "audit of site 'north' went back from entry 7 to 6"),
        (heads(3, 8, "x"), "ledger of site 'north' went back from entry 3 to 3"),
        (heads(0, 0), "ledger of site 'north' went back from entry 3 to 0"),
    ],
)
def test_a_site_that_went_back_is_refused_and_the_newest_head_stays(
    tmp_path: Path, north: Signer, told: Heads, message: str
) -> None:
    opened(tmp_path).note("north", reply(north, heads(3, 7)))
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(AdmissionError, match=message):
        opened(tmp_path).note("north", reply(north, told))
    assert (tmp_path / FILE).read_bytes() == before


def test_nobody_speaks_for_a_site(tmp_path: Path, north: Signer) -> None:
    stranger = make_signer(tmp_path / "stranger.key")
    for wrong in (
        reply(stranger, heads(1, 1)),
        reply(north, heads(1, 1), "south"),
        Reply("north", "train", "r", 1),
        Reply("north", "train", "r", 1, facts={HEADS: "none"}),
    ):
        with pytest.raises(AdmissionError, match="does not sign where its ledger stands"):
            opened(tmp_path).note("north", wrong)


def test_a_damaged_memory_is_not_an_empty_one(tmp_path: Path, north: Signer) -> None:
    (tmp_path / FILE).write_text("{")
    with pytest.raises(CheckpointError, match=r"witness\.json: cannot be read"):
        opened(tmp_path)
