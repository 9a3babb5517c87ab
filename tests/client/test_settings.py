"""Settings to and from Flower's scalars."""

from pathlib import Path

import pytest

from client.settings import Settings, from_node_config, to_node_config
from protocol.errors import SettingsError


@pytest.mark.parametrize("partitions", [(), ("a",), ("a", "b")])
def test_round_trip(partitions: tuple[str, ...]) -> None:
    files = Path("/etc/policy.yaml"), Path("/etc/federation.json"), Path("/var/ledger"), Path("/etc/site.key")
    settings = Settings("north", Path("/data"), Path("/state"), partitions, "cuda:1", 3, *files)
    config = to_node_config(settings)
    assert all(isinstance(value, str | int) for value in config.values())
    assert from_node_config(config) == settings
    plain = Settings("north", Path("/data"), Path("/state"))
    assert from_node_config(to_node_config(plain)) == plain
    assert (settings.books, plain.books) == (Path("/var/ledger"), Path("/state"))
    assert (settings.signing_key, plain.signing_key) == (Path("/etc/site.key"), Path("/state/site.key"))


def test_what_is_missing_is_named() -> None:
    with pytest.raises(SettingsError, match=r"\['data', 'state'\]"):
        from_node_config({"site": "north"})
