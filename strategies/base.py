"""What a strategy is: how updates become the next parameters, and what sites do differently.

    state  = strategy.init(parameters)             once a run
    state  = strategy.step(state, updates)         once a round, at the server
    correct, finish, personal, private, merge      at the site, all optional

Every strategy shares one rule, idea 2 of the design: a group of parameters belongs to the
sites that used it. With `n[i, g]` the cases of site `i` that used group `g`, the *owner mean*
of the updates is

    mean(u)[g] = sum_i n[i, g] * u_i[g] / sum_i n[i, g]       over the sites that sent g

and a group that nobody sent keeps its value. Strategies know vectors, not networks.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from protocol.groups import Layout
from protocol.update import Update, Vectors

Memory = Mapping[str, Vectors]
"""Name -> group -> flat vector: what outlives a round, at the server or at one site."""


@dataclass(frozen=True)
class State:
    """All that survives a round at the server.

    `parameters`   group -> flat float32 `(size,)`
    `memory`       name -> group -> flat float32 `(size,)`, such as FedAvgM's `momentum`
    `spare`        name -> group -> memory to write the next round's sums into; no values, and
                   not part of a checkpoint
    `layout`       where parameters lie in the vectors, as the recipe's model has them; empty where
                   nobody has said so, and not part of a checkpoint
    """

    parameters: Vectors
    memory: dict[str, Vectors] = field(default_factory=dict)
    spare: dict[str, Vectors] = field(default_factory=lambda: defaultdict(dict), repr=False, compare=False)
    layout: Layout = field(default_factory=lambda: Layout({}), repr=False, compare=False)


Correct = Callable[[str, Tensor, Tensor, Tensor, Memory, Memory], None]
"""`(group, grad, here, start, received, memory)`: change `grad` in place before a local step.

`here`, `start`: the site's parameters now and as they arrived; `received`: what the strategy
`sends`; `memory`: what the site kept from its last round. All vectors are `(size,)`.
"""

Finished = tuple[dict[str, Vectors], dict[str, Vectors]]
Finish = Callable[[Vectors, Vectors, Memory, Memory, float, float], Finished]
"""`(start, here, received, memory, steps, rate) -> (extras, new memory)` after the last local step.

`extras` travel with the update; the new memory stays at the site.
"""


@dataclass(frozen=True)
class Merge:
    """How a site predicts with the common model and its own `personal` one, case by case.

    `measure`  log-probabilities of the common and of the own model, each `(..., K)` -> `(...)`
    `rule`     its mean over all that a case has predicted, `(B,)` -> the common model's share, `(B,)`
    `each`     `case` or `batch`: whose parameters are averaged by it; `logits`: no parameters are
    """

    measure: Callable[[Tensor, Tensor], Tensor]
    rule: Callable[[Tensor], Tensor]
    each: str


@dataclass(frozen=True)
class Teach:
    """How a site is taught by the global model on all modalities: the term's weight, and T of its softmax."""

    weight: float
    temperature: float


@dataclass(frozen=True)
class Local:
    """A strategy's part at the site.

    `correct`    see `Correct`
    `finish`     see `Finish`
    `personal`   Ditto's lambda: also train a model of the site's own, pulled to the global one
    `private`    parameters that never travel: "" none, "norm", "head" or "all"
    `merge`      see `Merge`; the site's own model is what `finish` keeps as `personal`
    `teach`      see `Teach`
    """

    correct: Correct | None = None
    finish: Finish | None = None
    personal: float | None = None
    private: str = ""
    merge: Merge | None = None
    teach: Teach | None = None

    @property
    def keeps(self) -> bool:
        """Whether a site predicts with parameters that nobody else has."""
        return self.private != "" or self.personal is not None or self.merge is not None


@dataclass(frozen=True)
class Promise:
    """What a strategy's own noise hides, in each released model: a Gaussian mechanism at rate 1.

    `unit` and `adjacency` stand beside every epsilon that follows; it is never about patients.
    """

    unit: str
    adjacency: str
    noise_multiplier: float
    delta: float


@dataclass(frozen=True)
class Received(Update):
    """An accepted update and the site that it came from: the server's word, a site never sends one."""

    site: str = ""


def sender(update: Update) -> str:
    """Return the site that an update came from; "" where nobody knows, as of a sum."""
    return update.site if isinstance(update, Received) else ""


def _common(state: State, site: str) -> Vectors:
    del site
    return state.parameters


@dataclass(frozen=True)
class Strategy:
    """How a federation learns.

    `init(parameters)` copies what it keeps. `step(state, updates)` takes one update at a time
    and keeps no reference to its tensors, which the caller overwrites. Until `updates` is
    exhausted, parameters and memory are untouched: the iterable may raise at its end, and then
    the round never happened. After that the state is consumed, its tensors written over: go on
    with the one returned.

    `sends` names the vectors of `state.memory` that travel to the sites as `received`. `promise`
    is what the parameters after each step hide, if the strategy noises them. `model_for(state, site)`
    is what a site is sent: the parameters, unless a strategy keeps a model for each site. `needs` names
    sites without which it learns nothing.
    """

    init: Callable[[Vectors], State]
    step: Callable[[State, Iterable[Update]], State]
    sends: tuple[str, ...] = ()
    local: Local = field(default_factory=Local)
    promise: Promise | None = None
    model_for: Callable[[State, str], Vectors] = _common
    needs: tuple[str, ...] = ()


def initial(parameters: Vectors, *names: str) -> State:
    """Copy `parameters`; one vector of zeros a group in memory for each of `names`."""
    memory = {name: {g: torch.zeros_like(v) for g, v in parameters.items()} for name in names}
    return State({group: vector.clone() for group, vector in parameters.items()}, memory)
