"""What a site is called: as its settings say, whatever its folder of scans is called."""

from dataclasses import replace
from pathlib import Path

import pytest

from client import site
from client.settings import Settings
from client.site import open_site
from imaging.cohort import Cohort
from protocol.recipe import dump_recipe, load_recipe
from server.operate_cli import CATALOGUES
from sim.phantom import write_phantom
from tests.sim.command import RECIPE


def named(folder: Path) -> object:
    write_phantom(folder / "phantom", sites=1, patients=6, size=8)
    scans = (folder / "phantom" / "site_1").rename(folder / "ward of Dr Miller")
    text = dump_recipe(load_recipe(Path(RECIPE), ["data.size=[8,8]"], CATALOGUES))
    return open_site(Settings("north", scans, folder / "state"), text).cohort.summary()["site"]


def test_a_site_describes_itself_by_its_own_name_and_not_by_a_folder_s(tmp_path: Path) -> None:
    assert named(tmp_path) == "north"


def test_the_mutant_that_leaves_the_name_to_the_reader_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_read(cohort: Cohort, name: str) -> Cohort:
        del name
        return replace(cohort)

    monkeypatch.setattr(site, "renamed", as_read)
    assert named(tmp_path) == "own"
