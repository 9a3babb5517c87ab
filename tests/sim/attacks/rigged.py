"""Private noise that a test can repeat, and a small recipe to attack."""

import pytest
import torch
from torch import Tensor

from client import training
from privacy.noise import SecureGenerator
from protocol.recipe import Head, Modality, Part, Privacy, Recipe
from sim.attacks import inversion

TABLE = Recipe(
    "table",
    {"ehr": Modality("table", 4)},
    {"grade": Head("classification", 1, Part("bce"))},
    Part("none"),
    Part("table_linear"),
    privacy=Privacy(epsilon=2.0),
)


class Rigged(SecureGenerator):
    """The project's generator over a stream that follows from a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seeded = torch.Generator().manual_seed(seed)

    def _words(self, n: int) -> Tensor:
        return torch.randint(-(2**63), 2**63 - 1, (n,), generator=self._seeded)


def rig(patch: pytest.MonkeyPatch, seed: int) -> None:
    """Let private steps draw from one stream until the test ends.

    One for all: models whose noise were the same could be told apart as if they had none.
    """
    stream = Rigged(seed)
    for module in (training, inversion):
        patch.setattr(module, "SecureGenerator", lambda: stream)
