"""What the coordinator's own machine may ask of its SuperLink: nodes and runs (Flower's Control API).

The API has no login; `server.superlink` shows it to this machine alone.
"""

import time
from collections.abc import Callable, Generator, Hashable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import httpx
from flwr.cli.supernode.register import try_load_public_key
from flwr.common.constant import Status
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import (  # pyright: ignore[reportAttributeAccessIssue]
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab  # pyright: ignore[reportAttributeAccessIssue]
from flwr.proto.run_pb2 import Run  # pyright: ignore[reportAttributeAccessIssue]
from flwr.supercore.constant import NodeStatus
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from protocol.bundle import bundle, bundle_hash
from protocol.errors import WireError

RECENT_S = 5.0
"""How old an answer may be to what is asked every second and hardly ever changes."""
_NO_SUCH_RUN = 404

T = TypeVar("T")


@dataclass(frozen=True)
class Node:
    """A site as Flower knows it: by its public key, under the number that messages go to."""

    number: int
    key: bytes
    name: str
    connected: bool
    since: str


class Control:
    """One SuperLink, spoken to from its own machine. Every method raises `WireError` where it cannot be.

    With `recent` a question may be answered as it was some seconds ago, unless something was changed through
    this since: each costs the SuperLink some 10 ms.
    """

    def __init__(self, client: ControlHttpClient) -> None:
        self._client = client
        self._answers: dict[Hashable, tuple[float, object]] = {}

    def _answered(self, question: Hashable, ask: Callable[[], T], *, recent: bool) -> T:
        now = time.monotonic()
        self._answers = {each: told for each, told in self._answers.items() if now - told[0] < RECENT_S}
        if not (recent and question in self._answers):
            self._answers[question] = now, ask()
        return cast("T", self._answers[question][1])

    def nodes(self, *, recent: bool = False) -> list[Node]:
        """Return the registered nodes."""
        return self._answered("nodes", self._all_nodes, recent=recent)

    def _all_nodes(self) -> list[Node]:
        with _reached():
            found = self._client.ListNodes(ListNodesRequest()).nodes_info
        return [
            Node(n.node_id, n.public_key, n.name, n.status == NodeStatus.ONLINE, n.last_activated_at)
            for n in found
            if n.status != NodeStatus.UNREGISTERED
        ]

    def register(self, key: bytes, name: str) -> None:
        """Let the holder of the private half of `key` connect."""
        self._answers.clear()
        with _reached():
            self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))

    def unregister(self, number: int) -> None:
        """Let a node connect no more, from its next request on."""
        self._answers.clear()
        with _reached():
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=number))

    def start(self, config: Mapping[str, str | int]) -> int:
        """Submit the installed code with `config` (`server.app.conduct`), return Flower's number for it."""
        fab = Fab(hash_str=bundle_hash(), content=bundle())
        with _reached():
            asked = StartRunRequest(fab=fab, override_config=user_config_to_proto(dict(config)))
            return self._client.StartRun(asked).run_id

    def ended(self, number: int, *, recent: bool = False) -> str | None:
        """Return why Flower's run has ended, in Flower's words; None while it has not."""
        return self._answered(number, lambda: self._ended(number), recent=recent)

    def _ended(self, number: int) -> str | None:
        with _reached():
            runs = self._runs(number)
        if number not in runs:
            return "not known to the SuperLink"
        status = runs[number].status
        if status.status != Status.FINISHED:
            return None
        return f"{status.sub_status}: {status.details}" if status.details else status.sub_status

    def _runs(self, number: int) -> Mapping[int, Run]:
        try:
            return self._client.ListRuns(ListRunsRequest(run_id=number)).run_dict
        except httpx.HTTPStatusError as error:
            if error.response.status_code == _NO_SUCH_RUN:
                return {}
            raise

    def stop(self, number: int) -> None:
        """End Flower's run."""
        self._answers.clear()
        with _reached():
            self._client.StopRun(StopRunRequest(run_id=number))


def node_key(path: Path) -> bytes:
    """Return a node's public key, in the form in which Flower compares it, from its file."""
    return try_load_public_key(path)


@contextmanager
def control(address: str, ca: Path) -> Generator[Control]:
    """Speak to the SuperLink at `address`, whose certificate `ca` has signed."""
    version = RuntimeVersionHttpInterceptor(component_name="flwr")
    with ControlHttpClient.from_server_address(
        address, insecure=False, root_certificates=ca.read_bytes(), interceptors=[version]
    ) as client:
        yield Control(client)


@contextmanager
def _reached() -> Generator[None]:
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise WireError(
            f"the SuperLink refuses ({error.response.text[:200]}): see logs/superlink.log"
        ) from error
    except (httpx.HTTPError, OSError) as error:
        raise WireError(f"the SuperLink is not reached ({error}): see logs/superlink.log") from error
