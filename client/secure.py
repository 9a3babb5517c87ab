"""The site's side of a secure round: one answer a step, the session between them in memory.

A site that dies forgets its session and cannot go on in that round; nothing secret is on its disk.
What is on the disk, one small file a run, is what it already took part in. A round may be asked again (the
coordinator was killed), and two sums over different sites would show their difference. So:

    before it contributes     the roster of the round; another attempt must name the same one
    before it reveals         the contributors; another attempt reveals the sum of the same ones only

Any two sets of sites that reveal have a site in common (more than half of one roster), so one
honest memory is enough.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from client.site import Site
from client.training import train, trained
from privacy.keys import read_pins, signer
from privacy.secagg.fixed import Grid, require_countable
from privacy.secagg.masks import Words
from privacy.secagg.site import SiteSession
from privacy.secagg.terms import read_advert, terms_of
from protocol import files
from protocol.errors import PrivacyError
from protocol.groups import PRIVATE
from protocol.messages import Reply, Task
from protocol.update import Update

log = logging.getLogger("consilium.secure")

SAW = "secure.json"

_sessions: dict[Path, SiteSession] = {}
"""State folder -> the session of its site; a new round takes the place of the last."""


def advertise(site: Site, task: Task) -> Reply:
    """Begin a session and tell the site's keys."""
    if not site.recipe.secure.enabled:
        raise PrivacyError("the recipe does not ask for secure aggregation: set secure.enabled")
    if site.settings.federation is None:
        raise PrivacyError("this site knows no other site's key: its settings name no federation file")
    terms = terms_of(
        site.recipe.secure,
        task.facts["roster"],
        run=task.run,
        number=task.round,
        attempt=task.attempt,
        recipe=task.recipe,
    )
    _same(_seen(site, task), "roster", terms.roster)
    session = SiteSession(
        site.settings.site,
        terms,
        signer(site.settings.signing_key),
        read_pins(site.settings.federation),
        [group for group in trained(site) if group != PRIVATE],
    )
    _sessions[site.settings.state] = session
    return _reply(site, task, {"advert": session.advertise().plain()})


def share(site: Site, task: Task) -> Reply:
    """Hand out shares of this site's secrets, one sealed letter a peer."""
    letters = _session(site, task).share([read_advert(plain) for plain in task.facts["adverts"]])
    return _reply(site, task, {"letters": {peer: letter.hex() for peer, letter in letters.items()}})


def contribute(site: Site, task: Task) -> Reply:
    """Train, and answer with the masked update."""
    session = _session(site, task)
    groups = session.accept({peer: bytes.fromhex(letter) for peer, letter in task.facts["letters"].items()})
    _see(site, task, "roster", session.terms.roster)
    reply = train(site, replace(task, facts={}))
    if reply.update is None:
        raise PrivacyError("training gave no update to mask")
    # No step count and no loss of one site beside a sum that hides it.
    facts = {name: value for name, value in reply.facts.items() if name != "loss"}
    update = _masked(site, session, reply.update, groups)
    return Reply(reply.site, task.kind, reply.run, reply.round, update, facts)


def agree(site: Site, task: Task) -> Reply:
    """Sign the list of contributors."""
    signature = _session(site, task).agree([str(name) for name in task.facts["contributed"]])
    return _reply(site, task, {"signature": signature.hex()})


def reveal(site: Site, task: Task) -> Reply:
    """Give the shares that take the masks off the sum."""
    session = _session(site, task)
    revealed = session.reveal({s: bytes.fromhex(text) for s, text in task.facts["signatures"].items()})
    _see(site, task, "contributed", sorted(revealed.seeds))
    return _reply(site, task, {"revealed": revealed.plain()})


STEPS: dict[str, Callable[[Site, Task], Reply]] = {
    "advertise": advertise,
    "share": share,
    "contribute": contribute,
    "agree": agree,
    "reveal": reveal,
}


def _session(site: Site, task: Task) -> SiteSession:
    session = _sessions.get(site.settings.state)
    if session is None or (session.terms.run, session.terms.round, session.terms.attempt) != (
        task.run,
        task.round,
        task.attempt,
    ):
        raise PrivacyError(
            f"no session of round {task.round}: this site was started anew, or never joined it"
        )
    if session.terms.recipe != task.recipe:
        raise PrivacyError("the recipe is another one than at the start of this round")
    return session


def _masked(site: Site, session: SiteSession, update: Update, groups: list[str]) -> Update:
    counts = {group: update.counts[group] for group in groups}
    words = {group: _words(site, session, update, group) for group in groups}
    masked = session.mask(counts, words)
    return Update({group: _tensor(words[group]) for group in groups}, masked)


def _words(site: Site, session: SiteSession, update: Update, group: str) -> Words:
    """Return the integers that stand for one group, in the update's memory."""
    secure, values, count = site.recipe.secure, update.deltas[group].cpu().numpy(), update.counts[group]
    if secure.noise_over is not None:  # they are integers already: no number leaves training without noise
        require_countable(count, secure.cases)
        return values.view(np.uint32)
    words, clipped = Grid(secure.clip_value, secure.cases, len(session.terms.roster)).encode(values, count)
    if clipped:
        log.warning("%d values of group %s were clipped: see secure.clip_value", clipped, group)
    return words


def _tensor(words: Words) -> Tensor:
    return torch.from_numpy(words.view("int32"))


def _reply(site: Site, task: Task, facts: Mapping[str, Any]) -> Reply:
    return Reply(site.settings.site, task.kind, task.run, task.round, facts=facts)


def _same(seen: Mapping[str, Any], what: str, now: Any) -> None:
    if seen.get(what, list(now)) != list(now):
        raise PrivacyError(
            f"an earlier attempt of this round had another {what} list: two sums would show their difference"
        )


def _seen(site: Site, task: Task) -> dict[str, Any]:
    return _read(site.folder(task.run) / SAW).get(str(task.round), {})


def _see(site: Site, task: Task, what: str, now: Any) -> None:
    """Note durably what this round's sum is over; `PrivacyError` where it was another one before."""
    path = site.folder(task.run) / SAW
    seen = _read(path)
    here = seen.setdefault(str(task.round), {})
    _same(here, what, now)
    here[what] = list(now)
    files.write(path, json.dumps(seen).encode())


def _read(path: Path) -> dict[str, dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
