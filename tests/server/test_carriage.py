"""Pieces on their way into the SuperLink, without a line: the whole way is in tests/client/test_supernode."""

import asyncio
from pathlib import Path

import pytest
from starlette.types import Message

from server import carriage
from server.carriage import _blocks
from server.store import FOLDER, new_file

NAME = "0" * 64


def test_a_piece_whose_sender_has_vanished_is_given_up_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that has lost its power says no word: its line would stay, and what it had brought."""
    monkeypatch.setattr(carriage, "SILENT_S", 0.01)
    (folder := tmp_path / FOLDER).mkdir()
    coming = iter([{"type": "http.request", "body": bytes(carriage.WRITTEN_BYTES), "more_body": True}])

    async def receive() -> Message:
        if (message := next(coming, None)) is None:
            await asyncio.Event().wait()
        return message or {}

    async def take() -> None:
        with new_file(folder, NAME) as (_, file):
            async for parts in _blocks(receive):
                file.writelines(parts)

    async def given_up() -> bool:
        done, _ = await asyncio.wait({taking := asyncio.ensure_future(take())}, timeout=60.0)
        return taking in done and isinstance(taking.exception(), TimeoutError)

    assert asyncio.run(given_up())
    assert not list(folder.iterdir())
