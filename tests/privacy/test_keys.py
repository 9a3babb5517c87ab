"""Keys of sites and coordinator: made once, kept secret, good for one purpose."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.keys import Pins, make_signer, read_pins, signer, verified, write_pins
from protocol.errors import PrivacyError, SettingsError


def test_a_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "site.key"
    first, again = make_signer(path), make_signer(path)
    assert signer(path).public == first.public
    assert first.public == again.public
    assert path.stat().st_mode & 0o777 == 0o600
    assert first.public != make_signer(tmp_path / "other.key").public


@given(st.text(max_size=20), st.binary(max_size=40), st.integers(0, 63), st.integers(1, 255))
def test_a_signature_counts_for_its_message_and_purpose_alone(
    tmp_path_factory: pytest.TempPathFactory, purpose: str, message: bytes, place: int, flip: int
) -> None:
    key = make_signer(tmp_path_factory.getbasetemp() / "one.key")
    signature = key.sign(purpose, message)
    assert verified(key.public, purpose, message, signature)
    assert not verified(key.public, purpose + "x", message, signature)
    assert not verified(key.public, purpose, message + b"x", signature)
    broken = bytearray(signature)
    broken[place] ^= flip
    assert not verified(key.public, purpose, message, bytes(broken))


def test_purpose_and_message_cannot_be_moved_into_each_other(tmp_path: Path) -> None:
    key = make_signer(tmp_path / "one.key")
    assert not verified(key.public, "ab", b"c", key.sign("a", b"bc"))


@pytest.mark.parametrize("signature", [b"", b"short", bytes(64), bytes(65)])
def test_what_is_no_signature_is_none(tmp_path: Path, signature: bytes) -> None:
    assert not verified(make_signer(tmp_path / "one.key").public, "a", b"", signature)
    assert not verified(b"no key", "a", b"", signature)


def test_a_key_that_has_vanished_is_said_and_no_other_made(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"site\.key: cannot use this key \(No such file.*from a copy"):
        signer(tmp_path / "site.key")
    assert not (tmp_path / "site.key").exists()


def test_a_damaged_key_is_said(tmp_path: Path) -> None:
    (tmp_path / "site.key").write_bytes(b"too short")
    with pytest.raises(SettingsError, match="cannot use this key"):
        signer(tmp_path / "site.key")


def test_pins_are_read_as_written_and_strangers_are_refused(tmp_path: Path) -> None:
    keys = {name: make_signer(tmp_path / name).public for name in ("coordinator", "north")}
    write_pins(tmp_path / "federation.json", Pins(keys["coordinator"], {"north": keys["north"]}))
    pins = read_pins(tmp_path / "federation.json")
    assert pins.of("north") == keys["north"]
    with pytest.raises(PrivacyError, match="'south' is not in this federation"):
        pins.of("south")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"coordinator": "ab", "sites": {}}', '{"sites": 3}'])
def test_a_file_of_no_pins_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "federation.json").write_text(text)
    with pytest.raises(SettingsError, match="not a federation's public keys"):
        read_pins(tmp_path / "federation.json")
