"""The coordinator's side of a secure round: five steps over the same wire, one sum.

    advertise -> share -> contribute -> agree -> reveal         `privacy.secagg` says what each is

A site that fails in a step is out of the round from there on. While the threshold holds the round goes
on without it, and its update is in the sum exactly if it contributed. Below the threshold the
round ends with `QuorumError`, and what came stays masked for ever.

Masked updates are added as they arrive, in the memory of the last round's sums, and unmasked and turned
into floats where they lie: one model is held, whatever the number of sites.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from privacy.secagg.coordinator import CoordinatorSession
from privacy.secagg.fixed import Grid
from privacy.secagg.masks import Words
from privacy.secagg.site import Revealed, read_revealed
from privacy.secagg.terms import read_advert, terms_of
from privacy.split import split_of
from protocol.errors import AdmissionError, PrivacyError, QuorumError
from protocol.messages import Reply, Task
from protocol.recipe import Recipe
from protocol.update import Update, Vectors
from server.admission import check_masked, numbers, same_question
from server.record import SiteRound
from server.roster import Member
from server.wire import Arrival, Wire
from server.witness import Witness

TOLD = ("seconds", "epsilon", "epsilon_pld", "epsilon_alone", "delta", "noise_multiplier")

_REFUSED = (AdmissionError, PrivacyError, KeyError, TypeError, ValueError, AttributeError)


class SecureRound:
    """One secure round over `wire`. `tasks`: what a plain round would ask; `spare`: memory for sums.

    `witness` has the sites' keys, and notes where their books stand at every step.
    """

    def __init__(
        self,
        recipe: Recipe,
        tasks: Sequence[tuple[Member, Task]],
        wire: Wire,
        witness: Witness,
        spare: Vectors,
    ) -> None:
        first = tasks[0][1]
        roster = sorted(member.site for member, _ in tasks)
        secure = recipe.secure
        terms = terms_of(
            secure, roster, run=first.run, number=first.round, attempt=first.attempt, recipe=first.recipe
        )
        self.sites = {m.site: SiteRound(m.site, "", cases=max(m.owned.values())) for m, _ in tasks}
        self.number = first.round
        self._tasks = {member.site: task for member, task in tasks}
        self._ask = wire.ask
        self._deadline_s = recipe.roster.deadline_s
        self._enough = max(terms.threshold, recipe.roster.quorum)
        self._session = CoordinatorSession(terms, witness.pins)
        self._grid = split_of(recipe) or Grid(secure.clip_value, secure.cases, len(roster))
        self._witness = witness
        self._spare = spare
        self._sums: dict[str, Words] = {}

    def aggregate(self) -> Update:
        """Return the owner means with the sums of counts, in the memory of `spare`.

        Raises `QuorumError` when too few sites are left, or too few contribute to every group.
        """
        session, revealed = self._session, dict[str, Revealed]()

        def admit(site: str, reply: Reply) -> None:
            session.admit(site, read_advert(reply.facts["advert"]))

        def post(site: str, reply: Reply) -> None:
            session.post(site, _unhex(reply.facts["letters"]))

        def sign(site: str, reply: Reply) -> None:
            session.sign(site, bytes.fromhex(reply.facts["signature"]))

        def collect(site: str, reply: Reply) -> None:
            revealed[site] = read_revealed(reply.facts["revealed"])

        sites = self._step("advertise", list(self._tasks), admit, roster=list(self._tasks))
        sites = self._step("share", sites, post, adverts=[session.adverts[site].plain() for site in sites])
        sites = self._step("contribute", sites, self._add)
        signers = self._step("agree", sites, sign, contributed=sites)
        self._step("reveal", signers, collect, signatures=_hex(session.signatures))
        return self._unmasked(revealed)

    def _step(
        self, kind: str, sites: Sequence[str], take: Callable[[str, Reply], None], **facts: Any
    ) -> list[str]:
        """Ask `sites`, take each reply as it comes, and return those that passed."""
        tasks = [(site, self._task(kind, site, facts)) for site in sites]
        arrivals = self._ask(tasks, self._deadline_s)
        passed = [arrival.site for arrival in arrivals if self._taken(kind, arrival, take)]
        if len(passed) < self._enough:
            told = "; ".join(f"{s.site} {s.status}: {s.reason}" for s in self.sites.values() if s.reason)
            msg = f"{len(passed)} sites are left after '{kind}', a sum needs {self._enough} ({told})"
            raise QuorumError(msg)
        return passed

    def _task(self, kind: str, site: str, facts: Mapping[str, Any]) -> Task:
        whole, seen = self._tasks[site], self._witness.facts(site)
        if kind == "contribute":
            return replace(whole, kind=kind, facts={"letters": _hex(self._session.inbox(site))} | seen)
        return replace(whole, kind=kind, vectors={}, received={}, facts={**facts, **seen})

    def _taken(self, kind: str, arrival: Arrival, take: Callable[[str, Reply], None]) -> bool:
        """Say whether this step's reply was taken; note in the record what became of the site."""
        site, reply = arrival.site, arrival.reply
        status, reason = arrival.status, f"{kind}: {arrival.reason}"
        if reply is not None:
            try:
                self._witness.note(site, reply)
                same_question(reply, replace(self._tasks[site], kind=kind))
                take(site, reply)
            except _REFUSED as error:
                status, reason = "refused", f"{kind}: {type(error).__name__}: {error}"
            else:
                status, reason = "accepted", ""
        known = self.sites[site]
        contributed = site in self._session.contributed
        self.sites[site] = replace(
            known,
            status="accepted" if contributed else status,
            reason=reason,
            bytes_down=known.bytes_down + arrival.bytes_down,
            bytes_up=known.bytes_up + arrival.bytes_up,
        )
        return status == "accepted"

    def _add(self, site: str, reply: Reply) -> None:
        update = check_masked(reply, self._tasks[site], self._session.groups(site))
        told = numbers(reply.facts, TOLD)
        for group, vector in update.deltas.items():
            self._add_words(group, vector.numpy().view(np.uint32))
        self._session.count(site, update.counts)
        self.sites[site] = replace(self.sites[site], groups=tuple(update.deltas), **told)

    def _add_words(self, group: str, words: Words) -> None:
        if group in self._sums:
            np.add(self._sums[group], words, out=self._sums[group])
            return
        memory = self._spare.setdefault(group, torch.empty(words.size))
        self._sums[group] = memory.numpy().view(np.uint32)
        self._sums[group][:] = words

    def _unmasked(self, revealed: Mapping[str, Revealed]) -> Update:
        deltas, counts = dict[str, Tensor](), dict[str, int]()
        for group, count, sites in self._session.unmask(revealed, self._sums):
            self._grid.decode(self._sums[group], count, sites)
            deltas[group], counts[group] = self._spare[group], count
        if not deltas:
            raise QuorumError("no group has enough contributors left to be summed: see secure.fewest")
        return Update(deltas, counts)


def _hex(named: Mapping[str, bytes]) -> dict[str, str]:
    return {name: value.hex() for name, value in named.items()}


def _unhex(plain: Mapping[str, str]) -> dict[str, bytes]:
    return {str(name): bytes.fromhex(text) for name, text in plain.items()}
