"""One federation of real processes, and one image, for all of these tests."""

from collections.abc import Iterator

import pytest

from tests.deploy.federation import SITES, Federation, free_port
from tests.deploy.link import Link
from tests.deploy.podman import build


@pytest.fixture(scope="session")
def port() -> int:
    """The server's port."""
    return free_port()


@pytest.fixture(scope="session")
def link(port: int) -> Iterator[Link]:
    """South's line to the server."""
    with Link(port) as line:
        yield line


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory, port: int, link: Link) -> Iterator[Federation]:
    """Server, north and south, at work."""
    ways = {"south": link.address}
    found = Federation(tmp_path_factory.mktemp("federation"), port, ways).found()
    found.start("server", *SITES)
    try:
        found.until_connected(*SITES)
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="session")
def image() -> str:
    """The image's name."""
    return build()
