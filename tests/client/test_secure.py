"""What a site refuses in a secure round, whoever asks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from client import secure
from client.app import ANSWERS
from client.site import Site, open_site
from protocol.errors import PrivacyError
from protocol.messages import Task
from protocol.recipe import Secure, dump_recipe
from tests.federation import recipe
from tests.secure import PATIENTS, SecureFederation, secure_recipe

TEXT = dump_recipe(secure_recipe())
ROSTER = list(PATIENTS)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return open_site(SecureFederation(tmp_path, monkeypatch).settings("run", "north"), TEXT)


def _task(kind: str = "advertise", **changes: object) -> Task:
    plain = Task(kind, "run", 1, TEXT, "first", facts={"roster": ROSTER})
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_a_secured_recipe_is_not_trained_in_the_clear(site: Site) -> None:
    with pytest.raises(PrivacyError, match="only answers its masked steps"):
        ANSWERS["train"](site, _task("train"))


def test_a_plain_recipe_has_no_masked_steps(site: Site) -> None:
    plain = replace(site, recipe=recipe())
    with pytest.raises(PrivacyError, match=r"set secure\.enabled"):
        secure.advertise(plain, _task())


def test_a_site_without_pins_takes_no_part(site: Site) -> None:
    alone = replace(site, settings=replace(site.settings, federation=None))
    with pytest.raises(PrivacyError, match="name no federation file"):
        secure.advertise(alone, _task())


@pytest.mark.parametrize(
    ("roster", "says"),
    [
        (["east", "north"], "2 sites are too few"),
        (["west", "north", "east"], "not in order"),
        (["east", "east", "north"], "not in order"),
        (["centre", "east", "south"], "'north' is not on the roster"),
    ],
)
def test_a_roster_that_hides_nobody_is_refused(site: Site, roster: list[str], says: str) -> None:
    with pytest.raises(PrivacyError, match=says):
        secure.advertise(site, _task(facts={"roster": roster}))


@pytest.mark.parametrize("kind", ["share", "contribute", "agree", "reveal"])
def test_a_site_that_was_started_anew_has_no_session(site: Site, kind: str) -> None:
    """As after SIGKILL: nothing secret is on the disk, and nothing is answered."""
    secure.advertise(site, _task())
    secure._sessions.clear()
    with pytest.raises(PrivacyError, match="started anew"):
        ANSWERS[kind](site, _task(kind))
    kept = [path for path in site.settings.state.rglob("*") if path.is_file()]
    assert {path.name for path in kept} <= {"site.key", secure.SAW}


@pytest.mark.parametrize(
    "changes", [{"run": "other"}, {"round": 2}, {"attempt": "second"}, {"recipe": TEXT + "\n"}]
)
def test_a_step_of_another_round_is_refused(site: Site, changes: dict[str, object]) -> None:
    secure.advertise(site, _task())
    with pytest.raises(PrivacyError, match=r"no session|another one"):
        secure.share(site, _task("share", facts={"adverts": []}, **changes))


LISTS: dict[str, Callable[[Site, list[str]], None]] = {
    "roster": lambda site, now: secure._see(site, _task(), "roster", now),
    "contributed": lambda site, now: secure._see(site, _task(), "contributed", now),
}


@pytest.mark.parametrize("what", LISTS)
def test_what_a_round_was_over_outlives_a_crash(site: Site, what: str) -> None:
    LISTS[what](site, ["a", "b", "c"])
    LISTS[what](site, ["a", "b", "c"])
    secure._see(site, _task(round=2), what, ["a", "b"])
    with pytest.raises(PrivacyError, match=f"another {what} list"):
        LISTS[what](site, ["a", "b"])


def test_the_rule_for_fewest_and_threshold() -> None:
    assert Secure().fewest == 3
    assert Secure().threshold == pytest.approx(2 / 3)
