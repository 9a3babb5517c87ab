"""The coordinator at work: what is started, who may connect, and the commands around runs."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from typer.testing import CliRunner

from consilium import cli
from privacy.keys import read_pins, verified
from privacy.membership import LASTS
from protocol.errors import SettingsError, WireError
from protocol.recipe import SIGNED_FOR, parse_cached
from server.app import signature_in
from server.control import Control, Node, node_key
from server.enrol import renew, revoke
from server.federation_cli import sites_table
from server.folders import Submission, note, read_wanted
from server.home import CoordinatorHome
from server.operate import admit_members, make_state, paced, programs, require
from server.superlink import START, Doors
from tests.enrolment import founded, joined
from tests.server import records

RECIPE = Path(__file__).parents[2] / "recipes" / "phantom.yaml"


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    found = founded(tmp_path, "north", "south")
    for site in ("north", "south"):
        joined(found, tmp_path, site)
    return found


class Link(Control):
    """The SuperLink's list of keys."""

    def __init__(self) -> None:
        self.known: dict[bytes, str] = {}

    def nodes(self, *, recent: bool = False) -> list[Node]:
        assert recent, "asked every second"
        return [Node(n, key, name, False, "") for n, (key, name) in enumerate(self.known.items())]

    def register(self, key: bytes, name: str) -> None:
        self.known[key] = name

    def unregister(self, number: int) -> None:
        del self.known[list(self.known)[number]]


def test_members_may_connect_and_revoked_ones_no_more(home: CoordinatorHome) -> None:
    link = Link()
    link.known[b"a stranger's"] = "west"
    for _ in range(2):
        admit_members(home, link)
        assert link.known == {node_key(home.of(s).auth_public): s for s in ("north", "south")}
    revoke(home, "south")
    admit_members(home, link)
    assert list(link.known.values()) == ["north"]


def test_a_membership_that_has_run_out_keeps_its_site_out_until_it_is_renewed(home: CoordinatorHome) -> None:
    link, later = Link(), datetime.now(UTC) + LASTS
    renew(home, ["north"], later)
    admit_members(home, link, later + timedelta(days=1))
    assert list(link.known.values()) == ["north"]
    admit_members(home, link)  # before the renewed one begins
    assert list(link.known.values()) == ["south"]


@pytest.mark.parametrize("left", [None, 0o755])
def test_what_flower_keeps_is_the_owner_s_alone(home: CoordinatorHome, left: int | None) -> None:
    if left is not None:
        home.state.mkdir(exist_ok=True)
        home.state.chmod(left)
    make_state(home)
    assert home.state.stat().st_mode & 0o777 == 0o700
    assert home.superexec_secret.stat().st_mode & 0o777 == 0o600


def test_flower_is_started_with_every_door_shut(home: CoordinatorHome) -> None:
    superlink, superexec = programs(home)
    assert {"--enable-supernode-auth", "--disable-runtime-dependency-installation"} <= set(superlink.words)
    assert superlink.words[superlink.words.index("--isolation") + 1] == "process"
    assert "--insecure" not in superlink.words + superexec.words
    for program in (superlink, superexec):
        assert str(home.superexec_secret) in program.words


@pytest.mark.parametrize("shut", [True, False])
def test_no_header_makes_another_machine_this_one(
    home: CoordinatorHome, monkeypatch: pytest.MonkeyPatch, *, shut: bool
) -> None:
    """Behind a proxy the environment may say to believe what its headers say of who asks."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    if shut:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", programs(home)[0].environment["FORWARDED_ALLOW_IPS"])

    async def ask() -> int:
        config = uvicorn.Config(Doors(PlainTextResponse("open")), ws="none", log_config=None, lifespan="off")
        config.load()
        transport = httpx.ASGITransport(cast("Any", config.loaded_app), client=("10.0.0.7", 50000))
        async with httpx.AsyncClient(transport=transport, base_url="http://superlink") as client:
            answer = await client.post(START, headers={"x-forwarded-for": "127.0.0.1"})
            return answer.status_code

    assert asyncio.run(ask()) == (404 if shut else 200)  # the latter: else ours is needless


def test_what_is_missing_is_said_with_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"server.pem.*consilium federation provision"):
        require(CoordinatorHome(tmp_path))


def test_work_is_paced_and_a_failure_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    now = iter([0.0, 0.0, 0.5, 2.0, 2.0, 4.0, 4.0])
    done = list[int]()

    def work() -> None:
        done.append(1)
        raise WireError("the SuperLink is not reached")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.operate.time.monotonic", lambda: next(now))
        tick = paced(work)
        for _ in range(4):
            tick([])
    assert len(done) == 3
    assert caplog.text.count("not reached") == 1


def _said(*words: object) -> str:
    result = CliRunner().invoke(cli, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return result.output


def test_a_run_is_begun_stopped_and_gone_on_with(
    home: CoordinatorHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSILIUM_HOME", str(home.folder))
    text = _said("run", "start", RECIPE, "rounds=3")
    assert "begins with `consilium server start`" in text
    (run,) = home.runs.iterdir()
    recipe = (run / "recipe.yaml").read_text()
    assert parse_cached(recipe).rounds == 3
    signature = bytes.fromhex(signature_in(run))
    assert verified(read_pins(home.pins).coordinator, SIGNED_FOR, recipe.encode(), signature)
    assert (run / "federation.json").read_text() == home.pins.read_text()
    assert "waits to go on, 0 of 3 rounds" in _said("run", "status", run.name)

    note(run, Submission(1, 0.0, 0, failures=9, why="failed: why", ended=True))
    assert "failed for good" in (told := _said("run", "status", "phantom"))
    assert "last ended because: failed: why" in told
    _said("run", "stop", "phantom")
    assert not read_wanted(run).going
    assert "stopped, 0 of 3 rounds" in _said("run", "status", "phantom")
    _said("run", "resume", "phantom")
    assert read_wanted(run).going
    assert "waits to go on" in _said("run", "status", "phantom")


def test_a_wrong_recipe_is_refused_before_there_is_a_run(home: CoordinatorHome) -> None:
    result = CliRunner().invoke(
        cli, ["run", "start", str(RECIPE), "strategy=fedprx", "--home", str(home.folder)]
    )
    assert "fedprox" in str(result.exception)
    assert not home.runs.exists()


def test_the_federation_at_a_glance() -> None:
    record = records.record(private=True, rounds=2, status="running")
    first, *others = record.sites
    record = replace(record, sites=(replace(first, version="1.2.3"), *others))
    site = first.site
    nodes = {site: Node(1, b"", site, True, "2026-11-25T10:00:00.123")}
    table = sites_table([site, "elsewhere"], nodes, record)
    columns = [list(column.cells) for column in table.columns]
    assert columns[0] == [site, "elsewhere"]
    assert columns[1] == ["yes", "never"]
    assert columns[2][0] == "2026-11-25T10:00:00"
    assert columns[3] == ["1.2.3", "-"]
    assert columns[4][0].startswith("2: ")
    assert " of " in columns[6][0]
    assert columns[4][1] == "-"
