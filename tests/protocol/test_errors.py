"""Every error has its own exit number, and the tree in the docstring is the tree in the code."""

import re

from protocol import errors
from protocol.errors import ConsiliumError

DRAWN = re.compile(r"^ +([| +-]*)(\w+Error) +(\d+) ", re.MULTILINE)


def _all(kind: type[ConsiliumError] = ConsiliumError) -> list[type[ConsiliumError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _all(child))]


def test_the_drawn_tree_is_the_real_one() -> None:
    drawn = {
        name: (len(branch) // 3, int(number)) for branch, name, number in DRAWN.findall(errors.__doc__ or "")
    }

    real = {
        kind.__name__: (len(kind.__mro__) - len(ConsiliumError.__mro__), kind.exit_code) for kind in _all()
    }

    assert drawn == real


def test_exit_numbers_are_unique_and_none_means_success_or_a_shell_s_own() -> None:
    numbers = [kind.exit_code for kind in _all()]

    assert len(set(numbers)) == len(numbers)
    assert all(0 < number < 126 and number != 2 for number in numbers)


def test_every_error_is_defined_here_and_has_a_docstring() -> None:
    assert {kind.__module__ for kind in _all()} == {"protocol.errors"}
    assert all(kind.__doc__ for kind in _all())
