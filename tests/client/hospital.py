"""One hospital with a policy file, and a coordinator who may send it anything."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from client.app import app as client_app
from client.policy import objections
from client.settings import Settings, to_node_config
from client.site import open_site
from imaging import sources
from imaging.cohort import Cohort
from protocol.batch import Batch
from protocol.messages import Reply, Task
from protocol.recipe import Recipe
from server.wire import Arrival, Wire
from sim.inprocess import InProcessGrid, contexts_for

PATIENTS = 40

POLICY: Mapping[str, Any] = {
    "recipes": {"rules": [{"model": ["table_*"], "data": ["memory"], "strategy": ["fedavg", "fedprox"]}]},
    "privacy": {
        "least_noise_multiplier": 0.8,
        "largest_clip_norm": 10.0,
        "largest_epsilon_run": 4.0,
        "largest_epsilon_cohort": 6.0,
        "largest_delta": 1.0e-3,
    },
}
RECIPE: Mapping[str, Any] = {
    "name": "ward",
    "modalities": {"table": {"kind": "table", "features": 3}},
    "heads": {"disease": {"kind": "classification", "objective": "bce"}},
    "data": "memory",
    "model": "table_linear",
    "rounds": 1,
    "training": {"steps": 1, "batch": 8},
    "privacy": {"epsilon": 2.0},
}


def cohort(patients: int = PATIENTS) -> Cohort:
    """One row of a table a patient; all train but the last four."""
    generator = torch.Generator().manual_seed(0)
    has = torch.ones(patients, dtype=torch.bool)
    cases = Batch(
        {"table": torch.randn(patients, 3, generator=generator)},
        has[:, None],
        {"disease": torch.arange(patients) % 2},
        {"disease": has},
    )
    split = torch.zeros(patients, dtype=torch.long)
    split[-4:] = 1
    return Cohort(
        "ward", ("table",), tuple(map(str, range(patients))), torch.arange(patients), split, cases, None
    )


class Hospital:
    """A site of its own files; `reads` counts how often its data were read."""

    def __init__(
        self, folder: Path, patch: pytest.MonkeyPatch, policy: Mapping[str, Any] | str = POLICY
    ) -> None:
        self.settings = Settings("ward", folder, folder / "state", policy=folder / "policy.yaml")
        self.reads = 0
        self.cohort = cohort()
        self.rule(policy)

        def read(root: Path, recipe: Recipe, site: str | None) -> Cohort:
            self.reads += 1
            return self.cohort

        patch.setitem(sources.SOURCES, "memory", read)
        open_site.cache_clear()
        objections.cache_clear()  # a mutant's answers are not the next test's
        self._wire = Wire(InProcessGrid(client_app, contexts_for([to_node_config(self.settings)])))
        self._wire._nodes["ward"] = 2

    def rule(self, policy: Mapping[str, Any] | str) -> None:
        """Write the policy anew, as its hospital may at any time."""
        assert self.settings.policy is not None
        self.settings.policy.write_text(policy if isinstance(policy, str) else yaml.safe_dump(dict(policy)))

    def asked(self, task: Task) -> Arrival:
        """Send a task and hear what became of it."""
        (arrival,) = self._wire.ask([("ward", task)], 60.0)
        return arrival

    def train(self, recipe: Mapping[str, Any] | str, number: int = 1, run: str = "run") -> Arrival:
        """Ask for a round of the recipe, as a mapping or as text."""
        text = recipe if isinstance(recipe, str) else yaml.safe_dump(dict(recipe))
        vectors = {"head:disease": torch.zeros(4)}
        return self.asked(Task("train", run, number, text, vectors=vectors))

    def describe(self, recipe: Mapping[str, Any]) -> Reply:
        """Ask what the site is; it must answer."""
        arrival = self.asked(Task("describe", "run", 0, yaml.safe_dump(dict(recipe))))
        assert arrival.reply is not None, arrival.reason
        return arrival.reply


def changed(base: Mapping[str, Any], **sections: Any) -> dict[str, Any]:
    """Return a copy with sections replaced or, where both are mappings, with their keys replaced."""
    new = dict(base)
    for name, section in sections.items():
        old = new.get(name)
        new[name] = (
            {**old, **section} if isinstance(old, Mapping) and isinstance(section, Mapping) else section
        )
    return new
