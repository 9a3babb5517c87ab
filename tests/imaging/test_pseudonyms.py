"""Stand-ins are the same under one key, others under another, and the key is one file."""

import re
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID, MRImageStorage

from imaging.pseudonyms import FARTHEST, NEAREST, Pseudonyms, read_pseudonyms
from protocol.errors import SettingsError
from tests.imaging.identified import ANOTHER_KEY, KEY

UIDS = st.lists(st.integers(0, 10**6), min_size=3, max_size=5).map(
    lambda parts: ".".join(map(str, [1, 3, *parts]))
)


@given(UIDS, UIDS)
def test_uids_are_valid_and_tell_apart_what_the_originals_did(first: str, second: str) -> None:
    """PS3.5 B.2: 2.25 and a UUID as a decimal number, at most 39 digits."""
    assert re.fullmatch(r"2\.25\.[1-9]\d{0,38}", KEY.uid(first))
    assert UID(KEY.uid(first)).is_valid
    assert (KEY.uid(first) == KEY.uid(second)) == (first == second)
    assert KEY.uid(first) == Pseudonyms(KEY.key).uid(first)


@given(UIDS)
def test_another_key_gives_other_uids(uid: str) -> None:
    assert KEY.uid(uid) != ANOTHER_KEY.uid(uid)


def test_the_standards_own_uids_stay() -> None:
    """A class of objects is no object, and an atlas's frame of reference is everybody's."""
    assert KEY.uid(MRImageStorage) == MRImageStorage
    assert KEY.uid("1.2.840.10008.1.4.1.1") == "1.2.840.10008.1.4.1.1"


@given(st.text(), st.text())
def test_identifiers_are_16_digits_of_their_kind(first: str, second: str) -> None:
    assert re.fullmatch(r"[0-9A-F]{16}", KEY.identifier("StudyID", first))
    assert KEY.identifier("StudyID", first) != KEY.identifier("AccessionNumber", first)
    assert (KEY.identifier("StudyID", first) == KEY.identifier("StudyID", second)) == (first == second)


@given(st.text(), st.text())
def test_each_patient_has_an_offset_of_one_to_ten_years(first: str, second: str) -> None:
    assert -FARTHEST < KEY.offset(first) <= -NEAREST
    assert (KEY.offset(first) == KEY.offset(second)) == (first == second)
    assert KEY.offset(first) != ANOTHER_KEY.offset(first)


def test_offsets_use_their_whole_range() -> None:
    """1,000 patients: each of ten equal parts has 60 to 140 of them."""
    tenth = (FARTHEST - NEAREST) / 10
    parts = [int((-KEY.offset(f"patient {i}") - NEAREST) / tenth) for i in range(1000)]

    assert all(60 <= parts.count(part) <= 140 for part in range(10))
    assert any(KEY.offset(str(i)) % timedelta(seconds=1) for i in range(3))


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "deidentify.key"

    first, second = read_pseudonyms(path), read_pseudonyms(path)

    assert first == second
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["deidentify.key"]
    assert first.key.hex() not in repr(first)


def test_another_site_has_another_key(tmp_path: Path) -> None:
    assert read_pseudonyms(tmp_path / "a").key != read_pseudonyms(tmp_path / "b").key


def test_whoever_comes_second_takes_the_firsts_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each believes that there is none yet, and makes one."""
    monkeypatch.setattr(Path, "exists", lambda _: False)
    read_pseudonyms(tmp_path / "key")

    assert read_pseudonyms(tmp_path / "key") == read_pseudonyms(tmp_path / "key")


@pytest.mark.parametrize("damage", [b"", b"short", bytes(33)])
def test_a_damaged_key_is_refused_and_left_as_it_is(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(damage)

    with pytest.raises(SettingsError, match=r"a key has 32 bytes, this has .*: restore it"):
        read_pseudonyms(path)
    assert path.read_bytes() == damage


def test_a_place_without_room_for_a_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(SettingsError, match="cannot use this key"):
        read_pseudonyms(tmp_path / "file" / "key")
