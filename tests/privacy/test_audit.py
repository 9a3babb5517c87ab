"""C1: whatever is done to the audit log afterwards shows."""

import json
import os
import stat
from collections.abc import Iterable, Iterator
from itertools import permutations
from multiprocessing import get_context
from pathlib import Path

import pytest

from privacy import audit
from privacy.heads import Head
from privacy.keys import Signer, make_signer
from protocol.errors import PrivacyError, SettingsError

LINES = 4


@pytest.fixture
def key(tmp_path: Path) -> Signer:
    return make_signer(tmp_path / "site.key")


def entry(number: int) -> dict[str, object]:
    return {"asked": {"kind": "train", "round": number}, "why": "nothing: \u00fc", "witness": None}


@pytest.fixture
def log(tmp_path: Path, key: Signer) -> Path:
    for number in range(LINES):
        audit.append(tmp_path / "log", key, entry(number))
    return tmp_path / "log"


def found(key: Signer, text: bytes, seen: Head | None = None) -> bool:
    """Whether `verify` finds that a log reads `text`; `seen` is what the coordinator has."""
    try:
        audit.check(text, key.public, seen or Head())
    except PrivacyError:
        return True
    return False


# -- What it says ----------------------------------------------------------------------------------
def test_a_log_is_what_was_written(log: Path, key: Signer) -> None:
    assert [each["n"] for each in audit.read(log)] == [1, 2, 3, 4]
    assert [{k: v for k, v in each.items() if k != "n"} for each in audit.read(log)] == [
        entry(number) for number in range(LINES)
    ]
    assert audit.verify(log, key.public) == audit.head(log)
    assert audit.verify(log, key.public, audit.head(log)).counter == LINES


def test_no_log_stands_at_its_beginning(tmp_path: Path, key: Signer) -> None:
    assert audit.head(tmp_path) == audit.verify(tmp_path, key.public) == Head()
    assert list(audit.read(tmp_path)) == []
    assert audit.stands(tmp_path, Head())
    assert not audit.stands(tmp_path, Head(1, "ab"))


def test_a_log_stands_where_it_has_been_and_nowhere_else(tmp_path: Path, key: Signer) -> None:
    seen = [audit.append(tmp_path, key, entry(number)) for number in range(40)]  # several blocks
    assert all(audit.stands(tmp_path, head) for head in [Head(), *seen])
    assert not any(audit.stands(tmp_path, Head(head.counter + 1, head.hash)) for head in seen)


def test_only_its_owner_may_read_it(log: Path, key: Signer) -> None:
    (log / audit.FILE).chmod(0o644)
    audit.append(log, key, entry(5))
    assert stat.S_IMODE((log / audit.FILE).stat().st_mode) == 0o600


# -- Tampering, exhaustively over a small log --------------------------------------------------------
def whole(log: Path) -> tuple[bytes, Head, list[bytes]]:
    text = (log / audit.FILE).read_bytes()
    return text, audit.head(log), text.splitlines(keepends=True)


def flips(text: bytes, masks: Iterable[int]) -> Iterator[bytes]:
    for mask in masks:
        for place in range(len(text)):
            yield text[:place] + bytes([text[place] ^ mask]) + text[place + 1 :]


def test_every_flipped_byte_is_found(tmp_path: Path, key: Signer) -> None:
    audit.append(tmp_path / "log", key, entry(0))
    text, _head, _lines = whole(tmp_path / "log")
    assert not found(key, text)
    assert all(found(key, changed) for changed in flips(text, (1, 0x20)))


@pytest.mark.slow
def test_every_flipped_bit_is_found(log: Path, key: Signer) -> None:
    text, _head, _lines = whole(log)
    assert all(found(key, changed) for changed in flips(text, [1 << bit for bit in range(8)]))


def test_every_deletion_reordering_and_repetition_is_found(log: Path, key: Signer) -> None:
    _text, seen, lines = whole(log)
    for kept in range(LINES + 1):
        for chosen in permutations(lines, kept):
            if list(chosen) != lines:
                assert found(key, b"".join(chosen), seen)
    for place in range(LINES + 1):
        for again in lines:
            assert found(key, b"".join([*lines[:place], again, *lines[place:]]), seen)


def test_every_truncation_is_found_through_the_witness(log: Path, key: Signer) -> None:
    text, seen, _lines = whole(log)
    for size in range(len(text)):
        assert found(key, text[:size], seen)
    (log / audit.FILE).unlink()
    with pytest.raises(PrivacyError, match="line 1: is not what the coordinator has witnessed as line 4"):
        audit.verify(log, key.public, seen)


def test_without_the_witness_a_cut_at_a_line_does_not_show(log: Path, key: Signer) -> None:
    """Why there is one."""
    text, _seen, lines = whole(log)
    unseen = {size for size in range(len(text)) if not found(key, text[:size])}
    assert unseen == {sum(map(len, lines[:kept])) for kept in range(LINES)}


def test_a_log_rewritten_with_the_sites_own_key_is_found_through_the_witness(
    log: Path, key: Signer, tmp_path: Path
) -> None:
    _text, seen, _lines = whole(log)
    for number in range(LINES + 3):
        audit.append(tmp_path / "new", key, entry(number + 1))
    forged, _head, _lines = whole(tmp_path / "new")
    assert not found(key, forged)
    assert found(key, forged, seen)


def test_another_key_signs_no_line_of_this_log(log: Path, key: Signer, tmp_path: Path) -> None:
    stranger = make_signer(tmp_path / "stranger.key")
    text, _head, _lines = whole(log)
    assert found(stranger, text)
    audit.append(log, stranger, entry(9))
    with pytest.raises(PrivacyError, match="line 5: does not carry this site's signature"):
        audit.verify(log, key.public)


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"\xff", b"[]", b"4", b"{}", b'{"entry":1,"previous":"","signature":""}', b"[" * 99_999],
)
def test_what_is_no_line_is_said_with_its_place(log: Path, key: Signer, line: bytes) -> None:
    with (log / audit.FILE).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(PrivacyError, match="audit log, line 5: "):
        audit.verify(log, key.public)


def test_a_check_without_signatures_is_caught(
    log: Path, key: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, _head, _lines = whole(log)
    monkeypatch.setattr(audit, "verified", lambda *_: True)
    assert not all(found(key, changed) for changed in flips(text, (1,)))


@pytest.mark.parametrize("chained", [True, False])
def test_a_check_without_the_chain_is_caught(
    tmp_path: Path, key: Signer, monkeypatch: pytest.MonkeyPatch, *, chained: bool
) -> None:
    """Lines of two copies of one log, all signed here, do not make a third."""
    if not chained:
        monkeypatch.setattr(audit, "_hash", lambda line: "")
    for copy in "ab":
        for number in range(3):
            audit.append(tmp_path / copy, key, {"asked": copy * number})
    mine, others = (whole(tmp_path / copy)[2] for copy in "ab")
    assert found(key, b"".join([mine[0], others[1], mine[2]])) == chained


# -- Crashes -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("length", [1, 40, 9000])
def test_a_line_that_a_crash_broke_off_gives_way_to_the_next(log: Path, key: Signer, length: int) -> None:
    text, seen, _lines = whole(log)
    with (log / audit.FILE).open("ab") as file:
        file.write(b"x" * length)
    with pytest.raises(PrivacyError, match="line 5: breaks off"):
        audit.verify(log, key.public)
    assert audit.head(log) == seen
    audit.append(log, key, entry(4))
    assert audit.verify(log, key.public).counter == LINES + 1
    assert (log / audit.FILE).read_bytes().startswith(text)


def test_a_damaged_last_line_is_not_built_upon(log: Path, key: Signer) -> None:
    with (log / audit.FILE).open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(PrivacyError, match="last line is damaged"):
        audit.append(log, key, entry(5))


def test_a_line_is_on_the_disk_once_before_append_returns(
    tmp_path: Path, key: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(stat.S_ISDIR(os.fstat(handle).st_mode)))
    audit.append(tmp_path / "log", key, entry(0))
    assert synced == [False, True]  # the line, then the folder that names the new file
    audit.append(tmp_path / "log", key, entry(1))
    assert synced == [False, True, False]


def test_a_disk_that_fails_is_said(log: Path, key: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SettingsError, match=r"audit\.jsonl: No space left on device"):
        audit.append(log, key, entry(5))


def _append_many(folder: Path, key: Path) -> None:
    for number in range(30):
        audit.append(folder, make_signer(key), entry(number))


def test_two_processes_write_one_log(tmp_path: Path) -> None:
    public = make_signer(tmp_path / "k").public
    workers = [
        get_context("fork").Process(target=_append_many, args=(tmp_path, tmp_path / "k")) for _ in "ab"
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert audit.verify(tmp_path, public).counter == 60
    assert json.loads((tmp_path / audit.FILE).read_bytes().splitlines()[-1])["entry"]["n"] == 60
