"""The last look before bytes leave the site.

Whatever the training code did, only an update that passes `release` is sent: no private group,
no group that the site does not own, no count that the cohort does not have, no more bytes than the
policy allows. And every value of a reply, however deep, passes `leave`, which lets through what has
a line here:

    accounted    under differential privacy: covered by the epsilon that stands beside it
    suppressed   does not leave
    declared     leaves outside any guarantee, and `statement` says so to whoever reads the report

A value without a line does not leave: who adds one decides here which of the three it is.
An error's words leave as `without_paths` has them: a folder may be called after a patient.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, cast

from client.limits import too_large
from client.policy import Leaves, Policy
from client.site import Site
from protocol.errors import PolicyError, PrivacyError
from protocol.groups import PRIVATE
from protocol.messages import Reply
from protocol.metrics import Tally, coarsened
from protocol.recipe import Recipe
from protocol.update import Update

VALUES = {
    "update/deltas/*": "updates",
    "update/extras/*/*": "updates",
    "update/counts/*": "counts",
    "update/steps": "times",
    "facts/summary/site": "names",
    "facts/summary/patients/*": "counts",
    "facts/summary/cases/*": "counts",
    "facts/summary/patterns/*": "counts",
    "facts/summary/labels/*": "counts",
    "facts/owned/*": "counts",
    "facts/usable": "counts",
    "facts/leaves/*": "names",
    "facts/version": "names",
    "facts/scores/*/*/kind": "scores",
    "facts/scores/*/*/sums": "scores",
    "facts/loss": "loss",
    "facts/seconds": "times",
    "facts/epsilon": "spending",
    "facts/epsilon_pld": "spending",
    "facts/epsilon_alone": "spending",
    "facts/delta": "spending",
    "facts/noise_multiplier": "spending",
    "facts/advert/*": "keys",
    "facts/letters/*": "keys",
    "facts/signature": "keys",
    "facts/revealed/mask_keys/*": "keys",
    "facts/revealed/seeds/*/*": "keys",
}
"""The place of a value in a reply, `*` for a name of somebody's choice -> its line in `statement`."""

AROUND = {
    "version": "names",
    "site": "names",
    "kind": "names",
    "run": "names",
    "round": "names",
    "error": "times",
    "facts/heads/*": "books",
}
"""What is put around and beside them when the reply is written down and packed; a task's words come back."""

ACCOUNTED, SUPPRESSED, DECLARED = "accounted", "suppressed", "declared"
_PATH = re.compile(r"(?<![\w.:/])(?:~|\.{1,2})?/.*?(?=: |; |$)", re.MULTILINE)
_LINES = [(pattern.split("/"), line) for pattern, line in VALUES.items()]


def release(update: Update, owned: Mapping[str, int], leaves: Leaves | None = None) -> Update:
    """Return `update` if it may leave; the error says which group may not, or that it is too large."""
    sent = {group for vectors in (update.deltas, *update.extras.values()) for group in vectors}
    stray = sorted(group for group in sent if group == PRIVATE or group not in owned)
    if stray:
        msg = f"groups {stray} may not leave this site: it does not own them, or they are private"
        raise PrivacyError(msg)
    wrong = sorted(group for group, count in update.counts.items() if count != owned.get(group))
    if wrong:
        msg = f"counts of groups {wrong} are not this cohort's"
        raise PrivacyError(msg)
    size = sum(v.nbytes for vectors in (update.deltas, *update.extras.values()) for v in vectors.values())
    if leaves is not None and (reason := too_large(size, leaves.largest_message_bytes)):
        raise PolicyError(reason)
    return update


def leave(reply: Reply, site: Site) -> Reply:
    """Return the reply with those of its facts that may leave, as coarse as the policy wants them."""
    lines = {place: _line(place) for place in _places(reply)}
    if stray := sorted("/".join(place) for place, line in lines.items() if not line):
        msg = f"{stray} may not leave this site: nothing says whether they are covered by privacy"
        raise PrivacyError(msg)
    fates = statement(site.policy, site.recipe)
    hidden = {place[1] for place, line in lines.items() if place[0] == "facts" and fates[line] == SUPPRESSED}
    facts = {name: fact for name, fact in reply.facts.items() if name not in hidden}
    if "scores" in reply.facts:
        facts["scores"] = _told(site, reply.facts["scores"])
    return replace(reply, facts=facts)


def without_paths(text: str) -> str:
    """Return an error's text with each path of this machine as `<path>`.

    A path goes from its first slash to where a sentence of ours goes on after it, so that one with spaces,
    commas or quotes in it goes wholly; of an address (`https://...`) all stays.
    """
    return _PATH.sub("<path>", text)


def _places(reply: Reply) -> Iterator[tuple[str, ...]]:
    yield from _inside(("facts",), reply.facts)
    if reply.update is not None:
        yield from _inside(("update",), vars(reply.update))


def _inside(place: tuple[str, ...], value: object) -> Iterator[tuple[str, ...]]:
    if not isinstance(value, Mapping):
        yield place
        return
    for name, inner in cast("Mapping[str, object]", value).items():
        yield from _inside((*place, name), inner)


@lru_cache(maxsize=4096)
def _line(place: tuple[str, ...]) -> str:
    """Return a value's line, "" where it has none."""
    return next((line for pattern, line in _LINES if _is_at(place, pattern)), "")


def _is_at(place: tuple[str, ...], pattern: list[str]) -> bool:
    return len(place) == len(pattern) and all(
        p in ("*", name) for p, name in zip(pattern, place, strict=True)
    )


def statement(policy: Policy, recipe: Recipe) -> dict[str, str]:
    """Return what leaves the site -> `accounted`, `suppressed`, or `declared: in what form`."""
    counts, leaves = policy.counts, policy.leaves
    private = recipe.privacy.epsilon is not None
    coarse = f"in steps of {counts.told_in_steps_of}, none of fewer than {counts.least_told} patients"
    secure = recipe.secure.enabled
    summed = ", only as a sum over sites" if secure else ""
    exact = counts.told_in_steps_of == 1 and counts.least_told <= 1
    return {
        "updates": _accounted(recipe) if private else f"{DECLARED}: without noise{summed}",
        "loss": SUPPRESSED if private or not leaves.loss else f"{DECLARED}: exact",
        "scores": _scores_told(leaves, counts.least_told) if leaves.metrics else SUPPRESSED,
        "counts": f"{DECLARED}: {'exact' if exact else coarse}",
        "spending": f"{DECLARED}: follows from the number of patients" if private else SUPPRESSED,
        "keys": f"{DECLARED}: public keys, sealed shares, signatures"
        if recipe.secure.enabled
        else SUPPRESSED,
        "times": f"{DECLARED}: seconds, bytes, steps, whether the site answered, and if not, why",
        "books": f"{DECLARED}: how many entries ledger and audit log have, their hashes, a signature",
        "names": f"{DECLARED}: of site, version, run, round and question, and this table",
    }


def _accounted(recipe: Recipe) -> str:
    shares = recipe.secure.noise_over
    return ACCOUNTED if shares is None else f"{ACCOUNTED}: in sums of at least {shares} honest sites"


def allowed(site: Site) -> bool:
    """Say whether any score of this site may leave."""
    return bool(site.policy.leaves.metrics)


def _scores_told(leaves: Leaves, least: int) -> str:
    step = leaves.scores_in_steps_of
    how = "exact" if step is None else f"in steps of {step:g}"
    over = f", over at least {least} patients" if least > 1 else ""
    return f"{DECLARED}: {how}{over}, of patients who were not trained on"


def _told(site: Site, scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    return {
        subset: {name: told for name, plain in tallies.items() if (told := _score(site, name, plain))}
        for subset, tallies in scores.items()
    }


def _score(site: Site, name: str, plain: Mapping[str, Any]) -> Mapping[str, Any] | None:
    leaves = site.policy.leaves
    if not any(fnmatchcase(name, pattern) for pattern in leaves.metrics):
        return None
    if leaves.scores_in_steps_of is None:
        return plain
    tally = coarsened(
        Tally(plain["kind"], tuple(plain["sums"])), leaves.scores_in_steps_of, site.policy.counts.rounded
    )
    return None if tally is None else vars(tally)
