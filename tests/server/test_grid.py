"""What we change of Flower's Grid, and that Flower still has it; the whole way is in test_supernode."""

import inspect

from server.grid import changes


def test_flower_has_what_we_change_and_calls_it_as_we_answer() -> None:
    for where, name, value in changes():
        ours = list(inspect.signature(value).parameters)  # pyright: ignore[reportArgumentType]
        assert ours == list(inspect.signature(vars(where)[name]).parameters)
