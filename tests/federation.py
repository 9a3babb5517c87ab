"""A federation in memory: the real server and site code over small images made on the spot.

north   flair and t1            12 patients of 2 slices
south   flair only              9
west    t1 only, one also flair 6
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.serverapp import Grid

from client.app import app as client_app
from client.settings import Settings, to_node_config
from client.site import open_site
from imaging import sources
from imaging.cohort import Cohort
from protocol.batch import Batch
from protocol.recipe import Evaluation, Head, Modality, Part, Recipe, Training, dump_recipe
from server.app import conduct
from server.record import Round, RunRecord, SiteRound
from sim.inprocess import InProcessGrid, contexts_for

MODALITIES = ("flair", "t1")
SITES = {"north": 12, "south": 9, "west": 6}

RECIPE = Recipe(
    "tiny",
    {name: Modality() for name in MODALITIES},
    {"tumour": Head("segmentation", 1, Part("dice_ce"))},
    Part("memory"),
    Part("parallel_unet", {"channels": (4, 8)}),
    rounds=3,
    training=Training(batch=8, rate=0.05, momentum=0.9, modality_dropout=0.3, flips=True),
    evaluation=Evaluation(select="tumour/dice"),
)


def recipe(**changes: Any) -> Recipe:
    """RECIPE with some fields replaced."""
    return replace(RECIPE, **changes)


def cohort(site: str, patients: int) -> Cohort:
    """Two 8x8 slices a patient; the tumour is where flair and t1 are bright."""
    generator = torch.Generator().manual_seed(sum(map(ord, site)))
    patient = torch.arange(patients).repeat_interleave(2)
    truth = (torch.rand(2 * patients, 1, 8, 8, generator=generator) < 0.3).float()
    inputs = {m: truth + 0.3 * torch.randn(truth.shape, generator=generator) for m in MODALITIES}
    present = torch.tensor([site != "west", site != "south"]).repeat(2 * patients, 1)
    if site == "west":
        present[:2] = True
    labelled = torch.ones(2 * patients, dtype=torch.bool)
    cases = Batch(inputs, present, {"tumour": truth}, {"tumour": labelled})
    split = torch.tensor([0, 0, 0, 1, 0, 2])[patient % 6]
    return Cohort(site, MODALITIES, tuple(map(str, range(patients))), patient, split, cases, (1.0, 1.0))


def cohorts() -> dict[str, Cohort]:
    """The three sites above."""
    return {site: cohort(site, patients) for site, patients in SITES.items()}


class Federation:
    """Sites held in memory; `monkeypatch` takes them out of the catalogues after the test."""

    def __init__(self, folder: Path, held: Mapping[str, Cohort], patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.held = dict(held)
        self.sites: tuple[str, ...] = tuple(held)
        self.config: dict[str, str] = {}

        def read(root: Path, recipe: Recipe, site: str | None) -> Cohort:
            whole = self.held[str(site)]
            labels = {h: whole.cases.targets[h] for h in recipe.heads if h in whole.cases.targets}
            labelled = {h: whole.cases.labelled[h] for h in labels}
            return replace(whole, cases=replace(whole.cases, targets=labels, labelled=labelled))

        def sites(root: Path, recipe: Recipe) -> list[str]:
            return list(self.held)

        patch.setitem(sources.SOURCES, "memory", read)
        patch.setitem(sources.SITES, "memory", sites)
        open_site.cache_clear()

    def settings(self, run: str, site: str) -> Settings:
        """One site's settings in `run`."""
        return Settings(site, self.folder, self.folder / run / "sites" / site, (site,))

    def grid(self, run: str) -> Grid:
        """The sites of `run`, in process."""
        configs = [to_node_config(self.settings(run, site)) for site in self.sites]
        return InProcessGrid(client_app, contexts_for(configs))

    def run(
        self,
        recipe: Recipe,
        run: str = "run",
        watch: Callable[[int, SiteRound | Round], None] | None = None,
        tracking: str = "off",
    ) -> RunRecord:
        """Start `run`, or go on with it."""
        folder = self.folder / run
        folder.mkdir(exist_ok=True)
        (folder / "recipe.yaml").write_text(dump_recipe(recipe))
        config = {"folder": str(folder), "sites": len(self.sites), "tracking": tracking} | self.config
        return conduct(self.grid(run), config, watch or _deaf)


def _deaf(number: int, news: SiteRound | Round) -> None:
    del number, news
