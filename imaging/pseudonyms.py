"""Stand-ins for what identifies: equal where the originals were, meaningless without the site's key.

De-identified images must still hang together: two series of a study share its UID, a patient's second visit
is theirs, ninety days stay ninety days. So every identifier is replaced by a keyed hash of itself
(HMAC-SHA256, RFC 2104), with no table to keep or lose. The key is what makes it one-way. There are few
patient numbers, and a plain hash of each can be tried in seconds; under a key that never leaves the site,
nobody else can try, and two sites' stand-ins for one patient do not match.

    UID          2.25 and a UUID made of the hash (PS3.5 B.2); UIDs that the standard itself defines stay
    identifier   16 hexadecimal digits
    label        the same; upper and lower case and spaces make no difference
    date, time   moved back by one to ten years, to the microsecond; one offset for each patient
"""

import hmac
import os
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from pydicom.config import IGNORE
from pydicom.uid import UID

from protocol import files
from protocol.errors import SettingsError

KEY_BYTES = 32
DAY = timedelta(days=1)
NEAREST, FARTHEST = 365 * DAY, 3650 * DAY


@dataclass(frozen=True)
class Pseudonyms:
    """All stand-ins under one key; two objects with one key give the same ones."""

    key: bytes = field(repr=False)

    def uid(self, original: str) -> str:
        """Return the UID that stands for `original`."""
        if UID(original, IGNORE).type:  # in PS3.6's registry: a frame of reference such as an atlas's, say
            return original
        return f"2.25.{uuid.UUID(bytes=self._digest('uid', original)[:16], version=5).int}"

    def identifier(self, kind: str, original: str) -> str:
        """Return 16 hexadecimal digits for `original`; the same number of another kind gets others."""
        return self._digest(f"identifier {kind}", original).hex()[:16].upper()

    def label(self, original: str) -> str:
        """Return 16 hexadecimal digits for what somebody has called an outline."""
        return self.identifier("label", " ".join(original.casefold().split()))

    def offset(self, patient: str) -> timedelta:
        """Return by how much this patient's dates are moved, a negative time span."""
        microsecond = timedelta(microseconds=1)
        choices = (FARTHEST - NEAREST) // microsecond
        return -NEAREST - int.from_bytes(self._digest("dates", patient), "big") % choices * microsecond

    def _digest(self, purpose: str, original: str) -> bytes:
        return hmac.digest(self.key, f"{purpose}\0{original}".encode("utf-8", "surrogateescape"), "sha256")


def read_pseudonyms(path: Path) -> Pseudonyms:
    """Read the site's key, 32 random bytes, or make it there once, for its owner alone (0600).

    Whoever loses it can still read what was de-identified, and can no longer add to it: the same patient
    would get another name, and could be trained and tested on.

    Raises:
        SettingsError: the file cannot be read or made, or is not such a key.
    """
    try:
        if not path.exists():
            with suppress(FileExistsError):  # whoever comes second takes the first one's
                files.create(path, os.urandom(KEY_BYTES))
        key = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot use this key ({error.strerror}): make it readable") from error
    if len(key) != KEY_BYTES:
        raise SettingsError(
            f"{path}: a key has {KEY_BYTES} bytes, this has {len(key)}: restore it from a backup"
        )
    return Pseudonyms(key)
