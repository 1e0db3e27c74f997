"""The backends of a run misbehave as they say: they answer twice on one connection, and are busy half of the time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chaos import backend as backend_module
from chaos.backend import Backend
from chaos.journal import Journal, read
from testkit.waiting import wait_until


class Connection:
    """One connection that is kept, as raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def call(self, task: str) -> None:
        self.begin_call(task)()

    def begin_call(self, task: str) -> Callable[[], None]:
        """Send the first bytes of a call; return what sends the rest."""
        body = msgspec.json.encode(
            {"task_id": task, "attempt": 1, "request": {"mark": task, "do": ["ok"], "seconds": 0}}
        )
        sent = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        self._writer.write(sent[:10])
        return lambda: self._writer.write(sent[10:])

    async def answer(self) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of the next answer, asked for or not."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length: ")[2].split()[0])
        return int(head.split()[1]), msgspec.json.decode(await self._reader.readexactly(length))

    async def is_closed(self) -> bool:
        return not await self._reader.read()


@contextlib.asynccontextmanager
async def connection_to(backend: Backend) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", backend.port)
    yield Connection(reader, writer)
    writer.close()


@pytest.mark.parametrize(("crossing_seconds", "says"), [(0.0, "nothing"), (60.0, "crossed")])
async def test_an_answer_that_nobody_asked_for_comes_while_the_connection_idles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crossing_seconds: float, says: str
) -> None:
    monkeypatch.setattr(backend_module, "CROSSING_SECONDS", crossing_seconds)
    log = tmp_path / "log"
    async with (
        Backend("one", 0, Journal(log, synced=False), extra_chance=1.0) as backend,
        connection_to(backend) as connection,
    ):
        connection.call("a")
        status, own = await connection.answer()
        extra_status, extra = await connection.answer()
        connection.call("b")
        assert await connection.is_closed()

    assert (status, own["task_id"]) == (200, "a")
    assert extra_status in (200, 400)
    assert "task_id" not in extra
    assert [(line["what"], line["task"], line.get("says")) for line in read(log)] == [
        ("call", "a", None),
        ("over", "a", "FINISHED"),
        ("extra", "", None),
        ("call", "b", None),
        ("over", "b", says),
    ]


async def test_no_such_answer_comes_once_another_request_has_come(tmp_path: Path) -> None:
    async with (
        Backend("one", 0, Journal(tmp_path / "log", synced=False), extra_chance=1.0) as backend,
        connection_to(backend) as connection,
    ):
        for task in "abc":
            connection.call(task)
            _, answer = await connection.answer()
            assert answer["task_id"] == task


async def test_no_such_answer_comes_once_a_part_of_another_request_has_come(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with (
        Backend("one", 0, Journal(log, synced=False), extra_chance=1.0) as backend,
        connection_to(backend) as connection,
        connection_to(backend) as idle,
    ):
        connection.call("a")
        await connection.answer()
        rest = connection.begin_call("b")
        idle.call("c")  # its extra answer comes later than one to `a` would
        for _ in range(2):
            await idle.answer()
        rest()

        assert (await connection.answer())[1]["task_id"] == "b"
    calls = [line["task"] for line in read(log) if line["what"] == "call"]
    assert calls == ["a", "c", "b"]


async def test_a_backend_is_busy_for_a_while_and_then_is_not(tmp_path: Path) -> None:
    log = tmp_path / "log"
    statuses: list[int] = []

    async def call() -> bool:
        async with connection_to(backend) as connection:
            connection.call("a")
            statuses.append((await connection.answer())[0])
        return len(set(statuses)) == 3

    async with Backend("one", 0, Journal(log, synced=False), busy_seconds=0.1) as backend:
        await wait_until(call, "a 200, a 429 and a 503")

    assert set(statuses) == {200, 429, 503}
    said = [line["says"] for line in read(log) if line["what"] == "over"]
    assert said == ["FINISHED" if status == 200 else "busy" for status in statuses]
