"""Flower's own simulation engine on Ray: the same recipe on a cluster.

Flower gives a virtual site only its number (`partition-id`), so the ClientApp that is sent
to Ray's actors carries the list of settings and looks itself up.
"""

import logging
from collections.abc import Sequence

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.simulation.run_simulation import (
    _run_simulation,  # pyright: ignore[reportPrivateUsage] - run_simulation() itself is deprecated
)
from flwr.supercore.telemetry import EventType

from client.settings import Settings
from protocol.messages import solidify
from sim.inprocess import identify


def run_on_ray(server: ServerApp, settings: Sequence[Settings]) -> None:
    """Run `server` against one virtual site per settings, on the Ray cluster at hand."""
    logging.getLogger("flwr").setLevel(logging.WARNING)
    _run_simulation(
        num_supernodes=len(settings),
        exit_event=EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
        client_app=client_app(tuple(settings)),
        server_app=server,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )


def client_app(settings: tuple[Settings, ...]) -> ClientApp:
    """Return the site's ClientApp, finding its settings by Flower's partition number."""
    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        from client.app import answer  # noqa: PLC0415 - imported in the actor, not shipped to it

        identify(message.metadata.run_id)
        return solidify(answer(message, settings[int(context.node_config["partition-id"])]))

    for register in (app.train, app.evaluate, app.query):
        register()(handle)
    return app
