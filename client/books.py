"""A site's two books, the ledger and the audit log, around every task.

    before   the books must hold what the coordinator has seen of them
    after    what was asked, decided and sent is in the audit log; both heads go with the reply

Only where the settings name a federation: without keys nobody could sign, and nothing is written.
"""

from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from client.notes import MOST_WHY
from client.settings import Settings
from privacy import audit, ledger
from privacy.heads import countersigned, sign
from privacy.keys import read_pins, signer
from protocol.errors import PrivacyError
from protocol.messages import HEADS, WITNESS, Reply, Task, fingerprint, pack_reply


def require_witnessed(settings: Settings, task: Task) -> None:
    """Refuse to work from books that are older than those the coordinator has countersigned.

    Raises:
        PrivacyError: if a book lacks a witnessed entry, or the word is not the coordinator's.
        SettingsError: without the site's key.
    """
    if settings.federation is None:
        return
    signer(settings.signing_key)  # nobody pays for an answer that cannot be signed
    word = task.facts.get(WITNESS)
    if word is None:
        return
    heads = countersigned(read_pins(settings.federation).coordinator, settings.site, word)
    if heads is None:
        raise PrivacyError(
            "the coordinator's word on this site's ledger does not carry the coordinator's signature: "
            "compare both sides' file of public keys"
        )
    for book, stands in (("ledger", ledger.stands), ("audit", audit.stands)):
        if not stands(settings.books, heads[book]):
            raise PrivacyError(
                f"the {book} here lacks entry {heads[book].counter}, which the coordinator countersigned: "
                "it is an older copy, or was changed. Restore the newest copy; if there is none, what "
                "these patients paid is not known any more, and they must not be trained on again"
            )


def written_down(settings: Settings, task: Task, reply: Reply) -> Reply:
    """Write the task and its reply into the audit log, and return the reply with both books' heads."""
    if settings.federation is None:
        return reply
    key = signer(settings.signing_key)
    newest = audit.append(settings.books, key, _entry(task, reply))
    heads = {"audit": newest, "ledger": ledger.head(settings.books)}
    return replace(reply, facts={**reply.facts, HEADS: sign(key, settings.site, heads)})


def _entry(task: Task, reply: Reply) -> dict[str, Any]:
    digest, size = fingerprint(pack_reply(reply))
    return {
        "at": _now(),
        "asked": {
            "kind": task.kind,
            "run": task.run,
            "round": task.round,
            "attempt": task.attempt,
            "recipe": sha256(task.recipe.encode()).hexdigest(),
            "witness": task.facts.get(WITNESS),
        },
        "decided": "refused" if reply.error else "answered",
        "why": ": ".join(reply.error)[:MOST_WHY] if reply.error else "",
        "left": {"kind": "error" if reply.error else task.kind, "bytes": size, "sha256": digest},
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
