"""What we change of Flower's Grid, and that Flower still asks there; the whole way is in test_supernode."""

import inspect

import pytest
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from flwr.superlink.grid import http_grid

from server.grid import changes, pulled


def test_flower_has_what_we_change_and_calls_it_as_we_answer() -> None:
    source = inspect.getsource(http_grid.HttpGrid)
    for where, name, value in changes():
        assert f"{name}(" in source
        ours = list(inspect.signature(value).parameters)  # pyright: ignore[reportArgumentType]
        theirs = list(inspect.signature(getattr(where, name)).parameters)
        assert len(ours) <= len(theirs)


def test_pieces_that_are_no_message_are_an_error_that_flower_answers_for() -> None:
    with pytest.raises(ObjectPullError, match="something else"):
        pulled(["leaf", "root"], {"root": b"nonsense"}.__getitem__)
