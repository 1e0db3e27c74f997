"""The requests of one attempt: their order, pauses, bounds and headers, with a dialect that does as a test says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import timedelta

import pytest
from aiohttp import web
from msgspec import Raw
from msgspec.structs import replace

from taskstream.backends import exchanges
from taskstream.backends.dialects.dialect import (
    Answer,
    Call,
    Completed,
    Conversation,
    Failed,
    Final,
    Next,
    Reply,
    Request,
    StreamReader,
    Turn,
    Update,
)
from taskstream.backends.dialects.taskstream import Taskstream
from taskstream.backends.exchanges import LONGEST_PROGRESS, LONGEST_URL, QUICK_REQUESTS, bounded, is_at
from taskstream.events.server import ServerRegistered
from taskstream.events.task import CancelOutcome

from .test_conformance import Wired, call_of, wired_with
from .wire_fixtures import FIXTURES, StreamWire, Wire
from .wire_server import answered, reset, silence

DONE = Completed(b"{}")


class Scripted(Conversation):
    """Asks for `/1`, `/2` and so on, until the script ends it."""

    def __init__(self, dialect: ScriptedDialect, url: str) -> None:
        self.url = url
        self.dialect = dialect
        self.turns = 0

    @property
    def mark(self) -> str:
        return self.dialect.mark

    def at(self, path: str) -> Request:
        return Request(method="GET", url=path if "://" in path else self.url + path)

    def begin(self) -> Request | Failed:
        return self.dialect.refused or self.at(self.dialect.first)

    def read(self, reply: Reply) -> Turn:
        self.dialect.replies.append(reply)
        self.turns += 1
        return self.dialect.follow(self)

    def open_stream(self, status: int, headers: Mapping[str, str]) -> StreamReader | None:
        return Named(self.dialect.names)

    def lost(self, failure: Failed) -> Turn:
        self.turns += 1
        return self.dialect.after_loss(self, failure)

    def cancel(self) -> Request | None:
        return self.at("/cancel") if self.dialect.cancels else None

    def read_cancel(self, reply: Reply | None) -> CancelOutcome | Next:
        return self.dialect.after_cancel(self, reply)


class Named(StreamReader):
    """Keeps the names of the events."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def read(self, text: bytes, elapsed_ms: int, event: str) -> Update | Answer | Final | None:
        self.names.append(event)
        return Final(update=Update(output="last"), answer=DONE) if text == b"end" else None

    def end(self) -> Turn:
        return Failed(kind="bad_answer", error="ended")


class ScriptedDialect(Taskstream):
    name = "scripted"

    def __init__(self) -> None:
        self.first = "/0"
        self.mark = ""
        self.refused: Failed | None = None
        self.replies: list[Reply] = []
        self.names: list[str] = []
        self.cancels = True
        self.follow: Callable[[Scripted], Turn] = lambda _: DONE
        self.after_loss: Callable[[Scripted, Failed], Turn] = lambda _, failure: failure
        self.after_cancel: Callable[[Scripted, Reply | None], CancelOutcome | Next] = lambda _, reply: "confirmed"

    def converse(self, server: ServerRegistered, call: Call) -> Conversation:
        return Scripted(self, server.predict_url)


@pytest.fixture
def dialect() -> ScriptedDialect:
    return ScriptedDialect()


@pytest.fixture
async def wired(dialect: ScriptedDialect) -> AsyncIterator[Wired]:
    async with wired_with(dialect, FIXTURES["taskstream"]) as found:
        yield found


def paths(wired: Wired) -> list[str]:
    return [request.path.removeprefix("/predict") for request in wired.server.received]


# Requests


async def test_further_requests_have_the_headers_of_the_attempt(wired: Wired, dialect: ScriptedDialect) -> None:
    dialect.follow = lambda said: Next(request=said.at("/1")) if said.turns == 1 else DONE

    assert await wired.call(Wire(200)) == DONE

    assert paths(wired) == ["/0", "/1"]
    key = f"{call_of().task_id}.2"
    assert [request.headers["Idempotency-Key"] for request in wired.server.received] == [key, f"{key}.2"]
    assert all("Content-Length" not in request.headers for request in wired.server.received)


@pytest.mark.parametrize(
    ("mark", "body", "is_kept"),
    [
        ("", call_of().task_id, True),
        ("", "mine", False),
        ("mine", "this is mine", True),
        ("mine", call_of().task_id, False),
    ],
)
async def test_a_connection_is_kept_by_an_answer_with_the_mark_of_its_attempt(
    wired: Wired, dialect: ScriptedDialect, mark: str, body: str, is_kept: bool
) -> None:
    dialect.mark = mark
    dialect.follow = lambda said: Next(request=said.at("/1")) if said.turns == 1 else DONE

    await wired.call(Wire(200, body.encode()))

    first, second = wired.server.received
    assert (first.connection is second.connection) == is_kept


async def test_progress_is_reported_before_the_next_request_and_before_the_end(
    wired: Wired, dialect: ScriptedDialect
) -> None:
    seen: list[int] = []

    def follow(said: Scripted) -> Turn:
        seen.append(len(wired.updates))
        if said.turns == 1:
            return Next(request=said.at("/1"), update=Update(progress=50))
        return Final(update=Update(output="x"), answer=DONE)

    dialect.follow = follow

    assert await wired.call(Wire(200)) == DONE
    assert seen == [0, 1]
    assert wired.updates == [Update(progress=50), Update(output="x")]


async def test_only_a_few_requests_come_without_a_pause(
    wired: Wired, dialect: ScriptedDialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges, "SHORTEST_PAUSE", 3600)
    dialect.follow = lambda said: Next(request=said.at("/again"))

    answer = await wired.call(Wire(200), seconds=2)

    assert isinstance(answer, Failed)
    assert answer.kind == "timeout"
    assert paths(wired) == ["/0", *["/again"] * (QUICK_REQUESTS - 1), "/cancel"]


async def test_a_payload_that_cannot_be_sent_ends_the_attempt_without_a_request(
    wired: Wired, dialect: ScriptedDialect
) -> None:
    dialect.refused = Failed(kind="rejected", error="no object")

    assert await wired.call(Wire(200)) is dialect.refused
    assert wired.server.received == []


async def test_a_pause_counts_towards_the_time_of_the_attempt(wired: Wired, dialect: ScriptedDialect) -> None:
    dialect.follow = lambda said: Next(request=said.at("/1"), after=timedelta(hours=1))

    answer = await wired.call(Wire(200), seconds=0.3)

    assert isinstance(answer, Failed)
    assert answer.kind == "timeout"


@pytest.mark.parametrize("is_first", [True, False])
async def test_no_request_goes_to_another_origin(wired: Wired, dialect: ScriptedDialect, is_first: bool) -> None:
    elsewhere = "http://127.0.0.1:9/x"
    if is_first:
        dialect.first = elsewhere
    dialect.follow = lambda said: Next(request=said.at(elsewhere))

    answer = await wired.call(Wire(200))

    assert isinstance(answer, Failed)
    assert answer.kind == "bad_answer"
    assert "another server" in answer.error
    assert len(wired.server.received) == (0 if is_first else 1)


@pytest.mark.parametrize(
    ("url", "is_same"),
    [
        ("http://gpu:8000/predict", True),
        ("http://gpu:8000/other?x=1", True),
        ("http://GPU:8000/", True),
        ("http://gpu:8001/predict", False),
        ("https://gpu:8000/predict", False),
        ("http://gpu/predict", False),
        ("http://gpu:8000@evil.example/predict", False),
        ("http://me:key@gpu:8000/predict", False),
        ("http://gpu:8000.evil.example/", False),
        ("//gpu:8000/predict", False),
        ("/predict", False),
        ("", False),
        ("http://gpu:x/", False),
        ("http://[", False),
        ("http://gpu:8000/" + "x" * LONGEST_URL, False),
    ],
)
def test_an_address_is_of_the_registered_server_by_scheme_host_port_and_user(url: str, is_same: bool) -> None:
    assert is_at("http://gpu:8000/predict", url) == is_same


# Connections that are lost


async def test_an_answer_that_takes_longer_than_its_request_allows_is_lost(
    wired: Wired, dialect: ScriptedDialect
) -> None:
    dialect.follow = lambda talk: Next(request=replace(talk.at("/1"), within=timedelta(seconds=0.1)))
    dialect.after_loss = lambda _, failure: failure
    answers = iter([Wire(200), silence])

    async def respond(request: web.Request) -> web.StreamResponse:
        return await answered(request, next(answers))

    answer = await wired.call(respond)

    assert isinstance(answer, Failed)
    assert (answer.kind, answer.error) == ("unreachable", "the server did not answer in time")


async def test_a_lost_connection_may_lead_to_a_further_request(wired: Wired, dialect: ScriptedDialect) -> None:
    failures: list[Failed] = []

    def again(said: Scripted, failure: Failed) -> Turn:
        failures.append(failure)
        wired.server.answer = Wire(200)
        return Next(request=said.at("/again"))

    dialect.after_loss = again

    assert await wired.call(reset) == DONE
    assert [failure.kind for failure in failures] == ["unreachable"]
    assert paths(wired) == ["/0", "/again"]


# Streams


async def test_a_stream_reader_gets_the_names_of_the_events(wired: Wired, dialect: ScriptedDialect) -> None:
    body = (
        b": hello\nevent: log\ndata: x\n\ndata: y\n\nevent: nothing\n\nevent:"
        + b"n" * 100
        + b"\ndata: z\n\ndata: end\n\n"
    )

    assert await wired.call(StreamWire("text/event-stream", [body])) == DONE
    assert dialect.names == ["log", "", "n" * 64, ""]
    assert wired.updates == [Update(output="last")]


# Cancellation


async def test_a_cancellation_is_a_request_with_the_headers_of_the_attempt(
    wired: Wired, dialect: ScriptedDialect
) -> None:
    report = await wired.cancelled(_only_cancel(Wire(200, b'{"detail": "stopped"}')), lambda: bool(paths(wired)))

    assert report == ("confirmed", "the server answered 200: stopped")
    assert paths(wired) == ["/0", "/cancel"]
    assert wired.server.received[1].headers["Idempotency-Key"] == f"{call_of().task_id}.2.2"


async def test_a_cancellation_may_look_until_the_work_has_stopped(wired: Wired, dialect: ScriptedDialect) -> None:
    dialect.cancels = False
    looks = 0

    def look(said: Scripted, reply: Reply | None) -> CancelOutcome | Next:
        nonlocal looks
        looks += 1
        return Next(request=said.at("/slot")) if looks < 4 else "confirmed"

    dialect.after_cancel = look

    report = await wired.cancelled(_only_cancel(Wire(200)), lambda: bool(paths(wired)))

    assert report is not None
    assert report.outcome == "confirmed"
    assert paths(wired) == ["/0", "/slot", "/slot", "/slot"]


async def test_a_cancellation_that_never_stops_looking_is_unconfirmed(
    wired: Wired, dialect: ScriptedDialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges, "CANCEL_SECONDS", 0.5)
    dialect.after_cancel = lambda said, _: Next(request=said.at("/slot"))

    report = await wired.cancelled(_only_cancel(Wire(200)), lambda: bool(paths(wired)))

    assert report == ("unconfirmed", "the server did not say that it stopped in 0.5 s")


async def test_a_cancellation_pauses_before_each_further_request(
    wired: Wired, dialect: ScriptedDialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges, "SHORTEST_PAUSE", 3600)
    monkeypatch.setattr(exchanges, "CANCEL_SECONDS", 0.5)
    dialect.after_cancel = lambda said, _: Next(request=said.at("/slot"))

    await wired.cancelled(_only_cancel(Wire(200)), lambda: bool(paths(wired)))

    assert paths(wired) == ["/0", "/cancel"]


async def test_no_cancellation_goes_to_another_origin(wired: Wired, dialect: ScriptedDialect) -> None:
    dialect.after_cancel = lambda said, _: Next(request=said.at("http://127.0.0.1:9/cancel"))

    report = await wired.cancelled(_only_cancel(Wire(200)), lambda: bool(paths(wired)))

    assert report is not None
    assert report.outcome == "unconfirmed"
    assert "another server" in report.detail


async def test_an_attempt_out_of_time_is_cancelled_at_its_server(wired: Wired, dialect: ScriptedDialect) -> None:
    answer = await wired.call(_only_cancel(Wire(200)), seconds=0.3)

    assert isinstance(answer, Failed)
    assert answer.kind == "timeout"
    assert paths(wired) == ["/0", "/cancel"]


def _only_cancel(wire: Wire) -> Callable[[web.Request], object]:
    """Return a behaviour that never answers the first request, and any other with this."""

    async def respond(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/0"):
            return await silence(request)
        return web.Response(status=wire.status, body=wire.body, content_type=wire.content_type)

    return respond


# Updates


@pytest.mark.parametrize(
    "large",
    [
        Update(output="x" * (LONGEST_PROGRESS + 1)),
        Update(output="ü" * (LONGEST_PROGRESS // 2 + 1)),
        Update(lines=("x" * 1000,) * 300),
        Update(custom_data=Raw(json.dumps("x" * LONGEST_PROGRESS).encode())),
        Update(data=Raw(json.dumps("x" * LONGEST_PROGRESS).encode())),
        Update(message="x" * (LONGEST_PROGRESS + 1)),
    ],
    ids=["output", "bytes", "lines", "custom_data", "data", "message"],
)
def test_of_progress_that_is_too_large_only_the_percentage_is_kept(large: Update) -> None:
    found = bounded(Update(progress=7, **{name: getattr(large, name) for name in large.__struct_fields__[1:]}))

    assert found == Update(progress=7, notes=(f"progress of more than {LONGEST_PROGRESS} bytes was left out",))


def test_progress_within_the_bound_is_kept() -> None:
    update = Update(progress=7, output="x" * (LONGEST_PROGRESS - 100))

    assert bounded(update) is update
