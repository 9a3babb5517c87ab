"""Frozen groups: what a stage before has learned stays, bit for bit, whatever trains beside it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from client import training
from client.site import open_site
from client.training import train
from models.catalogue import build_model
from models.flat import Flat
from protocol.errors import DataError
from protocol.messages import Task
from protocol.recipe import Part, Privacy, Recipe, Training, dump_recipe
from protocol.update import Vectors
from tests.federation import Federation, cohorts, recipe

FROZEN = Training(
    batch=4,
    steps=1,
    optimizer="adamw",
    rate=0.1,
    weight_decay=0.1,
    modality_dropout=0.3,
    frozen=("modality",),
)
WAYS = {
    "plain": recipe(training=FROZEN),
    "private": recipe(training=FROZEN, privacy=Privacy(epsilon=50.0, noise_multiplier=2.0)),
    "personal": recipe(training=FROZEN, strategy=Part("ditto")),
}


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    return Federation(tmp_path, cohorts(), monkeypatch)


def changes(federation: Federation, whole: Recipe, run: str = "run") -> dict[str, float]:
    """By how much a round at north changes each group; a personal model's change counts too."""
    text = dump_recipe(whole)
    site = open_site(federation.settings(run, "north"), text)
    start = Flat(build_model(whole)).vectors
    update = train(site, Task("train", run, 1, text, "attempt", start)).update
    assert update is not None
    sent, kept = _largest(update.deltas), _largest(_personal(federation.folder / run, start))
    return {group: max(sent[group], kept.get(group, 0.0)) for group in start}


def _largest(vectors: Mapping[str, torch.Tensor]) -> dict[str, float]:
    return {group: float(vector.abs().max()) for group, vector in vectors.items()}


def _personal(folder: Path, start: Vectors) -> Vectors:
    kept = {
        name: vector
        for path in folder.rglob("round-*.safetensors")
        for name, vector in load_file(path).items()
    }
    return {g: kept[name] - start[g] for g in start if (name := f"personal/{g}") in kept}


@pytest.mark.parametrize("way", WAYS)
def test_no_step_and_no_noise_changes_a_frozen_group(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Weight decay neither; a site that trains all that it owns is caught."""
    found = changes(federation, WAYS[way])
    assert {group for group, change in found.items() if change == 0} == {"modality:flair", "modality:t1"}
    monkeypatch.setattr(training, "kind_of", lambda group: "")
    assert all(changes(federation, WAYS[way], "mutant").values())


def test_a_site_that_has_nothing_else_says_so(federation: Federation) -> None:
    text = dump_recipe(recipe(training=replace(FROZEN, frozen=("modality", "shared", "head"))))
    site = open_site(federation.settings("run", "north"), text)
    with pytest.raises(DataError, match=r"^training\.frozen leaves site 'north' nothing to train"):
        train(site, Task("train", "run", 1, text, "attempt", site.flat.vectors))
