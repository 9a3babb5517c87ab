"""How large a message this hospital allows, read without what it takes to read its whole policy.

The process that holds the line to the coordinator has no torch, and has to know before it gives memory to a
message: a coordinator that names one piece again and again claims as much as it likes, and keeps it once.
The worker, which reads all of the policy, asks again (`client.policy.permit`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protocol.errors import PolicyError, RecipeError
from protocol.recipe import read_plain

LARGEST_BYTES = 256 * 2**20
"""Where the policy says nothing else, or nothing that can be understood."""


def require_room(sizes: Sequence[int], policy: Path | None) -> None:
    """Raise `PolicyError` where vectors of so many bytes each are more than a message may have."""
    if reason := too_large(sum(size for size in sizes if size > 0), largest(policy)):
        raise PolicyError(reason)


def largest(policy: Path | None) -> int | None:
    """Return how many bytes a message may have by the policy as it stands now; None: any number."""
    if policy is None:
        return None
    try:
        told: Any = read_plain(policy.read_text(encoding="utf-8"), "policy")
        found = told["leaves"]["largest_message_bytes"]
    except (OSError, UnicodeDecodeError, RecipeError, KeyError, TypeError):
        return LARGEST_BYTES
    return found if found is None or type(found) is int else LARGEST_BYTES


def too_large(size: int, most: int | None) -> str:
    """Return why a message of `size` bytes is refused where `most` are allowed; "" if it is not."""
    if most is None or size <= most:
        return ""
    return f"leaves.largest_message_bytes: a message of {size} B, at most {most}"
