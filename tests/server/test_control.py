"""The coordinator's side of Flower's Control API, against a real SuperLink over TLS."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flwr.proto.control_pb2 import StopRunRequest  # pyright: ignore[reportAttributeAccessIssue]
from flwr.superlink.main import create_app

from privacy.certificates import issue, make_authority
from privacy.certificates import node_key as make_node_key
from protocol.errors import WireError
from server import control as control_module
from server.control import RECENT_S, Control, control, node_key
from tests.serving import serving


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    """A SuperLink with its database in memory."""
    folder = tmp_path_factory.mktemp("tls")
    ca, key, certificate = folder / "ca.pem", folder / "server.key", folder / "server.pem"
    make_authority("brain", folder / "ca.key", ca, datetime.now(UTC))
    issue((folder / "ca.key", ca), ["127.0.0.1"], key, certificate, datetime.now(UTC))
    with (
        serving(create_app(), ssl_certfile=certificate, ssl_keyfile=key) as address,
        control(address, ca) as found,
    ):
        yield found


def test_a_key_may_connect_until_it_is_taken_out(link: Control, tmp_path: Path) -> None:
    (tmp_path / "auth.pub").write_text(f"{make_node_key(tmp_path / 'auth.key').public}\n")
    key = node_key(tmp_path / "auth.pub")
    link.register(key, "north")
    (node,) = link.nodes()
    assert (node.name, node.key, node.connected) == ("north", key, False)
    with pytest.raises(WireError, match="refuses"):
        link.register(key, "north again")
    link.unregister(node.number)
    assert link.nodes() == []


def test_a_run_is_started_and_stopped(link: Control) -> None:
    number = link.start({"folder": "/somewhere", "sites": 2})
    assert link.ended(number) is None
    link.stop(number)
    assert (link.ended(number) or "").startswith("stopped")


def test_a_recent_answer_will_do_until_something_is_changed(
    link: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for anew when it is old, and by whoever does not say that a recent one will do."""
    now, asked = [100.0], list[object]()
    theirs = link._client.ListNodes  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(control_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(link._client, "ListNodes", lambda told: asked.append(told) or theirs(told))  # pyright: ignore[reportPrivateUsage]

    def looks(*, recent: bool) -> int:
        before = len(asked)
        link.nodes(recent=recent)
        return len(asked) - before

    assert [looks(recent=True), looks(recent=True), looks(recent=False), looks(recent=True)] == [1, 0, 1, 0]
    now[0] += RECENT_S
    assert [looks(recent=True), looks(recent=True)] == [1, 0]
    (tmp_path / "auth.pub").write_text(f"{make_node_key(tmp_path / 'auth.key').public}\n")
    link.register(node_key(tmp_path / "auth.pub"), "south")
    assert [node.name for node in link.nodes(recent=True)] == ["south"]
    link.unregister(link.nodes(recent=True)[0].number)
    assert link.nodes(recent=True) == []


def test_of_a_run_that_was_going_a_moment_ago_the_end_is_found_by_who_looks(link: Control) -> None:
    number = link.start({"folder": "/somewhere", "sites": 2})
    assert link.ended(number, recent=True) is None
    link._client.StopRun(StopRunRequest(run_id=number))  # pyright: ignore[reportPrivateUsage] - by somebody else
    assert link.ended(number, recent=True) is None
    assert (link.ended(number) or "").startswith("stopped")
    assert (link.ended(number, recent=True) or "").startswith("stopped")


def test_a_run_that_flower_does_not_know_has_ended(link: Control) -> None:
    assert link.ended(12345) == "not known to the SuperLink"


def test_a_key_of_the_configuration_that_nobody_declared_is_refused(link: Control) -> None:
    with pytest.raises(WireError, match="refuses"):
        link.start({"folders": "/somewhere"})


def test_a_superlink_that_is_away_is_said(tmp_path: Path) -> None:
    make_authority("brain", tmp_path / "ca.key", tmp_path / "ca.pem", datetime.now(UTC))
    with control("127.0.0.1:9", tmp_path / "ca.pem") as away, pytest.raises(WireError, match="not reached"):
        away.nodes()
