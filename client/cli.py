"""`consilium site`: what a hospital does on its own machine."""

import typer

from client.policy_cli import policy

site = typer.Typer(help="A hospital's own side: what it allows, what it has spent.", no_args_is_help=True)
site.add_typer(policy, name="policy")
