"""The coordinator's side of Flower's Control API, against a real SuperLink over TLS."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flwr.superlink.main import create_app

from privacy.certificates import issue, make_authority
from privacy.certificates import node_key as make_node_key
from protocol.errors import WireError
from server.control import Control, control, node_key
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


def test_a_run_that_flower_does_not_know_has_ended(link: Control) -> None:
    assert link.ended(12345) == "not known to the SuperLink"


def test_a_key_of_the_configuration_that_nobody_declared_is_refused(link: Control) -> None:
    with pytest.raises(WireError, match="refuses"):
        link.start({"folders": "/somewhere"})


def test_a_superlink_that_is_away_is_said(tmp_path: Path) -> None:
    make_authority("brain", tmp_path / "ca.key", tmp_path / "ca.pem", datetime.now(UTC))
    with control("127.0.0.1:9", tmp_path / "ca.pem") as away, pytest.raises(WireError, match="not reached"):
        away.nodes()
