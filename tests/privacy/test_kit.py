"""A kit is read as it was packed; a changed one has another fingerprint, a hostile one is refused."""

import io
import json
import zipfile
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from privacy.keys import fingerprint, same_fingerprint
from privacy.kit import AUTHORITY, FACTS, README, Facts, pack_kit, parse_address, read_kit
from protocol.errors import TrustError

FACTS_OF_NORTH = Facts("brain", "north", "consilium.example.org:8443", "ab" * 32)
KIT = pack_kit(FACTS_OF_NORTH, b"-----BEGIN CERTIFICATE-----")


def contents(data: bytes = KIT) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(*files: tuple[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name), data)
    return packed.getvalue()


def test_a_kit_is_read_as_it_was_packed_and_packed_alike_each_time() -> None:
    kit = read_kit(KIT)
    assert (kit.facts, kit.authority) == (FACTS_OF_NORTH, b"-----BEGIN CERTIFICATE-----")
    assert pack_kit(FACTS_OF_NORTH, b"-----BEGIN CERTIFICATE-----") == KIT


def test_the_readme_has_three_commands_and_names_the_server() -> None:
    text = contents()[README].decode()
    assert text.count("     consilium site ") == 3
    assert FACTS_OF_NORTH.server in text


@given(st.sampled_from([FACTS, AUTHORITY, README]), st.integers(0, 10**6), st.integers(1, 127))
def test_a_changed_byte_of_any_file_changes_the_fingerprint_or_is_refused(
    name: str, place: int, flip: int
) -> None:
    files = {each: bytearray(data) for each, data in contents().items()}
    files[name][place % len(files[name])] ^= flip
    try:
        changed = read_kit(zipped(*((each, bytes(data)) for each, data in files.items())))
    except TrustError:
        return
    with pytest.raises(TrustError, match="not this kit's fingerprint"):
        changed.require(read_kit(KIT).fingerprint)


def test_the_fingerprint_is_of_what_is_said_not_of_how_it_is_packed() -> None:
    assert read_kit(zipped(*reversed(contents().items()))).fingerprint == read_kit(KIT).fingerprint


@given(st.binary(max_size=50))
@example(b"")
def test_a_fingerprint_is_heard_in_any_case_with_any_dashes(data: bytes) -> None:
    said = fingerprint(data)
    assert len(said) == 39
    assert same_fingerprint(said.lower().replace("-", " "), data)
    assert not same_fingerprint(said[:-1], data)
    assert not same_fingerprint("", data)
    assert not same_fingerprint(said, data + b"x")


def _facts(**changed: Any) -> bytes:
    return zipped(*(contents() | {FACTS: json.dumps(vars(FACTS_OF_NORTH) | changed).encode()}).items())


HOSTILE = {
    "nothing": b"",
    "no zip": b"PK\x03\x04 and then not",
    "cut": KIT[:-30],
    "a file more": zipped(*contents().items(), ("run.sh", b"rm -rf /")),
    "out of the folder": zipped(*contents().items(), ("../../.bashrc", b"x")),
    "a file less": zipped(*list(contents().items())[:2]),
    "too large": zipped(*(contents() | {README: bytes(1 << 20)}).items()),
    "no facts": zipped(*(contents() | {FACTS: b"[]"}).items()),
    "deep": zipped(*(contents() | {FACTS: b"[" * 50_000}).items()),
    "a site that is a path": _facts(site="../north"),
    "no port": _facts(server="consilium.example.org"),
    "a key too short": _facts(coordinator="ab"),
    "a fact more": _facts(proxy="http://evil.example:1"),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_kit_is_refused(data: bytes) -> None:
    with pytest.raises(TrustError, match="no startup kit"):
        read_kit(data)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # zipfile's own, when it writes one
def test_a_kit_in_which_a_file_is_twice_is_refused() -> None:
    with pytest.raises(TrustError, match="other files"):
        read_kit(zipped(*contents().items(), (README, b"another readme")))


@given(st.integers(0, len(KIT) - 1), st.integers(1, 255))
def test_a_flipped_bit_of_the_archive_is_refused_or_is_the_same_kit_or_shows(place: int, flip: int) -> None:
    data = bytearray(KIT)
    data[place] ^= flip
    try:
        found = read_kit(bytes(data))
    except TrustError:
        return
    assert (found == read_kit(KIT)) == (found.fingerprint == read_kit(KIT).fingerprint)


@pytest.mark.parametrize(
    ("text", "parts"),
    [("a.example:8443", ("a.example", 8443)), ("10.0.0.7:1", ("10.0.0.7", 1)), ("[::1]:443", ("::1", 443))],
)
def test_addresses(text: str, parts: tuple[str, int]) -> None:
    assert parse_address(text) == parts


@pytest.mark.parametrize(
    "text", ["", "a.example", ":80", "a:0", "a:65536", "a:-1", "http://a:80", "a:b", "[]:80"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_address(text)
