"""Accept or refuse a site's update before anything is summed.

A weighted mean would swallow NaN, negative or absurd counts and shapes that broadcast. Here
an update either fits the layout and what the site declared of its cohort exactly, or is
refused whole, with the reason on both sides.
"""

import logging
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from protocol.errors import AdmissionError, UpdateError
from protocol.messages import Reply, Task
from protocol.metrics import Tally
from protocol.update import Update, Vectors
from server.record import Scores

MOST_STEPS = 10**7
_WORD = 2**32

log = logging.getLogger("consilium.admission")


def check(reply: Reply, task: Task, declared: Mapping[str, int]) -> tuple[Update, float]:
    """Return (update, its L2 norm) or raise `AdmissionError`.

    `task` is what was sent: the update must name its groups, in its sizes. `declared` is the
    site's own count per group from the start of the run.
    """
    same_question(reply, task)
    update = reply.update
    if update is None:
        msg = "the reply carries no update: the site answered another question"
        raise AdmissionError(msg)
    _same_names(update.deltas, task.vectors, "update")
    _right_counts(update, declared)
    if update.extras.keys() != task.received.keys():
        msg = (
            f"extras {sorted(update.extras)} came, {sorted(task.received)} were asked for: another strategy?"
        )
        raise AdmissionError(msg)
    for name, vectors in update.extras.items():
        _same_names(vectors, task.received[name], name)
    squares = [_square(vector, group, task.vectors) for group, vector in _all(update)]
    return update, math.sqrt(sum(squares[: len(update.deltas)]))


def check_masked(reply: Reply, task: Task, groups: Collection[str]) -> Update:
    """Return the masked update of exactly `groups`, or raise `AdmissionError`.

    Its values say nothing: form is all that can be checked.
    """
    update = reply.update
    if update is None:
        raise AdmissionError("the reply carries no update: the site answered another question")
    asked = {group: task.vectors[group] for group in groups}
    _same_names(update.deltas, asked, "masked update")
    for group, vector in update.deltas.items():
        if vector.dtype != torch.int32 or vector.shape != asked[group].shape:
            raise AdmissionError(f"group '{group}' is {vector.dtype} {tuple(vector.shape)}, not masked words")
    if update.counts.keys() != update.deltas.keys() or not all(
        0 <= n < _WORD for n in update.counts.values()
    ):
        raise AdmissionError("masked counts are not one 32-bit number a group")
    return update


def numbers(facts: Mapping[str, Any], names: Iterable[str]) -> dict[str, float]:
    """Return those of `names` that the site told, all numbers; `AdmissionError` where one is not."""
    told = {name: facts[name] for name in names if name in facts}
    wrong = sorted(name for name, value in told.items() if type(value) not in (int, float))
    if wrong:
        msg = f"{wrong} are not numbers: the site runs another version, or something else"
        raise AdmissionError(msg)
    return {name: float(value) for name, value in told.items()}


def scores(reply: Reply) -> dict[str, Scores]:
    """Return subset -> metric -> tally as a site told them; {} with a warning where they are no scores."""
    try:
        return {
            str(subset): {str(name): tally(plain) for name, plain in told.items()}
            for subset, told in reply.facts["scores"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError, UpdateError) as error:
        log.warning("scores of site %s cannot be read: %r", reply.site, error)
        return {}


def tally(plain: Mapping[str, Any]) -> Tally:
    """Return the tally that a site told; KeyError, TypeError or ValueError where it is none."""
    return Tally(str(plain["kind"]), tuple(float(each) for each in plain["sums"]))


def same_question(reply: Reply, task: Task) -> None:
    """Raise `AdmissionError` where a reply belongs to another task."""
    if (reply.run, reply.round, reply.kind) != (task.run, task.round, task.kind):
        msg = (
            f"answers {reply.kind} of round {reply.round} of run '{reply.run}', asked was {task.kind} "
            f"of round {task.round} of '{task.run}': a late or replayed reply"
        )
        raise AdmissionError(msg)


def _same_names(vectors: Vectors, asked: Vectors, what: str) -> None:
    if vectors.keys() != asked.keys():
        missing, extra = sorted(asked.keys() - vectors.keys()), sorted(vectors.keys() - asked.keys())
        msg = f"{what}: groups missing {missing}, not asked for {extra}"
        raise AdmissionError(msg)


def _right_counts(update: Update, declared: Mapping[str, int]) -> None:
    wrong = {g: update.counts.get(g) for g in update.deltas if update.counts.get(g) != declared.get(g)}
    if wrong or update.counts.keys() != update.deltas.keys():
        msg = f"counts {wrong or dict(update.counts)} are not those declared at the start of the run"
        raise AdmissionError(msg)
    if not 0 < update.steps <= MOST_STEPS:
        msg = f"steps {update.steps!r} are not in (0, {MOST_STEPS}]"
        raise AdmissionError(msg)


def _all(update: Update) -> Iterator[tuple[str, Tensor]]:
    yield from update.deltas.items()
    for vectors in update.extras.values():
        yield from vectors.items()


def _square(vector: Tensor, group: str, asked: Vectors) -> float:
    if vector.dtype != torch.float32 or vector.shape != asked[group].shape:
        msg = (
            f"group '{group}' is {vector.dtype} {tuple(vector.shape)}, "
            f"expected float32 {tuple(asked[group].shape)}"
        )
        raise AdmissionError(msg)
    # One pass gives the norm and finds NaN and Inf; only a suspect vector is looked at again.
    square = float(torch.dot(vector, vector))
    if not math.isfinite(square) and not bool(torch.isfinite(vector).all()):
        msg = f"group '{group}' holds NaN or Inf: look at the site's loss, rate and data"
        raise AdmissionError(msg)
    return square
