"""The command line, one program for three people: `consilium federation|server|run|site|sim|...`."""

import os
import sys
from pathlib import Path
from typing import Annotated

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import typer
from click import ClickException

from client import operate_cli as site_commands
from client.cli import site
from protocol.errors import ConsiliumError
from server import operate_cli as server_commands
from server.cli import RUNS, Out, report, runs
from server.federation_cli import federation
from server.operate_cli import Run, run_in, server
from sim.bench_cli import bench
from sim.cli import resume as resume_simulated
from sim.cli import sim
from sim.evaluate_cli import evaluate
from sim.privacy_cli import privacy

# A traceback with its variables would show keys, and patients' headers.
cli = typer.Typer(
    help="Federated learning for medical imaging.", no_args_is_help=True, pretty_exceptions_show_locals=False
)


@runs.command()
def resume(
    run: Run = "",
    out: Out = RUNS,
    home: Annotated[
        Path | None,
        typer.Option(envvar="CONSILIUM_HOME", help="the coordinator's folder, for a federation's run"),
    ] = None,
) -> None:
    """Go on with a run from its last checkpoint: of a federation (--home), or a simulated one (--out)."""
    folder = run_in(home / RUNS if home else out, run)
    if server_commands.is_of_federation(folder):
        server_commands.resume_run(folder)
    else:
        resume_simulated(folder.name, folder.parent)


runs.command("start")(server_commands.start_run)
runs.command("status")(server_commands.run_status)
runs.command("logs")(server_commands.run_logs)
runs.command("stop")(server_commands.stop_run)
federation.command("status")(server_commands.federation_status)
for command in (site_commands.start, site_commands.status, site_commands.stop, site_commands.logs):
    site.command()(command)
site.command("approve")(site_commands.approve_bundle)
cli.add_typer(server, name="server")
cli.add_typer(runs, name="run")
cli.add_typer(sim, name="sim")
cli.add_typer(site, name="site")
cli.add_typer(federation, name="federation")
cli.add_typer(privacy, name="privacy")
cli.add_typer(bench, name="bench")
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
