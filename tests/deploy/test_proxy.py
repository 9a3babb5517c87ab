"""The door before the coordinator's server: nginx with our file, and requests through it."""

import shutil
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from server.federation import new_federation
from server.home import CoordinatorHome
from server.provision import provision
from tests.deploy.federation import free_port
from tests.deploy.podman import DEPLOY
from tests.deploy.proxy import proxy

TEXT = (DEPLOY / "proxy.conf").read_text()
HIDDEN = [
    "/v1/control/start",
    "/v1/runtime/token",
    "/docs",
    "/openapi.json",
    "/",
    "/v1/fleet/../control/start",
    "/v1/fleet/%2e%2e/control/start",
    "//v1/control/start",
]

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="deploy/ci-tools was not run: no nginx"),
]


class _Server(BaseHTTPRequestHandler):
    """Stands for the SuperLink: answers everything."""

    def do_POST(self) -> None:
        size = len(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{self.path} {size}".encode())

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    """A coordinator with certificates, whose server the proxy knows as `server`."""
    found = CoordinatorHome(tmp_path / "coordinator")
    new_federation(found.federation, "brain", "localhost")
    found.federation.write_text(found.federation.read_text().replace("also: []", "also: [server]"))
    provision(found)
    return found


@pytest.fixture
def server(home: CoordinatorHome) -> Iterator[int]:
    """The port of a server with the coordinator's certificate."""
    found = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home.server_certificate, home.server_key)
    found.socket = context.wrap_socket(found.socket, server_side=True)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found.server_port
    found.shutdown()
    found.server_close()


@contextmanager
def open_door(text: str, home: CoordinatorHome, server: int) -> Iterator[int]:
    """The proxy at a free port, with the file `text`; the port."""
    port = free_port()
    with proxy(text, home, here=f"127.0.0.1:{port}", server=f"127.0.0.1:{server}"):
        yield port


def ask(port: int, ca: Path, path: str, body: bytes = b"") -> tuple[int, str]:
    """Status and text of an answer; waits until the proxy is there."""
    context = ssl.create_default_context(cafile=str(ca))
    for _ in range(200):
        connection = HTTPSConnection("localhost", port, context=context, timeout=10)
        try:
            connection.request("POST", path, body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except ConnectionRefusedError:
            threading.Event().wait(0.05)
        finally:
            connection.close()
    raise AssertionError("the proxy does not come")


def test_sites_see_what_they_need_and_nothing_else(home: CoordinatorHome, server: int) -> None:
    with open_door(TEXT, home, server) as port:
        assert ask(port, home.ca, "/v1/fleet/pull", b"x" * 5_000_000) == (200, "/v1/fleet/pull 5000000")
        assert [path for path in HIDDEN if ask(port, home.ca, path)[0] != 404] == []


def test_a_door_too_wide_is_seen(home: CoordinatorHome, server: int) -> None:
    wide = TEXT.replace("location /v1/fleet/ {", "location /v1/ {").replace(
        "superlink/v1/fleet/;", "superlink;"
    )

    with open_door(wide, home, server) as port:
        assert ask(port, home.ca, "/v1/control/start")[0] == 200


def test_the_proxy_trusts_only_the_federations_server(home: CoordinatorHome, server: int) -> None:
    """A server behind it with a certificate of nobody's is not spoken to."""
    stranger = TEXT.replace("proxy_ssl_name server", "proxy_ssl_name stranger")

    with open_door(stranger, home, server) as port:
        assert ask(port, home.ca, "/v1/fleet/pull")[0] == 502
