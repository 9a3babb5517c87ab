"""The site as a Flower ClientApp: unpack, call, pack.

Every task passes the policy's doors, and every reply the last look, here and nowhere else.

What goes wrong is answered, not raised: our own errors with their text less the paths in it, anything
else by its class name alone, since a stranger's message may quote data; the site's log has the rest. In a
federation with keys no answer leaves before the audit log has it.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.books import require_witnessed, written_down
from client.egress import allowed, leave, statement, without_paths
from client.evaluation import evaluate as score
from client.evaluation import subsets_of
from client.ingress import admit
from client.notes import note
from client.policy import fits, permit, read_policy
from client.secure import STEPS
from client.settings import Settings, from_node_config
from client.site import Site, open_site
from client.standardise import standardised
from client.training import train
from protocol.errors import ConsiliumError, PolicyError, WireError
from protocol.messages import Reply, Task, pack_reply, unpack_task
from protocol.stages import stage_in

log = logging.getLogger("consilium.site")

Answer = Callable[[Site, Task], Reply]


def describe(site: Site, task: Task) -> Reply:
    """Tell the coordinator what it may plan on: counts, no patient, and what will leave."""
    usable: set[str] = set()
    for split in ("train", "validation", "test"):
        usable |= site.cohort.counts(split).keys()
    facts = {
        "summary": site.cohort.summary(site.policy.counts.tell),
        "owned": site.owned,
        "usable": sorted(usable),
        "leaves": statement(site.policy, site.recipe),
        "version": version("consilium"),
    }
    return Reply(site.settings.site, task.kind, task.run, task.round, facts=facts)


def evaluate(site: Site, task: Task) -> Reply:
    """Score the given parameters (or the site's own personal model) on a split.

    Nothing is computed where no score may leave.
    """
    if not allowed(site):
        return Reply(site.settings.site, task.kind, task.run, task.round, facts={"scores": {}})
    site = standardised(site, task).equip(task)
    subsets = subsets_of(tuple(site.recipe.modalities)) if task.facts["subsets"] else None
    least = max(site.policy.counts.least_told, 1)
    scores = score(site.model, site.cohort, site.recipe, task.facts["split"], subsets, least=least)
    plain = {s: {name: vars(tally) for name, tally in values.items()} for s, values in scores.items()}
    return Reply(site.settings.site, task.kind, task.run, task.round, facts={"scores": plain})


ANSWERS: dict[str, Answer] = {"describe": describe, "train": train, "evaluate": evaluate} | STEPS


def answer(message: Message, settings: Settings) -> Message:
    """Do what the message asks and return the reply; `WireError` where it is no task of ours."""
    task = _task(message, settings)
    reply = _caught(settings, task, lambda: _answered(settings, task))
    reply = _caught(settings, task, lambda: written_down(settings, task, reply))
    return Message(pack_reply(reply), reply_to=message)


def refuse(message: Message, settings: Settings, why: str) -> Message:
    """Do nothing of what the message asks: the reason goes into the audit log and back, as a policy's."""
    task = _task(message, settings)
    log.warning("%s of round %d, run %s, refused: %s", task.kind, task.round, task.run, why)
    reply = _failed(task, settings, "PolicyError", why)
    reply = _caught(settings, task, lambda: written_down(settings, task, reply))
    return Message(pack_reply(reply), reply_to=message)


def _task(message: Message, settings: Settings) -> Task:
    try:
        return unpack_task(message)
    except WireError as error:
        note(settings, "unreadable", "refused", str(error))
        raise


def _answered(settings: Settings, task: Task) -> Reply:
    require_witnessed(settings, task)
    policy = read_policy(settings.policy)
    permit(policy, settings, task)
    _, text = stage_in(task.recipe, task.round)
    site = replace(open_site(settings, text, policy.counts), policy=policy)
    fits(policy, task, site.recipe, site.patients, site.owned, cases=len(site.rows))
    return leave(ANSWERS[task.kind](site, admit(site, task)), site)


def _caught(settings: Settings, task: Task, work: Callable[[], Reply]) -> Reply:
    try:
        return work()
    except ConsiliumError as error:
        what = "refused" if isinstance(error, PolicyError) else "failed"
        log.warning("%s of round %d, run %s, %s: %s", task.kind, task.round, task.run, what, error)
        return _failed(task, settings, type(error).__name__, without_paths(str(error)))
    except Exception as error:
        log.exception("%s of round %d failed", task.kind, task.round)
        return _failed(task, settings, type(error).__name__, "the site's own log says more")


def build_app(settings_of: Callable[[Context], Settings]) -> ClientApp:
    """Return a ClientApp whose sites find their settings by `settings_of`."""
    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        return answer(message, settings_of(context))

    for register in (app.train, app.evaluate, app.query):
        register()(handle)
    return app


def _failed(task: Task, settings: Settings, kind: str, text: str) -> Reply:
    return Reply(settings.site, task.kind, task.run, task.round, error=(kind, text))


def _settings(context: Context) -> Settings:
    return _settings_in(tuple(context.node_config.items()))


@lru_cache(maxsize=4096)
def _settings_in(config: tuple[tuple[str, object], ...]) -> Settings:
    return from_node_config(dict(config))


app = build_app(_settings)
