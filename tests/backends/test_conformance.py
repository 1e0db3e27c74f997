"""Conformance suite: run for every dialect, through the real transport and a real connection."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import pkgutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from taskstream.backends import client, dialects
from taskstream.backends.client import LONGEST_PROGRESS, BackendClient
from taskstream.backends.dialects import DIALECTS
from taskstream.backends.dialects.dialect import (
    Accepted,
    Answer,
    Busy,
    Call,
    Completed,
    Dialect,
    Failed,
    FailedByBackend,
    Request,
    Unsent,
    Update,
)
from taskstream.backends.dialects.taskstream import Taskstream
from taskstream.backends.egress import EgressPolicy
from taskstream.events.server import ServerRegistered

from .wire_fixtures import FIXTURES, StreamWire, Wire, WireFixture
from .wire_server import WireServer, broken_off, endless, silence

PAYLOAD = {"text": "It was a dark and stormy night."}
DATA = {"audio": "x", "seconds": 4}
KEY = 'sk-"secret\\1-of-alice'
MAX_RESULT = 1_000_000


class Wired:
    """A dialect, its wire fixture, and a server that answers with it."""

    def __init__(self, fixture: WireFixture, server: WireServer, backend: BackendClient) -> None:
        self.wire = fixture
        self.server = server
        self.backend = backend
        self.updates: list[Update] = []

    @property
    def registered(self) -> ServerRegistered:
        return self.wire.server(self.server.url)

    def call_of(self, seconds: float = 10) -> Call:
        return Call(
            task_id="0" * 26 + "~alice",
            task_type="speech",
            attempt=2,
            payload=Raw(json.dumps(PAYLOAD).encode()),
            deadline=datetime.now(UTC) + timedelta(seconds=seconds),
            callback_url="http://us/api/task/t1",
            callback_token="token",
            api_key="key-of-the-server",
            model_key=KEY,
        )

    async def call(self, answer: Any, seconds: float = 10, *, records: bool = True) -> Answer:
        """Return the outcome of a call with this answer. `records`: its progress can be recorded."""
        self.server.answer = answer

        async def on_update(update: Update) -> None:
            self.updates.append(update)
            if not records:
                await asyncio.Event().wait()

        return await self.backend.call(self.registered, self.call_of(seconds), on_update)

    def stream(self, *output: str, **more: Any) -> StreamWire:
        """Return a streamed answer of the dialect; skip the test if it has none."""
        wire = self.wire.stream(list(output), **more)
        if wire is None:
            pytest.skip("the dialect streams nothing")
        return wire


@pytest.fixture(params=sorted(DIALECTS))
async def wired(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wired]:
    monkeypatch.setattr(client, "dialect_of", lambda _: DIALECTS[request.param])
    policy = EgressPolicy(allow_private=True)
    async with WireServer() as server, policy.session() as session:
        yield Wired(FIXTURES[request.param], server, BackendClient(session, MAX_RESULT, health_timeout_seconds=0.3))


def test_every_dialect_is_listed_and_has_a_fixture_and_its_own_name() -> None:
    for module in pkgutil.iter_modules(dialects.__path__, f"{dialects.__name__}."):
        importlib.import_module(module.name)
    written = {each for each in Dialect.__subclasses__() if each.__module__.startswith(dialects.__name__)}

    assert {type(dialect) for dialect in DIALECTS.values()} == written
    assert FIXTURES.keys() == DIALECTS.keys()
    assert all(dialect.name == name for name, dialect in DIALECTS.items())


# The request


async def test_the_payload_and_the_servers_key_arrive(wired: Wired) -> None:
    await wired.call(wired.wire.success(DATA))

    (received,) = wired.server.received
    assert wired.wire.payload(received.body) == PAYLOAD
    assert any("key-of-the-server" in value for value in received.headers.values())


# The answer


async def test_a_success_is_a_task_result_with_its_data(wired: Wired) -> None:
    answer = await wired.call(wired.wire.success(DATA))

    assert isinstance(answer, Completed)
    result = json.loads(answer.result)
    assert result["data"] == DATA
    assert result["metadata"]["status"] == "FINISHED"


async def test_a_failure_is_never_a_success_and_has_its_reason(wired: Wired) -> None:
    answer = await wired.call(wired.wire.failure("no such voice"))

    assert isinstance(answer, FailedByBackend)
    assert answer.error == "no such voice"


async def test_a_rejection_has_its_reason(wired: Wired) -> None:
    answer = await wired.call(wired.wire.rejection("no such voice"))

    assert isinstance(answer, Failed)
    assert answer.kind == "rejected"
    assert "no such voice" in answer.error


async def test_busy_is_not_an_error(wired: Wired) -> None:
    wire = wired.wire.busy()
    answer = await wired.call(wire)

    assert isinstance(answer, Busy)
    assert answer.retry_after == (timedelta(seconds=7) if "Retry-After" in wire.headers else None)


async def test_an_acceptance_has_the_servers_own_id(wired: Wired) -> None:
    if (wire := wired.wire.acceptance("b7")) is None:
        pytest.skip("the dialect has no callbacks")

    assert await wired.call(wire) == Accepted("b7")


@pytest.mark.parametrize("status", [408, 500, 502, 504])
async def test_an_error_of_the_server_is_tried_again(wired: Wired, status: int) -> None:
    answer = await wired.call(Wire(status, b"<html>", "text/html"))

    assert isinstance(answer, Failed)
    assert answer.kind == "error"


async def test_a_redirect_is_not_followed(wired: Wired) -> None:
    answer = await wired.call(Wire(307, headers={"Location": "/elsewhere"}))

    assert isinstance(answer, Failed)
    assert len(wired.server.received) == 1


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b"\xff", b"[" * 5000, b'{"data": "\\ud800"}'])
@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream", "application/x-ndjson"])
async def test_no_bytes_break_the_call(wired: Wired, body: bytes, content_type: str) -> None:
    answer = await wired.call(Wire(200, body, content_type))

    assert isinstance(answer, Completed | Failed | Accepted)


# Time, size, connections


async def test_an_answer_above_the_limit_is_a_bad_answer(wired: Wired) -> None:
    for wire in (endless, wired.wire.success("x" * MAX_RESULT)):
        answer = await wired.call(wire)
        assert isinstance(answer, Failed)
        assert (answer.kind, answer.error) == ("bad_answer", f"the answer is larger than {MAX_RESULT} bytes")


async def test_no_answer_in_time_is_a_timeout(wired: Wired) -> None:
    answer = await wired.call(silence, seconds=0.2)

    assert isinstance(answer, Failed)
    assert answer.kind == "timeout"
    assert not answer.is_neutral


async def test_a_timeout_while_progress_cannot_be_recorded_is_not_the_server_s(wired: Wired) -> None:
    answer = await wired.call(wired.stream("a", "b"), seconds=0.5, records=False)

    assert len(wired.updates) == 1
    assert isinstance(answer, Failed)
    assert (answer.kind, answer.is_neutral) == ("timeout", True)


def out_of_memory(*_: Any) -> Any:
    raise MemoryError


async def test_a_lack_of_memory_before_the_request_leaves_it_unsent(
    wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(client.dialect_of(wired.registered)), "predict", out_of_memory)

    assert isinstance(await wired.call(wired.wire.success(DATA)), Unsent)
    assert wired.server.received == []


@pytest.mark.parametrize("where", ["read_capped", "read_answer", "chunks"])
async def test_a_lack_of_memory_for_an_answer_fails_the_attempt_and_blames_no_server(
    wired: Wired, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    answer = wired.stream("a") if where == "chunks" else wired.wire.success(DATA)
    reader = type(client.dialect_of(wired.registered)) if where == "read_answer" else client
    monkeypatch.setattr(reader, where, out_of_memory)

    answered = await wired.call(answer)

    assert len(wired.server.received) == 1
    assert isinstance(answered, Failed)
    assert (answered.kind, answered.is_neutral) == ("error", True)


async def test_a_lack_of_memory_in_a_health_check_says_nothing_about_the_server(
    wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BackendClient, "_send", out_of_memory)

    assert (await wired.backend.probe(wired.registered)).is_ours


async def test_a_server_that_is_away_is_unreachable(wired: Wired) -> None:
    await wired.server.__aexit__()

    answer = await wired.call(silence)

    assert isinstance(answer, Failed)
    assert answer.kind == "unreachable"
    assert answer.is_unreached


async def test_a_call_that_is_cancelled_is_closed(wired: Wired) -> None:
    calling = asyncio.create_task(wired.call(silence))
    while not wired.server.received:
        await asyncio.sleep(0.01)

    calling.cancel()

    with pytest.raises(asyncio.CancelledError):
        await calling
    await asyncio.wait_for(wired.server.closed_early.wait(), 60)


# The stream


async def test_a_stream_yields_its_updates_then_its_end(wired: Wired) -> None:
    answer = await wired.call(wired.stream("It ", "was", data=DATA))

    assert [update.output for update in wired.updates] == ["It ", "was"]
    assert isinstance(answer, Completed)
    assert json.loads(answer.result)["data"] == DATA


async def test_a_stream_is_the_same_in_pieces(wired: Wired) -> None:
    body = b"".join((wire := wired.stream("It ", "was", data=DATA)).parts)
    pieces = [body[place : place + 7] for place in range(0, len(body), 7)]

    answer = await wired.call(replace(wire, parts=pieces))

    assert [update.output for update in wired.updates] == ["It ", "was"]
    assert isinstance(answer, Completed)


async def test_a_stream_may_end_with_a_failure(wired: Wired) -> None:
    answer = await wired.call(wired.stream("It ", failure="no such voice"))

    assert isinstance(answer, FailedByBackend)
    assert answer.error == "no such voice"


async def test_nothing_after_the_end_of_a_stream_counts(wired: Wired) -> None:
    wire = wired.stream("It", data=DATA)

    answer = await wired.call(replace(wire, parts=[*wire.parts, *wired.stream("late", failure="late").parts]))

    assert isinstance(answer, Completed)
    assert len(wired.updates) == 1


async def test_a_stream_that_does_not_end_is_no_success(wired: Wired) -> None:
    unended = wired.stream("It ", ends=False)

    for wire, kind in ((unended, "bad_answer"), (broken_off(unended), "unreachable")):
        answer = await wired.call(wire)
        assert isinstance(answer, Failed)
        assert answer.kind == kind


async def test_what_cannot_be_read_in_a_stream_is_named_by_its_place(wired: Wired) -> None:
    wire = wired.stream("It ", data=DATA)

    answer = await wired.call(replace(wire, parts=[wire.parts[0], b"data: {\n\n"]))

    assert isinstance(answer, Failed)
    assert answer.kind == "bad_answer"
    assert answer.error.startswith("part 2 of the streamed answer ")


async def test_progress_is_bounded_and_a_result_only_by_the_whole_answer(wired: Wired) -> None:
    large = "x" * LONGEST_PROGRESS

    progress = await wired.call(wired.stream(large, data=DATA))
    result = await wired.call(wired.stream(data=large))
    whole = await wired.call(wired.stream(*(["x" * 1_000] * 1_000), data=DATA))

    assert isinstance(progress, Failed)
    assert "is progress of more than" in progress.error
    assert isinstance(result, Completed)
    assert isinstance(whole, Failed)
    assert "larger than" in whole.error


# The model's key and the server's own


@pytest.mark.parametrize("key", [KEY, "key-of-the-server"])
async def test_a_key_that_a_server_echoes_is_removed(wired: Wired, key: str) -> None:
    answer = await wired.call(wired.wire.success({"said": key}))
    assert isinstance(answer, Completed)
    assert json.loads(answer.result)["data"] == {"said": "[key removed]"}


async def test_a_key_that_is_streamed_back_is_removed_however_it_is_cut(wired: Wired) -> None:
    body = b"".join((wire := wired.stream(f"using {KEY}", data={"said": KEY})).parts)

    answer = await wired.call(replace(wire, parts=[body[place : place + 5] for place in range(0, len(body), 5)]))

    assert [update.output for update in wired.updates] == ["using [key removed]"]
    assert isinstance(answer, Completed)
    assert json.loads(answer.result)["data"] == {"said": "[key removed]"}


# Health


async def test_health_is_read(wired: Wired) -> None:
    wired.server.answer = wired.wire.healthy()
    up = await wired.backend.probe(wired.registered)
    wired.server.answer = wired.wire.unhealthy()
    down = await wired.backend.probe(wired.registered)

    assert (up.well, down.well) == (True, False)
    assert up.latency_ms is not None
    assert down.reason


async def test_a_health_check_without_an_answer_is_not_well(wired: Wired) -> None:
    wired.server.answer = silence
    slow = await wired.backend.probe(wired.registered)
    await wired.server.__aexit__()
    away = await wired.backend.probe(wired.registered)

    assert (slow.well, slow.timed_out) == (False, True)
    assert (away.well, away.timed_out) == (False, False)


# A dialect that cancels by a request


class CancelsByRequest(Taskstream):
    def cancel(self, server: ServerRegistered, call: Call) -> Request:
        return Request(method="POST", url=server.predict_url + f"/{call.attempt}/cancel")


async def test_a_dialect_may_cancel_by_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    dialect: Dialect = CancelsByRequest()
    monkeypatch.setattr(client, "dialect_of", lambda _: dialect)
    async with WireServer() as server, EgressPolicy(allow_private=True).session() as session:
        wired = Wired(FIXTURES["taskstream"], server, BackendClient(session, MAX_RESULT, 1))
        calling = asyncio.create_task(wired.call(silence))
        while not server.received:
            await asyncio.sleep(0.01)
        server.answer = Wire(200)

        calling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await calling

    assert [(request.method, request.path) for request in server.received] == [
        ("POST", "/predict"),
        ("POST", "/predict/2/cancel"),
    ]
