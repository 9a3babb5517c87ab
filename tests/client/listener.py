"""A real TLS server on loopback, and a real proxy before it, in this process."""

import base64
import select
import socket
import ssl
import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

from privacy.certificates import issue, make_authority


class Authority:
    """A CA in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key, self.certificate = folder / "ca.key", folder / "ca.pem"
        make_authority("brain", self._key, self.certificate, datetime.now(UTC) - timedelta(days=800))

    def server(self, host: str, made: datetime) -> ssl.SSLContext:
        """Return what a server named `host` shows, whose certificate was made at `made`."""
        key, certificate = self._folder / f"{host}.key", self._folder / f"{host}.pem"
        issue((self._key, self.certificate), [host], key, certificate, made)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return context


@contextmanager
def listening(context: ssl.SSLContext | None, ahead: timedelta | None = timedelta(0)) -> Generator[int]:
    """Yield the port of a server whose clock is `ahead` of ours; None: it does not tell the time."""

    class Handler(_Silent):
        def do_GET(self) -> None:
            self.send_response_only(404)
            if ahead is not None:
                self.send_header("Date", format_datetime(datetime.now(UTC) + ahead, usegmt=True))
            self.send_header("Content-Length", "0")
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        with _serving(server):
            yield server.server_port


@contextmanager
def proxying(login: str = "") -> Generator[tuple[int, list[str]]]:
    """Yield the port of a proxy that wants `login`, and the addresses that it was asked for."""
    asked: list[str] = []
    wanted = f"Basic {base64.b64encode(login.encode()).decode()}" if login else None

    class Handler(_Silent):
        def do_CONNECT(self) -> None:
            asked.append(self.path)
            if self.headers["Proxy-Authorization"] != wanted:
                self.send_error(407)
                return
            host, _, port = self.path.rpartition(":")
            with socket.create_connection((host, int(port)), 5) as there:
                self.send_response_only(200)
                self.end_headers()
                _relay(self.connection, there)
            self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, _serving(server):
        yield server.server_port, asked


def closed_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


class _Silent(BaseHTTPRequestHandler):
    timeout = 5

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _relay(here: socket.socket, there: socket.socket) -> None:
    other = {here: there, there: here}
    while ready := select.select([here, there], [], [], 5)[0]:
        for line in ready:
            data = line.recv(1 << 16)
            if not data:
                return
            other[line].sendall(data)


@contextmanager
def _serving(server: HTTPServer) -> Generator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
