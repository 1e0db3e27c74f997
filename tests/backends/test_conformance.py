"""Conformance suite: run for every dialect, through the real transport and a real connection."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import pkgutil
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from taskstream.backends import client, dialects, exchanges
from taskstream.backends.client import BackendClient
from taskstream.backends.dialects import DIALECTS
from taskstream.backends.dialects.dialect import (
    Accepted,
    Answer,
    BadAnswer,
    Busy,
    Call,
    Completed,
    Conversation,
    Dialect,
    Failed,
    FailedByBackend,
    Final,
    Next,
    Reply,
    Turn,
    Unsent,
    Update,
)
from taskstream.backends.egress import EgressPolicy
from taskstream.backends.exchanges import LONGEST_PROGRESS, CancelReport
from taskstream.events.server import ServerRegistered
from taskstream.events.task import CancelOutcome
from testkit.waiting import wait_until

from .wire_fixtures import FIXTURES, Answering, StreamWire, Wire, WireFixture
from .wire_server import WireServer, broken_off, endless, reset, silence

PAYLOAD = {"text": "It was a dark and stormy night."}
DATA = {"audio": "x", "seconds": 4}
KEY = 'sk-"secret\\1-of-alice'
MAX_RESULT = 1_000_000


def call_of(seconds: float = 10) -> Call:
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


class Wired:
    """A dialect, its wire fixture, and a server that answers with it."""

    def __init__(self, dialect: Dialect, fixture: WireFixture, server: WireServer, backend: BackendClient) -> None:
        self.dialect = dialect
        self.wire = fixture
        self.server = server
        self.backend = backend
        self.updates: list[Update] = []
        server.aside = fixture.aside

    @property
    def registered(self) -> ServerRegistered:
        return replace(self.wire.server(self.server.url), dialect=self.dialect.name)

    async def call(self, answer: Answering, seconds: float = 10, *, records: bool = True) -> Answer:
        """Return the outcome of a call with this answer. `records`: its progress can be recorded."""
        self.server.answer = answer

        async def on_update(update: Update) -> None:
            self.updates.append(update)
            if not records:
                await asyncio.Event().wait()

        return await self.backend.call(self.dialect, self.registered, call_of(seconds), on_update)

    async def cancelled(self, answer: Answering, is_running: Callable[[], bool]) -> CancelReport | None:
        """Return what comes of a call that is cancelled as soon as it runs."""
        self.server.answer = answer

        async def on_update(update: Update) -> None:
            self.updates.append(update)

        attempt = self.backend.begin(self.dialect, self.registered, call_of(60), on_update)
        running = asyncio.create_task(attempt.run())
        await wait_until(is_running, "the call")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return attempt.cancelled

    def stream(self, *output: str, **more: Any) -> StreamWire:
        """Return a streamed answer of the dialect, which must have one."""
        return offered(self.wire.stream(list(output), **more))


def offered(answer: Any) -> Any:
    """Return an answer of a fixture, which must have it."""
    assert answer is not None
    return answer


def where_there_is(find: Callable[[WireFixture], object]) -> pytest.MarkDecorator:
    """Run a test for those dialects only whose servers have an answer."""
    return pytest.mark.parametrize("wired", [name for name in sorted(DIALECTS) if find(FIXTURES[name])], indirect=True)


streamed = where_there_is(lambda wire: wire.stream(["It "], data=DATA))
failing_in_a_stream = where_there_is(lambda wire: wire.stream(["It "], failure="no such voice"))
cancelled_by_request = where_there_is(lambda wire: wire.cancels and wire.running())


@pytest.fixture(params=sorted(DIALECTS))
async def wired(request: pytest.FixtureRequest) -> AsyncIterator[Wired]:
    async with wired_with(DIALECTS[request.param], FIXTURES[request.param]) as found:
        yield found


@contextlib.asynccontextmanager
async def wired_with(dialect: Dialect, fixture: WireFixture) -> AsyncIterator[Wired]:
    policy = EgressPolicy(allow_private=True)
    async with WireServer() as server, policy.session() as session:
        yield Wired(dialect, fixture, server, BackendClient(session, MAX_RESULT, health_timeout_seconds=0.3))


def test_every_dialect_is_listed_and_has_a_fixture_and_its_own_name() -> None:
    for module in pkgutil.walk_packages(dialects.__path__, f"{dialects.__name__}."):
        importlib.import_module(module.name)
    written = {each for each in Dialect.__subclasses__() if each.__module__.startswith(dialects.__name__)}

    assert {type(dialect) for dialect in DIALECTS.values()} == written
    assert FIXTURES.keys() == DIALECTS.keys()
    assert all(dialect.name == name for name, dialect in DIALECTS.items())


# The request


async def test_the_payload_and_the_servers_key_arrive(wired: Wired) -> None:
    await wired.call(wired.wire.success(DATA))

    received = wired.server.received[0]
    assert wired.wire.payload(received.body) == PAYLOAD
    for request in (*wired.server.received, *wired.server.others):
        assert any("key-of-the-server" in value for value in request.headers.values())
        assert request.headers["Idempotency-Key"].startswith(call_of().task_id)


# The answer


async def test_a_success_is_a_task_result_with_its_data(wired: Wired) -> None:
    answer = await wired.call(wired.wire.success(DATA))

    assert isinstance(answer, Completed)
    result = json.loads(answer.result)
    assert wired.wire.data(result["data"]) == DATA
    assert result["metadata"]["status"] == "FINISHED"


@where_there_is(lambda wire: wire.failure("no such voice"))
async def test_a_failure_is_never_a_success_and_has_its_reason(wired: Wired) -> None:
    answer = await wired.call(offered(wired.wire.failure("no such voice")))

    assert isinstance(answer, FailedByBackend)
    assert answer.error == "no such voice"


async def test_a_rejection_has_its_reason(wired: Wired) -> None:
    answer = await wired.call(wired.wire.rejection("no such voice"))

    assert isinstance(answer, Failed)
    assert answer.kind == "rejected"
    assert "no such voice" in answer.error


async def test_busy_is_not_an_error(wired: Wired) -> None:
    answer = await wired.call(wired.wire.busy())

    pause = wired.wire.busy_pause
    assert isinstance(answer, Busy)
    assert answer.retry_after == (None if pause is None else timedelta(seconds=pause))


@where_there_is(lambda wire: wire.acceptance("b7"))
async def test_an_acceptance_has_the_servers_own_id(wired: Wired) -> None:
    assert await wired.call(offered(wired.wire.acceptance("b7"))) == Accepted("b7")


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


@streamed
async def test_a_timeout_while_progress_cannot_be_recorded_is_not_the_server_s(wired: Wired) -> None:
    answer = await wired.call(wired.stream("a", "b"), seconds=0.5, records=False)

    assert len(wired.updates) == 1
    assert isinstance(answer, Failed)
    assert (answer.kind, answer.is_neutral) == ("timeout", True)


def out_of_memory(*_: Any) -> Any:
    raise MemoryError


def conversation_of(wired: Wired) -> type[Conversation]:
    return type(wired.dialect.converse(wired.registered, call_of()))


async def test_a_lack_of_memory_before_the_request_leaves_it_unsent(
    wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation_of(wired), "begin", out_of_memory)

    assert isinstance(await wired.call(wired.wire.success(DATA)), Unsent)
    assert wired.server.received == []


@pytest.mark.parametrize("where", ["read_capped", "read"])
async def test_a_lack_of_memory_for_an_answer_fails_the_attempt_and_blames_no_server(
    wired: Wired, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(conversation_of(wired) if where == "read" else exchanges, where, out_of_memory)

    assert_blames_nobody(wired, await wired.call(wired.wire.success(DATA)))


@streamed
async def test_a_lack_of_memory_for_a_stream_fails_the_attempt_and_blames_no_server(
    wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges, "chunks", out_of_memory)

    assert_blames_nobody(wired, await wired.call(wired.stream("a")))


def assert_blames_nobody(wired: Wired, answer: Answer) -> None:
    assert len(wired.server.received) <= 1
    assert isinstance(answer, Failed)
    assert (answer.kind, answer.is_neutral) == ("error", True)


async def test_a_lack_of_memory_in_a_health_check_says_nothing_about_the_server(
    wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ask", out_of_memory)

    assert (await wired.backend.probe(wired.registered)).is_ours


async def test_a_server_that_is_away_is_unreachable(wired: Wired) -> None:
    await wired.server.__aexit__()

    answer = await wired.call(silence)

    assert isinstance(answer, Failed)
    assert answer.kind == "unreachable"
    assert answer.is_unreached


# Several requests


@where_there_is(lambda wire: wire.resumed(DATA))
async def test_an_attempt_goes_on_after_a_lost_connection_if_its_dialect_can(wired: Wired) -> None:
    answer = await wired.call(offered(wired.wire.resumed(DATA)))

    assert isinstance(answer, Completed)
    assert wired.wire.data(json.loads(answer.result)["data"]) == DATA


@where_there_is(lambda wire: wire.elsewhere("http://other"))
async def test_no_answer_sends_a_request_to_another_server(wired: Wired) -> None:
    async with WireServer() as other:
        answer = await wired.call(offered(wired.wire.elsewhere(other.url)))

        assert isinstance(answer, Failed)
        assert answer.kind == "bad_answer"
        assert other.received == []


async def test_a_connection_that_is_always_lost_is_no_success(wired: Wired) -> None:
    answer = await wired.call(reset, seconds=2)

    assert isinstance(answer, Failed)
    assert answer.kind in ("unreachable", "timeout")


# Cancellation


async def test_a_call_that_is_cancelled_is_closed_and_reports_what_came_of_it(wired: Wired) -> None:
    report = await wired.cancelled(silence, lambda: bool(wired.server.received))

    await asyncio.wait_for(wired.server.closed_early.wait(), 60)
    assert report is not None
    assert report.outcome == wired.wire.cancelled_unanswered
    assert report.detail


async def test_a_call_that_is_cancelled_before_its_request_has_stopped(wired: Wired) -> None:
    async def on_update(_: Update) -> None:
        raise AssertionError

    attempt = wired.backend.begin(wired.dialect, wired.registered, call_of(), on_update)
    running = asyncio.create_task(attempt.run())
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert wired.server.received == []


@cancelled_by_request
async def test_the_answer_to_a_cancellation_says_what_came_of_it(wired: Wired) -> None:
    fixture = wired.wire
    for wire, outcome in fixture.cancels:
        wired.updates.clear()
        wired.server.others.clear()
        wired.server.aside = lambda request, wire=wire: wire if fixture.is_cancel(request) else fixture.aside(request)

        report = await wired.cancelled(offered(fixture.running()), lambda: bool(wired.updates))

        assert report is not None
        assert report.outcome == outcome, wire
        assert any(map(fixture.is_cancel, wired.server.others))


@cancelled_by_request
async def test_a_cancellation_that_is_not_answered_is_unconfirmed(
    wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges, "CANCEL_SECONDS", 0.2)
    fixture = wired.wire
    for answer in (silence, reset, endless):
        wired.updates.clear()
        wired.server.aside = lambda request, answer=answer: (
            answer if fixture.is_cancel(request) else fixture.aside(request)
        )

        report = await wired.cancelled(offered(fixture.running()), lambda: bool(wired.updates))

        assert report is not None
        assert report.outcome == "unconfirmed"


# The stream


@streamed
async def test_a_stream_yields_its_updates_then_its_end(wired: Wired) -> None:
    answer = await wired.call(wired.stream("It ", "was", data=DATA))

    assert [update.output for update in wired.updates] == ["It ", "was"]
    assert isinstance(answer, Completed)
    assert wired.wire.data(json.loads(answer.result)["data"]) == DATA


@streamed
async def test_a_stream_is_the_same_in_pieces(wired: Wired) -> None:
    body = b"".join((wire := wired.stream("It ", "was", data=DATA)).parts)
    pieces = [body[place : place + 7] for place in range(0, len(body), 7)]

    answer = await wired.call(replace(wire, parts=pieces))

    assert [update.output for update in wired.updates] == ["It ", "was"]
    assert isinstance(answer, Completed)


@failing_in_a_stream
async def test_a_stream_may_end_with_a_failure(wired: Wired) -> None:
    answer = await wired.call(wired.stream("It ", failure="no such voice"))

    assert isinstance(answer, FailedByBackend)
    assert answer.error == "no such voice"


@failing_in_a_stream
async def test_nothing_after_the_end_of_a_stream_counts(wired: Wired) -> None:
    wire = wired.stream("It", data=DATA)

    answer = await wired.call(replace(wire, parts=[*wire.parts, *wired.stream("late", failure="late").parts]))

    assert isinstance(answer, Completed)
    assert len(wired.updates) == 1


@streamed
async def test_a_stream_that_does_not_end_is_no_success(wired: Wired) -> None:
    unended = wired.stream("It ", ends=False)

    for wire, kind in ((unended, "bad_answer"), (broken_off(unended), "unreachable")):
        answer = await wired.call(wire)
        assert isinstance(answer, Failed)
        assert answer.kind == kind


@streamed
async def test_what_cannot_be_read_in_a_stream_is_named_by_its_place(wired: Wired) -> None:
    wire = wired.stream("It ", data=DATA)

    answer = await wired.call(replace(wire, parts=[wire.parts[0], b"data: {\n\n"]))

    assert isinstance(answer, Failed)
    assert answer.kind == "bad_answer"
    assert answer.error.startswith("part 2 of the streamed answer ")


@streamed
async def test_progress_is_bounded_and_a_result_only_by_the_whole_answer(wired: Wired) -> None:
    large = "x" * LONGEST_PROGRESS

    progress = await wired.call(wired.stream(large, data=DATA))
    result = await wired.call(wired.stream(data=large))
    whole = await wired.call(wired.stream(*(["x" * 1_000] * 1_000), data=DATA))

    if wired.wire.leaves_out_large_progress:
        assert isinstance(progress, Completed)
        assert [(update.output, len(update.notes)) for update in wired.updates[:1]] == [("", 1)]
    else:
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
    assert wired.wire.data(json.loads(answer.result)["data"]) == {"said": "[key removed]"}


@streamed
async def test_a_key_that_is_streamed_back_is_removed_however_it_is_cut(wired: Wired) -> None:
    body = b"".join((wire := wired.stream(f"using {KEY}", data={"said": KEY})).parts)

    answer = await wired.call(replace(wire, parts=[body[place : place + 5] for place in range(0, len(body), 5)]))

    assert [update.output for update in wired.updates] == ["using [key removed]"]
    assert isinstance(answer, Completed)
    assert wired.wire.data(json.loads(answer.result)["data"]) == {"said": "[key removed]"}


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


# Whatever a server says


STATUSES = [200, 202, 204, 301, 400, 404, 409, 422, 429, 500, 503]
OUTCOMES = get_args(CancelOutcome)
WORDS = st.sampled_from(
    ["status", "metadata", "data", "output", "error", "id", "task_id", "urls", "outputs", "choices", "logs", "usage"]
)
"""Fields that dialects look at."""
EVENTS = ["start", "output", "log", "metric", "completed", "error"]
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Content-Type": st.sampled_from(
            ["application/json", "text/event-stream", "text/plain", "image/png", "application/x-ndjson", ""]
        ),
        "Location": st.text(max_size=20),
        "Retry-After": st.sampled_from(["1", "soon"]),
    },
)
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
bodies = st.binary(max_size=200) | junk.map(lambda content: json.dumps(content).encode())
replies = st.builds(Reply, status=st.sampled_from(STATUSES) | st.integers(100, 999), headers=HEADERS, body=bodies)


def is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def assert_is_understood(turn: Turn, reply: Reply) -> None:
    """Raise AssertionError for a success that the reply cannot mean."""
    answer = turn.answer if isinstance(turn, Final) else turn
    assert isinstance(answer, Completed | FailedByBackend | Accepted | Busy | Failed | Next)
    if isinstance(answer, Completed):
        assert 200 <= reply.status < 300
        assert reply.headers.get("Content-Type") != "application/json" or not reply.body or is_json(reply.body)


@pytest.mark.parametrize("name", sorted(DIALECTS))
@given(st.lists(replies, min_size=1, max_size=4))
def test_no_answers_break_a_conversation_and_what_is_not_understood_is_no_success(name: str, said: list[Reply]) -> None:
    conversation = DIALECTS[name].converse(FIXTURES[name].server("http://s1"), call_of())
    conversation.begin()

    for reply in said:
        turn = conversation.read(reply)
        assert_is_understood(turn, reply)
        if not isinstance(turn, Next):
            return


@pytest.mark.parametrize("name", sorted(DIALECTS))
@given(
    st.sampled_from(STATUSES),
    HEADERS,
    st.lists(st.tuples(bodies, st.sampled_from(["", *EVENTS]) | st.text(max_size=5)), max_size=4),
)
def test_no_streamed_text_breaks_a_conversation(
    name: str, status: int, headers: dict[str, str], texts: list[tuple[bytes, str]]
) -> None:
    conversation = DIALECTS[name].converse(FIXTURES[name].server("http://s1"), call_of())
    conversation.begin()
    if (reader := conversation.open_stream(status, headers)) is None:
        return

    for text, event in texts:
        with contextlib.suppress(BadAnswer):
            found = reader.read(text, 5, event)
            answer = found.answer if isinstance(found, Final) else found
            assert answer is None or isinstance(answer, Update | Completed | FailedByBackend | Accepted | Busy | Failed)
            assert not isinstance(answer, Completed) or is_json(text) or text == b"[DONE]"
    assert isinstance(reader.end(), Completed | FailedByBackend | Failed | Busy | Next | Final)


@pytest.mark.parametrize("name", sorted(DIALECTS))
@given(st.lists(replies, max_size=3), st.lists(replies, min_size=1, max_size=3))
def test_no_answers_to_a_cancellation_break_it_and_an_error_confirms_nothing(
    name: str, said: list[Reply], to_cancel: list[Reply]
) -> None:
    conversation = DIALECTS[name].converse(FIXTURES[name].server("http://s1"), call_of())
    conversation.begin()
    for reply in said:
        conversation.read(reply)

    if conversation.cancel() is None:
        assert isinstance(conversation.read_cancel(None), Next) or conversation.read_cancel(None) in OUTCOMES
    for reply in to_cancel:
        found = conversation.read_cancel(reply)
        assert isinstance(found, Next) or found in OUTCOMES
        assert found != "confirmed" or reply.status < 500


@pytest.mark.parametrize("name", sorted(DIALECTS))
@given(st.integers(100, 999), bodies)
def test_no_health_answer_breaks_a_check_and_only_a_2xx_is_well(name: str, status: int, body: bytes) -> None:
    probe = DIALECTS[name].read_health(status, body)

    assert not probe.well or 200 <= status < 300
    assert probe.reason
