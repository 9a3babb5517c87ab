"""The coordinator remembers where each site's books stood, and hands it back signed.

    witness.json   {"north": {"ledger": [12, "9f..."], "audit": [40, "51..."], "signature": the site's}}

Beside the coordinator's key, and written before a reply counts. A site whose heads are shorter than
they were, or other ones under the same number, has put an older copy in place: its reply is
refused, whatever the site itself says (`privacy.heads`, `client.books`).
"""

import json
from pathlib import Path
from typing import Any

from privacy.heads import BOOKS, Head, countersign, from_plain, signed
from privacy.keys import COORDINATOR_KEY, FEDERATION, Pins, Signer, read_pins, signer
from protocol import files
from protocol.errors import AdmissionError, CheckpointError
from protocol.messages import HEADS, WITNESS, Reply

FILE = "witness.json"


class Witness:
    """The heads that the sites of a federation have signed, newest first, in one file."""

    def __init__(self, path: Path, key: Signer, pins: Pins) -> None:
        self.pins = pins
        self._path, self._key = path, key
        self._seen: dict[str, Any] = _read(path)

    def facts(self, site: str) -> dict[str, Any]:
        """Return what a task to `site` carries: the countersigned heads, once there are any."""
        if site not in self._seen:
            return {}
        return {WITNESS: countersign(self._key, site, from_plain(self._seen[site]))}

    def note(self, site: str, reply: Reply) -> None:
        """Remember the heads in `reply`, durably.

        Raises:
            AdmissionError: if they are not the site's, or a book of the site's has gone back.
        """
        heads = signed(self.pins.of(site), site, reply.facts.get(HEADS))
        if heads is None:
            raise AdmissionError(
                f"site '{site}' does not sign where its ledger stands: compare the files of public keys"
            )
        before = from_plain(self._seen[site]) if site in self._seen else {book: Head() for book in BOOKS}
        for book in BOOKS:
            _require_onward(site, book, before[book], heads[book])
        self._seen[site] = reply.facts[HEADS]
        files.write_text(self._path, json.dumps(self._seen, indent=1))


def open_witness(folder: Path) -> Witness | None:
    """Return the witness of the coordinator whose key and federation are in `folder`; None without."""
    if not (folder / FEDERATION).exists():
        return None
    return Witness(folder / FILE, signer(folder / COORDINATOR_KEY), read_pins(folder / FEDERATION))


def _require_onward(site: str, book: str, before: Head, now: Head) -> None:
    if now.counter < before.counter or (now.counter == before.counter and now != before):
        raise AdmissionError(
            f"the {book} of site '{site}' went back from entry {before.counter} to {now.counter}: an older "
            "copy was put in place there; its patients' spend is not known until the newest is restored"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}): restore it from a backup") from error
