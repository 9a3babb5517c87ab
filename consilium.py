"""The command line: `consilium federation|run|report|sim|site|privacy`, one program for three people."""

import os
import sys

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import typer
from click import ClickException

from client.cli import site
from protocol.errors import ConsiliumError
from server.cli import report, runs
from server.federation_cli import federation
from sim.cli import resume, sim
from sim.evaluate_cli import evaluate
from sim.privacy_cli import privacy

cli = typer.Typer(help="Federated learning for medical imaging.", no_args_is_help=True)
runs.command("resume")(resume)
cli.add_typer(runs, name="run")
cli.add_typer(sim, name="sim")
cli.add_typer(site, name="site")
cli.add_typer(federation, name="federation")
cli.add_typer(privacy, name="privacy")
cli.command("report")(report)
cli.command("evaluate")(evaluate)


def main() -> None:
    """Run the command line; our own errors become one line and their exit number."""
    try:
        sys.exit(cli(standalone_mode=False))  # typer makes Ctrl-C the number 130
    except ConsiliumError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(error.exit_code)
    except ClickException as error:
        error.show()
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
