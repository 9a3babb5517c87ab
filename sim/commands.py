"""All commands of `consilium`, as one tree."""

from pathlib import Path
from typing import Annotated

import typer

from client.cli import site
from client.operate_cli import processes
from server import operate_cli as server_commands
from server.cli import RUNS, Out, report, runs
from server.federation_cli import federation
from server.serve_cli import server
from server.watch_cli import Run, run_in, watching
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
runs.add_typer(watching)
site.add_typer(processes)
cli.add_typer(server, name="server")
cli.add_typer(runs, name="run")
cli.add_typer(sim, name="sim")
cli.add_typer(site, name="site")
cli.add_typer(federation, name="federation")
cli.add_typer(privacy, name="privacy")
cli.add_typer(bench, name="bench")
cli.command("report")(report)
cli.command("evaluate")(evaluate)
