"""The light part of the command line is a part of the whole, and light."""

import subprocess
import sys
from importlib import import_module

import pytest
import typer
from click import Group
from typer.testing import CliRunner

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
    assert "status" in light <= _group(group).commands.keys()
    for command in light:
        found = typer.main.get_command(program([group, command]))
        assert isinstance(found, Group)
        assert found.commands.keys() == {group}


@pytest.mark.parametrize(
    "words", [["site"], ["site", "--help"], ["site", "doctor"], ["run", "start"], ["run", "list"], ["x"]]
)
def test_all_else_is_answered_by_the_whole_tree(words: list[str]) -> None:
    assert program(words) is consilium.cli


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_the_list_of_all_is_that_of_the_whole_tree(words: list[str]) -> None:
    listed, whole = (CliRunner().invoke(commands, ["--help"]) for commands in (program(words), consilium.cli))
    assert listed.output == whole.output


def test_a_shell_that_asks_how_a_word_goes_on_is_answered_by_the_whole_tree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("_CONSILIUM_COMPLETE", "complete_bash")
    assert program([]) is consilium.cli


LIGHTEST = ("--help", "run status", "run logs", "run stop")
"""What needs Flower no more than torch."""


@pytest.mark.parametrize(
    "line", [*LIGHTEST, "site start", "site status", "server start", "federation status", "federation list"]
)
def test_whoever_keeps_processes_or_looks_at_them_does_without_torch(line: str) -> None:
    """Half a gigabyte and seconds of imports."""
    code = (
        f"import sys, consilium; consilium.program({line.split()}); sys.stdout.write(' '.join(sys.modules))"
    )
    words = [sys.executable, "-c", code]
    loaded = set(subprocess.run(words, check=True, capture_output=True, text=True).stdout.split())
    assert "typer" in loaded
    assert not loaded & ({"torch", "mlflow", "flwr"} if line in LIGHTEST else {"torch", "mlflow"})
