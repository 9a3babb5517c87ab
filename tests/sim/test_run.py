"""Starting, and what cannot start."""

from pathlib import Path

import pytest

from imaging import sources
from protocol.errors import SettingsError
from protocol.recipe import Roster
from sim.run import Launch, new_run, read_launch, settings_for
from tests.federation import recipe


@pytest.fixture(autouse=True)
def _three_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sources.SOURCES, "memory", lambda root, recipe, site: None)
    monkeypatch.setitem(sources.SITES, "memory", lambda root, recipe: ["a", "b", "c"])


def test_a_new_run_says_all_that_resume_needs(tmp_path: Path) -> None:
    launch = Launch(tmp_path, "processes", "off", threads=2)
    folder = new_run(recipe(), launch, tmp_path / "runs")
    assert read_launch(folder) == launch
    assert (folder / "recipe.yaml").exists()


def test_threads_are_fixed_at_the_start(tmp_path: Path) -> None:
    assert read_launch(new_run(recipe(), Launch(tmp_path), tmp_path / "runs")).threads >= 1


def test_runs_of_one_recipe_do_not_collide(tmp_path: Path) -> None:
    assert len({new_run(recipe(), Launch(tmp_path), tmp_path / "runs") for _ in range(5)}) == 5


def test_an_unknown_engine_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'rya' is not known.*ray"):
        new_run(recipe(), Launch(tmp_path, "rya"), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"launch\.json"):
        read_launch(tmp_path)


def test_a_site_a_part_and_pooled_has_all(tmp_path: Path) -> None:
    launch = Launch(tmp_path)
    assert [(s.site, s.partitions) for s in settings_for(tmp_path, recipe(), launch)] == [
        ("a", ("a",)),
        ("b", ("b",)),
        ("c", ("c",)),
    ]
    pooled = settings_for(tmp_path, recipe(roster=Roster(train=("pooled",))), launch)[-1]
    assert (pooled.site, pooled.partitions) == ("pooled", ("a", "b", "c"))
    assert len({s.state for s in settings_for(tmp_path, recipe(), launch)}) == 3
