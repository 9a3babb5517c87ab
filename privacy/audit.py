"""What a site was asked, what it decided and what left, in a log that shows every later change.

    {"entry": {"n": 7, "at": ..., "asked": ..., "decided": ..., "why": ..., "left": ...},
     "previous": hash of line 6, "signature": the site's, on both}

One line of canonical JSON a task (RFC 8785 in spirit: sorted keys, no blanks), so that one text
stands for each entry. A changed byte breaks the signature or the form; a missing, repeated or
moved line breaks the chain of hashes; lines cut off at the end leave a valid chain, which the
coordinator's countersigned head shows to be too short (`privacy.heads`). That is the hash-chained
log of Schneier and Kelsey (USENIX Security 1998), with a witness in place of evolving keys.

A line is on the disk before the reply that it describes leaves. A line that was being written
when the power failed lacks its end; its reply never left, and the next line takes its place.
No line names a patient: it holds names of runs, counts, hashes, and errors that are ours.
"""

import fcntl
import json
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from privacy import store
from privacy.heads import Head, canonical
from privacy.keys import Signer, verified
from protocol import files
from protocol.errors import PrivacyError

FILE = "audit.jsonl"
_PURPOSE = "audit entry"
_BLOCK = 1 << 12
"""Bytes looked at from the end of the file; doubled until the lines that are asked for are there."""


def append(folder: Path, key: Signer, entry: Mapping[str, Any]) -> Head:
    """Write `entry` as the next line, durably, and return the log's new head."""
    path = folder / FILE
    with store.reachable(path), _locked(path) as file:
        last = _newest(file)
        line = _line(key, {**entry, "n": last.counter + 1}, last.hash)
        file.seek(0, os.SEEK_END)
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return Head(last.counter + 1, _hash(line))


def head(folder: Path) -> Head:
    """Return where the log stands, without looking back."""
    path = folder / FILE
    if not path.exists():
        return Head()
    with store.reachable(path), path.open("rb") as file:
        return _newest(file)


def stands(folder: Path, seen: Head) -> bool:
    """Return whether the log has gone through `seen`."""
    path, now = folder / FILE, head(folder)
    if seen.counter > now.counter or not seen.counter:
        return seen == Head()
    with store.reachable(path), path.open("rb") as file:
        return _hash(_tail(file, now.counter - seen.counter + 1)[0][0]) == seen.hash


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the log's entries as they stand there, unchecked."""
    for line in _text(folder).split(b"\n")[:-1]:
        yield json.loads(line)["entry"]


def verify(folder: Path, public: bytes, seen: Head = Head()) -> Head:  # noqa: B008 - immutable
    """Check every line against the site's public key and `seen`, a head that was witnessed.

    Returns the log's head. Raises `PrivacyError` at the first line that is not as it was written, or
    for a log that does not reach the witness.
    """
    return check(_text(folder), public, seen)


def check(text: bytes, public: bytes, seen: Head) -> Head:
    """Do what `verify` does with a log's text."""
    now, witnessed = Head(), seen == Head()
    *lines, torn = text.split(b"\n")
    for line in lines:
        now = _next(now, line, public)
        witnessed |= now == seen
    if torn:
        raise _altered(now.counter + 1, "breaks off: a crash while it was written, or a hand that cut it")
    if not witnessed:
        raise _altered(
            min(seen.counter, now.counter + 1),
            f"is not what the coordinator has witnessed as line {seen.counter}: lines are missing or new",
        )
    return now


def _next(last: Head, line: bytes, public: bytes) -> Head:
    number = last.counter + 1
    try:
        found = json.loads(line)
        entry, previous, signature = found["entry"], found["previous"], bytes.fromhex(found["signature"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _altered(number, "is no line of ours") from error
    if _form(entry, previous, signature) != line:
        raise _altered(number, "is not in the form that it was written in")
    if previous != last.hash or not isinstance(entry, dict) or entry.get("n") != number:
        raise _altered(number, "does not follow the line before: lines were removed, moved or repeated")
    if not verified(public, _PURPOSE, _message(entry, previous), signature):
        raise _altered(number, "does not carry this site's signature")
    return Head(number, _hash(line))


def _line(key: Signer, entry: Mapping[str, Any], previous: str) -> bytes:
    return _form(entry, previous, key.sign(_PURPOSE, _message(entry, previous)))


def _form(entry: Any, previous: Any, signature: bytes) -> bytes:
    return canonical({"entry": entry, "previous": previous, "signature": signature.hex()}).encode()


def _message(entry: Any, previous: Any) -> bytes:
    return canonical([entry, previous]).encode()


def _hash(line: bytes) -> str:
    return sha256(line).hexdigest()


def _newest(file: BinaryIO) -> Head:
    lines, _torn = _tail(file, 1)
    try:
        return Head(int(json.loads(lines[0])["entry"]["n"]), _hash(lines[0])) if lines else Head()
    except (ValueError, KeyError, TypeError) as error:
        raise PrivacyError("audit log: its last line is damaged: `consilium site audit verify`") from error


def _tail(file: BinaryIO, number: int) -> tuple[list[bytes], bytes]:
    """Return the last `number` whole lines, fewer where there are not so many, and what follows them."""
    size, block = file.seek(0, os.SEEK_END), _BLOCK
    while True:
        start = max(0, size - block)
        file.seek(start)
        *lines, torn = file.read().split(b"\n")
        whole = lines[1:] if start else lines  # the first may have begun before the block
        if not start or len(whole) >= number:
            return whole[-number:], torn
        block *= 2


def _text(folder: Path) -> bytes:
    path = folder / FILE
    with store.reachable(path):
        return path.read_bytes() if path.exists() else b""


@contextmanager
def _locked(path: Path) -> Generator[BinaryIO]:
    """Open the log, alone, without a torn last line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.fchmod(file.fileno(), 0o600)
        _lines, torn = _tail(file, 1)
        file.truncate(file.seek(0, os.SEEK_END) - len(torn))
        yield file
    if new:
        files.sync_folder(path.parent)


def _altered(number: int, what: str) -> PrivacyError:
    return PrivacyError(f"audit log, line {number}: {what}. Keep this file, and find out who changed it")
