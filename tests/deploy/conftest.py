"""One federation of real processes for all of these tests."""

from collections.abc import Iterator

import pytest

from tests.deploy.federation import Federation, free_port


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Server, north and south, at work."""
    found = Federation(tmp_path_factory.mktemp("federation"), free_port()).found()
    found.start("server", "north", "south")
    try:
        yield found
    finally:
        found.stop()
