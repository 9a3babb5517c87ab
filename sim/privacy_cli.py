"""`consilium privacy`: what a recipe promises, and what attacks on it find."""

import typer

from sim.evidence_cli import audit

privacy = typer.Typer(help="What a recipe promises, and what attacks on it find.", no_args_is_help=True)
privacy.command("audit")(audit)


@privacy.callback()
def main() -> None:
    """Keep `audit` a word of its own while it is the only one."""
