"""Asking an ASGI application, without a socket."""

from collections.abc import Iterable

import httpx
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE as PROTOBUF
from starlette.types import ASGIApp


async def answers(app: ASGIApp, asked: Iterable[tuple[str, str, bytes]]) -> list[str]:
    """Status and text of each answer to (method, path, body)."""
    transport, headers = httpx.ASGITransport(app), {"content-type": PROTOBUF}
    async with httpx.AsyncClient(transport=transport, base_url="http://superlink") as client:
        found = [await client.request(how, path, content=b, headers=headers) for how, path, b in asked]
    return [f"{answer.status_code} {answer.text}" for answer in found]
