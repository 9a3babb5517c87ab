"""Flower's SuperNode with four things changed, in its process and not in its files.

Its heartbeat   every 10 s instead of 30. Flower's server takes a site for gone when two are missing,
                and lets one that was killed in again only then: after 20 s instead of 60.
Its questions   whether there is work come every second instead of every third: a round has several.
Its patience    a line that breaks while TLS or a proxy is greeted is tried again, at least every 5 s, as
                one that is refused is: a proxy answers for a server that is down. Flower gives up there.
Its end         where it gives up after all the process ends, and its keeper starts it anew. Flower leaves
                a process that serves the launcher and asks nobody for work.

    python -m client.supernode ARGUMENT...      as `flower-supernode` takes them
"""

import logging
import os
import ssl
import time
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import httpx
from flwr.common.constant import HEARTBEAT_MIN_INTERVAL
from flwr.supercore import heartbeat
from flwr.supercore.retry import RetryInvoker, http_retry, make_simple_http_retry_invoker
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.cli import flower_supernode

from protocol import logs

log = logging.getLogger("consilium.supernode")

LOOK_S, LONGEST_PAUSE_S = 1.0, 5.0
BROKEN = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError, httpx.ProxyError)


def main() -> None:
    """Run the SuperNode; return only by `SystemExit`, after a signal or where it cannot start."""
    logs.begin()
    for module, name, value in changes():
        vars(module)[name] = value
    try:
        flower_supernode()
        log.error("the SuperNode gave up")
    except Exception:
        log.exception("the SuperNode gave up")
    os._exit(1)  # the thread of its API would keep the process


def changes() -> list[tuple[ModuleType, str, object]]:
    """Return what is changed: where, which name, and its new value."""
    return [
        (fleet_http_connection, "HEARTBEAT_DEFAULT_INTERVAL", HEARTBEAT_MIN_INTERVAL),
        (heartbeat, "HEARTBEAT_DEFAULT_INTERVAL", HEARTBEAT_MIN_INTERVAL),
        (start_client_internal, "time", SimpleNamespace(sleep=doze)),
        (http_retry, "MAX_RETRY_DELAY", LONGEST_PAUSE_S),
        (fleet_http_connection, "make_simple_http_retry_invoker", patient),
    ]


def doze(seconds: float) -> None:
    """Sleep in Flower's loop, but not longer than `LOOK_S`."""
    time.sleep(min(seconds, LOOK_S))


def patient() -> RetryInvoker:
    """Return Flower's way of trying again, with a broken line among what is tried again."""
    invoker = make_simple_http_retry_invoker()
    hopeless = invoker.should_giveup

    def gives_up(error: Exception) -> bool:
        log.warning("no answer: %s", error)
        return not is_broken_line(error) and hopeless is not None and hopeless(error)

    invoker.recoverable_exceptions = (*BROKEN, httpx.HTTPStatusError)
    invoker.should_giveup = gives_up
    return invoker


def is_broken_line(error: Exception) -> bool:
    """Say whether nothing was heard of a server; one that shows another CA's certificate was heard of."""
    return isinstance(error, BROKEN) and not any(
        isinstance(cause, ssl.SSLCertVerificationError) for cause in causes(error)
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


if __name__ == "__main__":
    main()
