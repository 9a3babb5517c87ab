"""A site that fails again and again is set aside, by name and with its own words."""

from pathlib import Path

import pytest

from client import app
from client.site import Site
from protocol.errors import DataError
from protocol.messages import Reply, Task
from protocol.recipe import Roster
from server.record import Round, SiteRound
from tests.federation import Federation, cohorts, recipe


def test_a_site_that_fails_three_times_is_set_aside_until_the_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = app.ANSWERS["train"]
    ill = {1, 3, 4, 5}

    def sometimes(site: Site, task: Task) -> Reply:
        if site.settings.site == "west" and task.round in ill:
            raise DataError("the disk with the scans is not mounted")
        return train(site, task)

    monkeypatch.setitem(app.ANSWERS, "train", sometimes)
    federation = Federation(tmp_path, cohorts(), monkeypatch)
    told: list[tuple[int, SiteRound]] = []

    def watch(number: int, news: SiteRound | Round) -> None:
        if isinstance(news, SiteRound) and news.status == "set aside":
            told.append((number, news))

    record = federation.run(recipe(rounds=6, roster=Roster(quorum=2)), watch=watch)
    asked = [[site.status for site in ended.sites if site.site == "west"] for ended in record.rounds]
    assert asked == [["failed"], ["accepted"], ["failed"], ["failed"], ["failed"], []]
    ((number, news),) = told
    assert (number, news.site) == (5, "west")
    assert "DataError: the disk with the scans is not mounted" in news.reason
