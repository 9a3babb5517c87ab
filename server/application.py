"""The server application of a federation: `server.app` over a grid of ours, where nobody watches it.

What it says goes into the run's log. `server.superexec` has it imported before a run begins.
"""

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.runtime.run_serverapp import run_serverapp

from protocol.leash import die_with
from protocol.logs import JsonLines
from server.app import conduct
from server.grid import changes
from server.home import CoordinatorHome
from server.record import LOG, Round, SiteRound

log = logging.getLogger("consilium.run")


def build_logging_app() -> ServerApp:
    """Return a ServerApp for a server that nobody watches: it writes into the run's log."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        die_with(os.getppid())  # Flower's executor: what it leaves behind would write beside the next one
        config = dict(context.run_config)
        home = CoordinatorHome(Path(str(config["coordinator"])))
        for where, name, value in changes(home.pieces):
            setattr(where, name, value)
        with logged(Path(str(config["folder"]))):
            conduct(grid, config, note)

    return app


@contextmanager
def logged(folder: Path) -> Generator[None]:
    """Write what Consilium logs into the run's folder; an error that ends the block is there too."""
    handler = logging.FileHandler(folder / LOG, encoding="utf-8")
    handler.setFormatter(JsonLines("run"))
    ours = logging.getLogger("consilium")
    ours.setLevel(logging.INFO)
    ours.addHandler(handler)
    try:
        yield
    except BaseException as error:
        log.error("ended early: %s: %s", type(error).__name__, error)  # noqa: TRY400 - Flower logs the traceback
        raise
    finally:
        ours.removeHandler(handler)
        handler.close()


def note(number: int, news: SiteRound | Round) -> None:
    """Log a site that did not do what it was asked, and every round that ended."""
    if isinstance(news, Round):
        accepted = sum(site.status == "accepted" for site in news.sites)
        log.info("round %d ended: %d of %d sites accepted", number, accepted, len(news.sites))
    elif news.status != "accepted":
        log.warning("round %d: %s %s: %s", number, news.site, news.status, news.reason)


def serve(address: str, token: str, ca: Path) -> None:
    """Be the server application that `token` is for, of the SuperLink at `address`, until its run ends."""
    die_with(os.getppid())
    run_serverapp(address, Queue(), token, insecure=False, certificates=ca.read_bytes())


app = build_logging_app()
