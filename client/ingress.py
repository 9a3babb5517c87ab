"""The first look at a task, before it costs anything: is it one that this site may be asked?

    run       a name, not a path: the site keeps files under it
    round     one that the recipe has
    vectors   to train: groups that the site owns; else, groups that the network has; never `private`,
              each of its own size, all finite
    split     validation or test: scores on training patients would leave without noise
    strategy  with privacy, none that trains a personal model beside the global one: it learns
              without noise, and its scores would leave

A coordinator that breaks one of these is wrong or hostile, and a task that fails later would already
have reserved privacy that no patient gets back.
"""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from client.site import Site
from protocol.errors import PrivacyError, WireError
from protocol.groups import PRIVATE
from protocol.messages import Task
from protocol.recipe import parse_cached

SCORED = ("validation", "test")
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def admit(site: Site, task: Task) -> Task:
    """Return `task` if the site may be asked it; PrivacyError or WireError say why not."""
    if not _RUN.fullmatch(task.run):
        raise WireError("a run's name must be letters, digits, '-', '_' and '.': this one is none")
    rounds = parse_cached(task.recipe).all_rounds
    if not 0 <= task.round <= rounds:
        raise WireError(f"round {task.round} is asked, the recipe has {rounds}")
    if task.kind == "evaluate" and task.facts.get("split") not in SCORED:
        raise PrivacyError(f"scores are told of {' and '.join(SCORED)} patients alone: no noise covers them")
    if site.recipe.privacy.epsilon is not None and site.local.personal is not None:
        raise PrivacyError(
            "strategy: its personal model learns without noise, so its scores may not leave; use fedper"
        )
    askable = site.owned if task.kind in {"train", "contribute"} else site.flat.layout.groups
    for what, group, vector in _vectors(task):
        if group == PRIVATE or group not in askable:
            raise PrivacyError(f"{what} '{group}': this site does not train it for others, or has none")
        _require_whole(what, group, vector, site.flat.layout.size(group))
    return task


def _vectors(task: Task) -> Iterator[tuple[str, str, Tensor]]:
    named: Mapping[str, Mapping[str, Tensor]] = {"group": task.vectors, **task.received}
    for what, vectors in named.items():
        for group, vector in vectors.items():
            yield what, group, vector


def _require_whole(what: str, group: str, vector: Tensor, size: int) -> None:
    # Torch would copy a (1,) into a vector of any size without a word.
    if vector.shape != (size,):
        raise WireError(f"{what} '{group}' has shape {tuple(vector.shape)}, this recipe's has ({size},)")
    # A finite sum has finite terms, in one pass; only a suspect vector is looked at again.
    if not (bool(vector.sum().isfinite()) or bool(torch.isfinite(vector).all())):
        raise WireError(f"{what} '{group}' holds NaN or Inf: nothing can be trained from there")
