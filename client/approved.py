"""Which code a coordinator may send: that of the version installed here, and what the hospital approved.

    approved.json   [{"bundle": SHA-256 in hex, "at": when}, ...]

Approval does not run anything: whatever the bundle holds, what runs is the installed version
(`client.launcher`). It says that this version may work for a coordinator that has another one.
"""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

from protocol import files
from protocol.bundle import bundle_hash
from protocol.errors import SettingsError

_HASH = re.compile(r"[0-9a-f]{64}")


def objection(content: bytes, approved: Path) -> str:
    """Return why the bundle `content` may not be worked for; "" if it may."""
    found = bundle_hash(content)
    if found == bundle_hash() or found in read_approved(approved):
        return ""
    return (
        f"the coordinator's code ({found}) is not what is installed at this site ({bundle_hash()}): "
        f"install the same version, or approve it here: consilium site approve {found}"
    )


def approve(bundle: str, approved: Path) -> bool:
    """Add a bundle's hash, durably; False where it was there. `SettingsError` for what is no hash."""
    if not _HASH.fullmatch(bundle):
        raise SettingsError(f"'{bundle}' is not a SHA-256: 64 digits 0-9 a-f, as the refusal names it")
    known = _read(approved)
    if bundle in (entry["bundle"] for entry in known):
        return False
    entry = {"bundle": bundle, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    files.write(approved, json.dumps([*known, entry], indent=1).encode())
    return True


def read_approved(approved: Path) -> frozenset[str]:
    """Return the approved hashes; `SettingsError` where the file says nothing readable."""
    return frozenset(entry["bundle"] for entry in _read(approved))


def _read(approved: Path) -> list[dict[str, str]]:
    try:
        plain = json.loads(approved.read_text(encoding="utf-8")) if approved.exists() else []
        return [{"bundle": str(entry["bundle"]), "at": str(entry["at"])} for entry in plain]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{approved}: cannot be read ({error!r}): restore or remove it") from error
