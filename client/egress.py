"""The last look before bytes leave the site.

Whatever the training code did, only an update that passes here is sent: no private group,
no group that the site does not own, no count that the cohort does not have.
"""

from collections.abc import Mapping

from protocol.errors import PrivacyError
from protocol.groups import PRIVATE
from protocol.update import Update


def release(update: Update, owned: Mapping[str, int]) -> Update:
    """Return `update` if it may leave; `PrivacyError` says which group may not."""
    sent = {group for vectors in (update.deltas, *update.extras.values()) for group in vectors}
    stray = sorted(group for group in sent if group == PRIVATE or group not in owned)
    if stray:
        msg = f"groups {stray} may not leave this site: it does not own them, or they are private"
        raise PrivacyError(msg)
    wrong = sorted(group for group, count in update.counts.items() if count != owned.get(group))
    if wrong:
        msg = f"counts of groups {wrong} are not this cohort's"
        raise PrivacyError(msg)
    return update
