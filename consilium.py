"""The command line, one program for three people: `consilium federation|server|run|site|sim|...`.

Commands that keep processes, or look at them, are there at once (`LIGHT`), and so is the list of all
(`FRONT`). The others bring torch and what stands on it, half a gigabyte and seconds of imports: they are read
(`sim.commands`) when one is asked for.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import typer
from click import ClickException

from protocol.errors import ConsiliumError

LIGHT = {
    "server": ("server.serve_cli", "server"),
    "run": ("server.watch_cli", "watching"),
    "site": ("client.operate_cli", "processes"),
    "federation": ("server.federation_cli", "federation"),
}
"""Group -> where those of its commands stand that need no torch."""
HELP = "Federated learning for medical imaging."
FRONT = {
    "report": "Write a run's report anew and say where it is.",
    "evaluate": (
        "Score a model on test patients under failing modalities and corrupted scans, with intervals."
    ),
    "server": "Run the coordinator's server.",
    "run": "Look at runs, compare them, go on with one.",
    "sim": "Simulate a federation on this machine.",
    "site": "A hospital's own machine: join, look after it, look into its books.",
    "federation": "Found a federation, and say who is in it.",
    "privacy": "What privacy costs, and what attacks find.",
    "bench": "Compare methods.",
}
"""What `consilium --help` says of each command and group."""
HELPS = ((), ("--help",))
COMPLETING = "_CONSILIUM_COMPLETE"
"""In the environment when the shell asks how a word may go on: it does so without words."""


def __getattr__(name: str) -> Any:
    if name == "cli":
        return import_module("sim.commands").cli
    raise AttributeError(name)


def program(words: Sequence[str]) -> typer.Typer:
    """Return the commands among which `words` names one: all of them, or only the light ones of its group.

    Where `words` only ask which there are, they are those of `FRONT`, and do nothing.
    """
    if tuple(words) in HELPS and COMPLETING not in os.environ:
        return front()
    group, command = (*words, "", "")[:2]
    if group in LIGHT:
        module, name = LIGHT[group]
        commands: typer.Typer = getattr(import_module(module), name)
        if command in names(commands):
            light = typer.Typer(pretty_exceptions_show_locals=False)
            light.add_typer(commands, name=group)
            return light
    return import_module("sim.commands").cli


def front() -> typer.Typer:
    """Return commands and groups that can be listed."""
    listed = typer.Typer(help=HELP, no_args_is_help=True, pretty_exceptions_show_locals=False)
    for name, text in FRONT.items():
        listed.add_typer(typer.Typer(), name=name, help=text)
    return listed


def names(commands: typer.Typer) -> set[str]:
    """Return what the commands of a group are called."""
    found = commands.registered_commands
    return {each.name or getattr(each.callback, "__name__", "") for each in found}


def main() -> None:
    """Run the command line; our own errors become one line and their exit number."""
    try:
        sys.exit(program(sys.argv[1:])(standalone_mode=False))  # typer makes Ctrl-C the number 130
    except ConsiliumError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(error.exit_code)
    except ClickException as error:
        error.show()
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
