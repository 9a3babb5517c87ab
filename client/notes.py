"""What a site did or refused outside any task, written into its audit log.

Without torch, as whoever keeps the site's process does without it.
"""

from datetime import UTC, datetime

from client.settings import Settings
from privacy import audit
from privacy.keys import signer

MOST_WHY = 1000
"""Characters; what a stranger's message makes us say must not fill the disk."""


def note(settings: Settings, what: str, decided: str, why: str) -> None:
    """Write into the audit log `what` was `decided` and `why`, which may be a stranger's words."""
    if settings.federation is None:
        return
    entry = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "asked": {"kind": what, "run": "", "round": 0},
        "decided": decided,
        "why": why[:MOST_WHY],
        "left": {"kind": "nothing", "bytes": 0, "sha256": ""},
    }
    audit.append(settings.books, signer(settings.signing_key), entry)
