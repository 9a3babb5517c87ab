"""Flower's SuperLink with two things changed, in its process and not in its files.

Its database    SQLite gives up on a locked database after 5 s, too soon for a 100 MB model: here after 120.
Its doors       one port carries the sites' API, the one that starts runs, and the executors'; the last
                two have no login. Other machines reach only the first.

    python -m server.superlink ARGUMENT...      as `flower-superlink` takes them
"""

from ipaddress import ip_address
from typing import Any

from flwr.supercore import sql_mixin
from flwr.supercore.constant import SQLITE_PRAGMAS
from flwr.superlink import extensions
from flwr.superlink.cli import flower_superlink
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

BUSY_TIMEOUT_MS = 120_000
FOR_SITES = "/v1/fleet/"


class Doors:
    """Answer 404 to other machines, except where sites talk to us."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] == "http" and not (scope["path"].startswith(FOR_SITES) or _from_here(scope)):
            await PlainTextResponse("nothing here", status_code=404)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def patient(pragmas: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Return Flower's SQLite pragmas with our time to wait for a lock."""
    return tuple({**dict(pragmas), "busy_timeout": str(BUSY_TIMEOUT_MS)}.items())


def main() -> None:
    """Run the SuperLink."""
    sql_mixin.__dict__["SQLITE_PRAGMAS"] = patient(SQLITE_PRAGMAS)
    extensions.get_middleware = lambda: (Middleware(Doors),)
    flower_superlink()


def _from_here(scope: Any) -> bool:
    client = scope.get("client")
    return client is not None and ip_address(client[0]).is_loopback


if __name__ == "__main__":
    main()
