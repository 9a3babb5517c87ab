"""Health and metrics of a keeper's processes, on the loopback interface, for whoever watches this machine.

    GET /health     200 while every process runs; else 503 and which does not
    GET /metrics    Prometheus' text format:

        consilium_process_up{process="superlink"}              1 or 0
        consilium_process_starts_total{process="superlink"}    since the keeper began
        consilium_process_start_time_seconds{process="superlink"}

Names of our own programs and numbers: nothing of a run, a site or a patient is here to be read.
"""

import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, Metric, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from protocol.children import LOOPBACK, Kept, kept
from protocol.errors import SettingsError


class Processes(Collector):
    """What the keeper in `state` says of its processes, read anew at every question."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def now(self) -> list[Kept]:
        """Return them; none before the keeper has written for the first time."""
        try:
            return kept(self._state)
        except (SettingsError, OSError):
            return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the module's text."""
        up = GaugeMetricFamily("consilium_process_up", "1 while it runs", labels=["process"])
        starts = CounterMetricFamily("consilium_process_starts", "how often it began", labels=["process"])
        since = GaugeMetricFamily("consilium_process_start_time_seconds", "its last", labels=["process"])
        for each in self.now():
            up.add_metric([each.name], each.pid is not None)
            starts.add_metric([each.name], each.starts)
            since.add_metric([each.name], each.since)
        yield from (up, starts, since)


@contextmanager
def monitoring(state: Path, port: int) -> Generator[None]:
    """Answer at `port` of this machine while the block runs; 0 answers nowhere.

    Raises `SettingsError` where the port is taken.
    """
    if not port:
        yield
        return
    try:
        server = make_server(LOOPBACK, port, _app(Processes(state)), handler_class=_Quiet)
    except OSError as error:
        raise SettingsError(
            f"port {port} of {LOOPBACK} ({error.strerror}): give another to --monitor"
        ) from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's own name
        """Say nothing: a line a scrape would fill the log."""


def _app(processes: Processes):  # noqa: ANN202 - a WSGI application, whose type is the library's
    registry = CollectorRegistry()
    registry.register(processes)
    metrics = make_wsgi_app(registry)

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/metrics":
            return metrics(environ, start_response)
        status, text = _health(processes.now()) if environ["PATH_INFO"] == "/health" else _NOT_FOUND
        start_response(status, [("Content-Type", "text/plain")])
        return [text.encode()]

    return answer


_NOT_FOUND = "404 Not Found", "/health and /metrics are here\n"


def _health(found: Iterable[Kept]) -> tuple[str, str]:
    found = list(found)
    down = [each.name for each in found if each.pid is None]
    if found and not down:
        return "200 OK", "ok\n"
    return "503 Service Unavailable", f"not running: {', '.join(down) or 'nothing was started yet'}\n"
