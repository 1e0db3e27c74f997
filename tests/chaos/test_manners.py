"""Each order has, in every dialect, the outcome that the server's journal says: as the service itself reads it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from chaos import long_manners
from chaos.attempt_checks import FORGETTING_ORDERS, SAYS, SAYS_IN, SUCCESS
from chaos.backend import Backend
from chaos.fleet import FLEET, Part
from chaos.journal import Journal, read
from chaos.long_manners import JobManner
from chaos.orders import ANSWERS
from chaos.outcome_checks import FAILED_AS
from chaos.schedule import MODEL_SERVERS
from taskstream.api.schemas.servers import RegisterBody
from taskstream.api.server_registration import read_settings
from taskstream.backends.client import BackendClient
from taskstream.backends.dialects import dialect_of
from taskstream.backends.dialects.dialect import Answer, Busy, Call, Completed, Failed, FailedByBackend, Update
from taskstream.backends.egress import EgressPolicy
from testkit.link import Link
from testkit.waiting import wait_until

SERVERS = ("backend-1", *MODEL_SERVERS)
LONG = frozenset({"hang", "trickle"})
"""Orders whose attempts end by their time."""
LARGEST = 1_000_000
TASK = "0" * 26 + "~alice"
MARK = "mk-alice-0-0"


class Talk:
    """One server of a run, and the service's client."""

    def __init__(self, name: str, backend: Backend, client: BackendClient, log: Path) -> None:
        self.name = name
        self.part: Part = FLEET[name]
        self.backend = backend
        self.client = client
        self.url = backend.base_url
        """By which it is registered."""
        self.updates: list[Update] = []
        self._log = log

    @property
    def lines(self) -> list[dict[str, Any]]:
        return read(self._log)

    def says(self) -> set[str]:
        """Return what the server has said of its attempts."""
        return {line["says"] for line in self.lines if line["what"] == "over"}

    async def run(self, orders: str, seconds: float = 0.01, timeout: float = 10.0) -> Answer:
        """Make an attempt with such orders and return its outcome."""
        egress: Any = SimpleNamespace(egress=EgressPolicy(allow_private=True))
        body = msgspec.convert(self.part.registration(self.name, self.url), RegisterBody)
        server = await read_settings(egress, body)
        call = Call(
            task_id=TASK,
            task_type="models",
            attempt=1,
            payload=Raw(msgspec.json.encode({"mark": MARK, "do": [orders], "seconds": seconds})),
            deadline=datetime.now(UTC) + timedelta(seconds=timeout),
            callback_url="http://127.0.0.1:9/",
            callback_token="token",
        )

        async def on_update(update: Update) -> None:
            self.updates.append(update)

        return await self.client.call(dialect_of(server), server, call, on_update)


@contextlib.asynccontextmanager
async def talking(name: str, folder: Path) -> AsyncIterator[Talk]:
    log = folder / "log"
    manner = FLEET[name].manner_of()
    async with (
        Backend(name, 0, Journal(log, synced=False), manner=manner) as backend,
        EgressPolicy(allow_private=True).session() as session,
    ):
        yield Talk(name, backend, BackendClient(session, LARGEST, 5.0), log)


def said_by(answer: Answer) -> set[str]:
    """Return what a server says that has such an outcome; empty: nothing of the attempt."""
    match answer:
        case Completed():
            return {"FINISHED"}
        case FailedByBackend():
            return {"FAILED"}
        case Busy():
            return {"busy"}
        case Failed(kind=kind):
            return FAILED_AS.get(kind, set())
        case _:
            raise AssertionError(answer)


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("orders", sorted(ANSWERS.keys() - LONG))
async def test_an_order_has_the_outcome_that_the_journal_says(tmp_path: Path, name: str, orders: str) -> None:
    async with talking(name, tmp_path) as talk:
        answer = await talk.run(orders)

        says = talk.says()
        server = talk.part.server(misbehaves=True)
        allowed = SAYS_IN.get(server.dialect, {}).get(orders) or SAYS.get(orders, SUCCESS)
        if server.polled and orders in FORGETTING_ORDERS:
            allowed = frozenset({"error"})
        assert says
        assert says <= allowed
        assert (said_by(answer) or {"nothing"}) & says, answer
        if isinstance(answer, Completed):
            data = msgspec.json.decode(answer.result)["data"]
            assert server.made(data) == {"mark": MARK, "attempt": 1, "server": name}


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("orders", sorted(LONG))
async def test_an_attempt_that_never_ends_runs_out_of_time(tmp_path: Path, name: str, orders: str) -> None:
    async with talking(name, tmp_path) as talk:
        answer = await talk.run(orders, timeout=1.0)

        assert isinstance(answer, Failed)
        assert answer.kind == "timeout"


@pytest.mark.parametrize("name", SERVERS)
async def test_a_call_that_is_cancelled_is_noted(tmp_path: Path, name: str) -> None:
    async with talking(name, tmp_path) as talk:
        running = asyncio.create_task(talk.run("ok", seconds=30))
        await wait_until(lambda: any(line["what"] == "call" for line in talk.lines), "the call")
        if isinstance(talk.backend.manner, JobManner):
            await wait_until(lambda: bool(talk.updates), "progress")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

        await wait_until(lambda: any(line.get("hung_up") for line in talk.lines), "the end of the work")


async def test_a_prediction_whose_stream_broke_is_attached_to_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chances = SimpleNamespace(random=lambda: 0.0, choice=lambda options: options[-1])
    monkeypatch.setattr(long_manners, "random", chances)  # it streams, and goes on for a while without a listener
    async with talking("cog", tmp_path) as talk, Link(talk.backend.port) as link:
        talk.url = f"http://127.0.0.1:{link.port}"
        running = asyncio.create_task(talk.run("ok", seconds=2))
        await wait_until(lambda: bool(talk.updates), "the first event")
        link.set("cut")
        link.set("pass")
        answer = await running

        whats = [line["what"] for line in talk.lines]
        assert isinstance(answer, Completed)
        assert whats.count("call") == 1
        assert whats.count("attached") == 1
        outputs = "".join(update.output for update in talk.updates)
        assert outputs == "cog/1/1;cog/1/2;cog/1/3;"
