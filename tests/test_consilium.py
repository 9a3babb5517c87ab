"""The light part of the command line is a part of the whole, and light."""

import subprocess
import sys
from importlib import import_module

import pytest
import typer
from click import Group

import consilium
from consilium import LIGHT, names, program


def _group(name: str) -> Group:
    whole = typer.main.get_command(consilium.cli)
    assert isinstance(whole, Group)
    found = whole.commands[name]
    assert isinstance(found, Group)
    return found


@pytest.mark.parametrize("group", LIGHT)
def test_light_commands_are_those_of_the_whole_tree(group: str) -> None:
    module, name = LIGHT[group]
    light = names(getattr(import_module(module), name))
    assert {"start", "status", "stop", "logs"} <= light <= _group(group).commands.keys()
    for command in light:
        found = typer.main.get_command(program([group, command]))
        assert isinstance(found, Group)
        assert found.commands.keys() == {group}


@pytest.mark.parametrize(
    "words", [[], ["site"], ["site", "--help"], ["site", "doctor"], ["run", "start"], ["x"]]
)
def test_all_else_is_answered_by_the_whole_tree(words: list[str]) -> None:
    assert program(words) is consilium.cli


@pytest.mark.slow
@pytest.mark.parametrize("words", [["site", "start"], ["server", "start"]])
def test_whoever_keeps_processes_does_without_torch(words: list[str]) -> None:
    """Half a gigabyte and seconds of imports."""
    code = f"import sys, consilium; consilium.program({words}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
