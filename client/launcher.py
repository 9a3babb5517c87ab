"""Only the hospital's own code runs.

Flower's own executor unpacks the coordinator's bundle, puts it first on the import path and runs what
is in it, in a new process for every message. This one takes its place at the site's SuperNode:

    1. take a task from the SuperNode, with its message and the bundle
    2. compare the bundle's hash with the installed version's (`client.approved`); nothing is unpacked
    3. hand the message to the warm worker (`client.worker`): the installed `client.app` answers it,
       or refuses where the bundle was another; either is in the audit log before it leaves
    4. give the reply to the SuperNode

The SuperNode's Runtime API is on the loopback interface and takes whoever knows the secret that both were
started with. If it goes away the task is dropped: its coordinator asks again, and is answered the same.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import httpx
from flwr.app import Message
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest  # pyright: ignore[reportAttributeAccessIssue]
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from client.approved import objection
from client.home import SiteHome
from client.machine import settings_of
from client.worker import Worker, died
from protocol import logs
from protocol.children import end_by_signals

log = logging.getLogger("consilium.launcher")

POLL_S = 0.2
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_GONE = (httpx.HTTPError, OSError, RuntimeError)
"""What Flower's client raises while the SuperNode is away, or does not know a task any more."""


class Launcher:
    """Serves one SuperNode with one warm worker, and starts another when that dies.

    Each task has a thread that waits for its message: the message of a run that was stopped meanwhile never
    comes, and must not keep the next task from the worker.
    """

    def __init__(self, address: str, secret: bytes, approved: Path, start: Callable[[], Worker]) -> None:
        self._address = address
        self._approved = approved
        self._start = start
        self._worker = start()
        self._one_at_a_time = threading.Lock()
        self._died = False
        authentic = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=[_ACQUIRE])
        self._executor = _client(address, authentic)

    def serve(self) -> None:
        """Serve for ever; what is being worked at when that is interrupted is dropped."""
        while True:
            if not self.step():
                time.sleep(POLL_S)

    def step(self) -> bool:
        """Begin the next task, in a thread of its own; False where there is none."""
        if self._died:
            self._revive()
        token = self._acquired()
        if token:
            threading.Thread(target=self._serve_one, args=(token,), daemon=True).start()
        return bool(token)

    def close(self) -> None:
        """End the worker."""
        self._worker.close()
        self._executor.close()

    def _acquired(self) -> str:
        """Return the token of the next task; "" where there is none, or no SuperNode yet."""
        try:
            wanted = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
            return self._executor.AcquireTask(wanted).token
        except _GONE:
            return ""

    def _serve_one(self, token: str) -> None:
        client = _client(self._address, RuntimeTokenHttpInterceptor(token))
        beats = HeartbeatSender(make_task_heartbeat_fn_http(client))
        try:
            beats.start()
            self._answer_one(client)
        except _GONE as error:
            log.warning("a task is dropped, its coordinator asks again: %s", error)
        finally:
            if beats.is_running:  # they end by themselves where the SuperNode does not know the task
                beats.stop()
            client.close()

    def _answer_one(self, client: RuntimeHttpClient) -> None:
        message, context, _run, bundle = pull_task_input(client)
        log.info("%s, round %s", message.metadata.message_type, message.metadata.group_id)
        reply = self._answered(message, objection(bundle.content, self._approved))
        push_message(client, reply, context)
        push_task_output(client, context, SubStatus.COMPLETED, "")

    def _answered(self, message: Message, why_not: str) -> Message:
        with self._one_at_a_time:
            try:
                self._worker.send(message, why_not)
                return self._worker.receive()
            except (OSError, EOFError):
                log.exception("the worker died over a %s", message.metadata.message_type)
                self._died = True
                return died(message)

    def _revive(self) -> None:
        """Start another worker; in a thread that lasts, as a worker ends with the thread that started it."""
        with self._one_at_a_time:
            self._worker.close()
            self._worker = self._start()
            self._died = False


def _client(address: str, proof: ProtobufClientInterceptor) -> RuntimeHttpClient:
    version = RuntimeVersionHttpInterceptor(component_name="flwr-clientapp")
    return RuntimeHttpClient.from_server_address(
        address, insecure=True, root_certificates=None, interceptors=[version, proof]
    )


def main(home: SiteHome, address: str) -> None:
    """Serve the SuperNode at `address` until SIGTERM."""
    logs.begin()
    settings = settings_of(home)
    end_by_signals()
    with suppress(KeyboardInterrupt):
        secret = home.executor_secret.read_bytes()
        with closing(Launcher(address, secret, home.approved, lambda: Worker(settings))) as launcher:
            launcher.serve()


if __name__ == "__main__":
    main(SiteHome(Path(sys.argv[1])), sys.argv[2])
