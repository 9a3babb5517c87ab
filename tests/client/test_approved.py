"""A coordinator's code is the installed one, byte for byte, or approved here."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.approved import approve, objection, read_approved
from protocol.bundle import bundle, bundle_hash
from protocol.errors import SettingsError


def test_the_installed_code_needs_no_approval(tmp_path: Path) -> None:
    assert objection(bundle(), tmp_path / "approved.json") == ""


@given(st.data())
def test_any_other_byte_anywhere_is_other_code(data: st.DataObject) -> None:
    code, here = bundle(), data.draw(st.integers(0, len(bundle()) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != code[here]))
    for changed in (code[:here] + bytes([other]) + code[here + 1 :], code[:here], code + code[:1]):
        assert bundle_hash(changed) in objection(changed, Path("/nowhere"))


def test_approval_is_of_one_hash_and_is_kept(tmp_path: Path) -> None:
    approved = tmp_path / "approved.json"
    assert f"consilium site approve {bundle_hash(b'other')}" in objection(b"other", approved)
    assert approve(bundle_hash(b"other"), approved)
    assert not approve(bundle_hash(b"other"), approved)
    assert objection(b"other", approved) == ""
    assert objection(b"another", approved) != ""
    assert read_approved(approved) == {bundle_hash(b"other")}
    assert approved.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("word", ["", "abc", bundle_hash(b"x")[:8], bundle_hash(b"x").upper()])
def test_what_is_no_hash_is_not_approved(word: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not a SHA-256"):
        approve(word, tmp_path / "approved.json")


@pytest.mark.parametrize("text", ["{", "[1]", '[{"bundle": 1}]', "{}x"])
def test_a_damaged_list_approves_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "approved.json").write_text(text)
    with pytest.raises(SettingsError, match="cannot be read"):
        objection(b"other", tmp_path / "approved.json")
