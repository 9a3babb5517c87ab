"""The frozen description of a run: the same bytes at every site.

A recipe is data. It names its parts (`model`, `strategy`, `objective`, `data`) and gives
their options; the catalogues of the other rooms say which names and options exist. What
differs between machines (folders, devices, addresses) is a *setting* and is not here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Part:
    """A choice by name with its options: `strategy: {name: fedprox, mu: 0.01}`."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Modality:
    """One kind of input. `features` is the width of a table, unused for an image."""

    kind: str = "image"  # image | table
    features: int = 0


@dataclass(frozen=True)
class Head:
    """One label that the model predicts, and how it is learned.

    `classes`: channels of a segmentation (independent sigmoids), classes of a
    classification (1 = binary, one logit), ignored for survival (one risk score).
    """

    kind: str  # segmentation | classification | survival
    classes: int = 1
    objective: Part = field(default_factory=lambda: Part("dice_ce"))
    weight: float = 1.0


@dataclass(frozen=True)
class Training:
    """The local loop of a round: `steps` optimiser steps, or else `epochs` passes."""

    epochs: int = 1
    steps: int | None = None
    batch: int = 16
    optimizer: str = "sgd"  # sgd | adam | adamw
    rate: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    modality_dropout: float = 0.0  # chance to hide each present modality, never the last one
    flips: bool = False


@dataclass(frozen=True)
class Privacy:
    """Patient-level DP-SGD at every site; `epsilon: null` switches it off.

    `epsilon`, `delta`: the budget of the whole run at one site (delta null: 1/(10 n),
    n training patients). `noise_multiplier` null: the least that affords all rounds.
    `sampling_rate` null: batch / n.
    """

    epsilon: float | None = None
    delta: float | None = None
    noise_multiplier: float | None = None
    clip_norm: float = 1.0
    sampling_rate: float | None = None
    mode: str = "auto"  # auto | hooks | functorch | ew


@dataclass(frozen=True)
class Roster:
    """Whom to ask: a share of the sites, at least `quorum` accepted, until `deadline_s`."""

    fraction: float = 1.0
    quorum: int = 1
    deadline_s: float = 3600.0


@dataclass(frozen=True)
class Evaluation:
    """`every` rounds on validation cases; `select` is the metric `head/name` of the best model."""

    every: int = 1
    select: str = ""
    subsets: bool = True


@dataclass(frozen=True)
class Recipe:
    """One experiment."""

    name: str
    modalities: Mapping[str, Modality]
    heads: Mapping[str, Head]
    data: Part
    model: Part
    strategy: Part = field(default_factory=lambda: Part("fedavg"))
    seed: int = 42
    rounds: int = 10
    training: Training = field(default_factory=Training)
    privacy: Privacy = field(default_factory=Privacy)
    roster: Roster = field(default_factory=Roster)
    evaluation: Evaluation = field(default_factory=Evaluation)
