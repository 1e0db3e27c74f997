"""A connection belongs to one exchange: what arrives before the next request is not its answer."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import pytest
import uvloop
from aiohttp.client_proto import ResponseHandler
from hypothesis import given
from hypothesis import strategies as st

from taskstream.wire import connections
from taskstream.wire.body_limit import read_capped
from taskstream.wire.connections import (
    ALONE,
    MOST_INFORMATIONAL,
    ExchangeConnector,
    Received,
    UnaskedAnswer,
    doubt,
    is_certain,
    keep,
    open_session,
)
from testkit.certificates import Authority
from testkit.raw_server import RawRequest, RawServer, answer
from testkit.waiting import wait_until

STRAY = answer(b"of another request")
BODY = 6 * b"0123456789"


class Asking:
    """The methods of a session that the tests use, made of `ask`."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @contextlib.asynccontextmanager
    async def post(self, url: str, data: bytes = b"", headers: Mapping[str, str] = {}) -> AsyncIterator[Any]:
        async with await connections.ask(self._session, "POST", url, headers, data) as received:
            response: Any = received
            response.read = lambda: read_capped(received, 10_000_000)
            response.text = lambda: self._text(received)
            yield response

    async def get(self, url: str) -> Received:
        return await connections.ask(self._session, "GET", url, {}, b"")

    async def _text(self, received: Received) -> str:
        return (await read_capped(received, 10_000_000)).decode()


Opened: TypeAlias = Callable[..., AbstractAsyncContextManager[aiohttp.ClientSession]]


@contextlib.asynccontextmanager
async def _asking(connector: ExchangeConnector | None = None) -> AsyncIterator[Any]:
    async with open_session(connector) as session:
        yield Asking(session)


@pytest.fixture(params=[open_session, _asking], ids=["session", "ask"])
def opened(request: pytest.FixtureRequest) -> Opened:
    found: Opened = request.param
    return found


@pytest.fixture
async def session(opened: Opened) -> AsyncIterator[aiohttp.ClientSession]:
    async with opened() as session:
        yield session


def echo(request: RawRequest) -> bytes:
    """Answer with the body of the request."""
    return answer(request.body)


async def ask(session: aiohttp.ClientSession, server: RawServer, text: str = "", **options: Any) -> str:
    """Return the body of an answer, and keep the connection."""
    async with session.post(server.url, data=text.encode(), **options) as response:
        body = await response.text()
        keep(response)
    return body


async def answers_are_own(session: aiohttp.ClientSession, server: RawServer) -> None:
    """Make three exchanges one after another, and three at once."""
    for text in ("one", "two", "three"):
        assert await ask(session, server, text) == text
    texts = ["four", "five", "six"]
    assert await asyncio.gather(*(ask(session, server, text) for text in texts)) == texts


# What is kept


async def test_a_connection_is_used_again_once_its_answer_is_known_to_be_its_own(
    session: aiohttp.ClientSession,
) -> None:
    async with RawServer(echo) as server:
        for text in ("one", "two", "three"):
            assert await ask(session, server, text) == text
        assert [request.nth for request in server.requests] == [1, 2, 3]


async def test_a_connection_of_which_nobody_said_so_is_closed(session: aiohttp.ClientSession) -> None:
    async with RawServer(echo) as server:
        for _ in range(2):
            async with session.post(server.url, data=b"x") as response:
                assert await response.read() == b"x"
                assert is_certain(response)
        await wait_until(lambda: not any(each.is_open for each in server.connections), "the connections to close")
        assert [request.nth for request in server.requests] == [1, 1]


async def test_a_request_alone_takes_no_kept_connection_and_leaves_none(session: aiohttp.ClientSession) -> None:
    async with RawServer(echo) as server:
        await ask(session, server)
        await ask(session, server, headers=ALONE)
        await ask(session, server)
        await ask(session, server, headers=ALONE)
        await wait_until(lambda: [each.is_open for each in server.connections] == [True, False, False], "closed ones")
        assert [request.nth for request in server.requests] == [1, 1, 2, 1]


@pytest.mark.parametrize(("seconds", "nth"), [(600.0, [1, 1, 1, 1]), (0.0, [1, 1, 2, 3])])
async def test_after_a_stray_answer_each_request_gets_a_new_connection_for_a_while(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, seconds: float, nth: list[int]
) -> None:
    monkeypatch.setattr(connections, "DISTRUST_SECONDS", seconds)
    async with RawServer(echo) as server, RawServer(echo) as other:
        await ask(session, server)
        server.connections[0].send(STRAY)
        await wait_until(lambda: not server.connections[0].is_open, "the connection to close")
        for _ in range(3):
            await ask(session, server)
            await ask(session, other)
        assert [request.nth for request in server.requests] == nth
        assert len(other.connections) == 1


async def test_after_a_doubt_likewise_and_so_many_origins_are_remembered(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_DISTRUSTED", 2)
    async with RawServer(echo) as first, RawServer(echo) as second, RawServer(echo) as third:
        for server in (first, second, second, third):
            async with session.post(server.url) as response:
                doubt(response)
        for server in (first, second, third):
            await ask(session, server)
            await ask(session, server)
        assert [len(server.connections) for server in (first, second, third)] == [2, 4, 3]


# What arrives while nothing is asked


STRAYS = {
    "answer": STRAY,
    "two answers": 2 * STRAY,
    "part of one": STRAY[:7],
    "100": b"HTTP/1.1 100 Continue\r\n\r\n",
    "408": b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    "line end": b"\r\n",
    "no HTTP": b"no HTTP",
}


@pytest.mark.parametrize("stray", STRAYS)
@pytest.mark.parametrize("is_read", [True, False], ids=["read", "in the socket"])
async def test_what_arrives_between_two_exchanges_is_nobodys(
    session: aiohttp.ClientSession, stray: str, is_read: bool
) -> None:
    async with RawServer(echo) as server:
        for text in ("one", "two", "three"):
            assert await ask(session, server, text) == text
            server.connections[-1].send(STRAYS[stray])
            if is_read:
                await wait_until(lambda: not server.connections[-1].is_open, "the connection to close")
        await answers_are_own(session, server)


@pytest.mark.parametrize("stray", sorted(STRAYS.keys() - {"no HTTP"}))  # with that, the answer is broken as a whole
async def test_what_arrives_together_with_an_answer_is_nobodys(session: aiohttp.ClientSession, stray: str) -> None:
    async with RawServer(lambda request: echo(request) + STRAYS[stray]) as server:
        await answers_are_own(session, server)
        server.respond = echo
        await answers_are_own(session, server)


async def test_a_connection_that_the_server_has_closed_is_not_used(session: aiohttp.ClientSession) -> None:
    async with RawServer(echo) as server:
        for text in ("one", "two", "three"):
            assert await ask(session, server, text) == text
            server.connections[-1].end()


async def test_an_answer_before_the_first_byte_of_a_request_is_not_its_answer(
    session: aiohttp.ClientSession,
) -> None:
    async with RawServer(echo) as server:
        server.banner = STRAY
        with pytest.raises(UnaskedAnswer):
            await ask(session, server, "one")
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(server.url)
        assert server.requests == []


async def test_a_request_that_was_given_a_connection_writes_nothing_if_data_comes_first(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RawServer(echo) as server:
        await ask(session, server)
        prepare = connections._Exchange.prepare

        def prepare_late(exchange: Any, url: Any, *, alone: bool) -> None:
            prepare(exchange, url, alone=alone)
            server.connections[0].send(STRAY)  # between the choice of the connection and the first byte

        monkeypatch.setattr(connections._Exchange, "prepare", prepare_late)
        with pytest.raises(UnaskedAnswer):
            await ask(session, server, "one")
        assert len(server.requests) == 1


# Ends of exchanges


async def test_what_is_longer_than_its_content_length_spoils_no_other_answer(
    session: aiohttp.ClientSession,
) -> None:
    def cut(request: RawRequest) -> bytes:
        return answer(request.body[:2]) + (request.body[2:] if request.nth > 1 else b"")

    async with RawServer(cut) as server:
        for text in ("one", "two", "three"):
            async with session.post(server.url, data=text.encode()) as response:
                assert await response.text() == text[:2]
                keep(response)
            server.connections[-1].send(text[2:].encode())


async def test_a_204_has_no_body_whatever_follows(session: aiohttp.ClientSession) -> None:
    async with RawServer(lambda _: b"HTTP/1.1 204 No Content\r\n\r\n" + STRAY) as server:
        for _ in range(3):
            assert await ask(session, server) == ""
        server.respond = echo
        await answers_are_own(session, server)


async def test_early_hints_belong_to_their_answer(session: aiohttp.ClientSession) -> None:
    hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    async with RawServer(lambda request: hints + echo(request)) as server:
        await answers_are_own(session, server)
        assert len(server.connections) == 3


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the statuses of all answers that aiohttp keeps until they are read."""
    statuses: list[int] = []
    feed_data = ResponseHandler.feed_data

    def note(exchange: ResponseHandler, data: Any, size: int = 0) -> None:
        statuses.append(data[0].code)
        feed_data(exchange, data, size)

    monkeypatch.setattr(ResponseHandler, "feed_data", note)
    return statuses


INFORMATIONAL = [b"HTTP/1.1 102 Processing\r\n\r\n", b"HTTP/1.1 100 Continue\r\nA: b\r\n\r\n"]


async def test_each_exchange_may_have_so_many_informational_answers(
    session: aiohttp.ClientSession, handed_over: list[int]
) -> None:
    async with RawServer(lambda request: MOST_INFORMATIONAL * INFORMATIONAL[0] + echo(request)) as server:
        await answers_are_own(session, server)
        assert len(server.connections) == 3
    assert handed_over == 6 * [*MOST_INFORMATIONAL * [102], 200]


@pytest.mark.parametrize("one", INFORMATIONAL)
async def test_more_informational_answers_end_the_exchange_though_an_answer_follows(
    session: aiohttp.ClientSession, handed_over: list[int], one: bytes
) -> None:
    async with RawServer(lambda request: (MOST_INFORMATIONAL + 1) * one + echo(request)) as server:
        with pytest.raises(aiohttp.ClientResponseError, match="more than 1000 informational answers"):
            await ask(session, server, "one")
        await wait_until(lambda: not server.connections[0].is_open, "the connection to close")
        assert len(handed_over) == MOST_INFORMATIONAL
        server.respond = echo
        await answers_are_own(session, server)


async def test_informational_answers_without_end_are_counted_across_reads(
    session: aiohttp.ClientSession, handed_over: list[int]
) -> None:
    async with RawServer(lambda _: b"") as server:
        asking = asyncio.create_task(ask(session, server))
        await wait_until(lambda: server.requests, "the request")
        while not asking.done():
            server.connections[0].send(7 * INFORMATIONAL[0])
            await asyncio.sleep(0)
        with pytest.raises(aiohttp.ClientResponseError, match="more than 1000 informational answers"):
            await asking
    assert handed_over == MOST_INFORMATIONAL * [102]


async def test_of_many_answers_at_once_the_first_counts_and_few_are_kept(
    session: aiohttp.ClientSession, handed_over: list[int]
) -> None:
    async with RawServer(lambda request: echo(request) + 3 * MOST_INFORMATIONAL * STRAY) as server:
        await answers_are_own(session, server)
        assert len(handed_over) <= len(server.requests) * (MOST_INFORMATIONAL + 1)


async def test_an_upgrade_that_was_not_asked_for_ends_its_connection(session: aiohttp.ClientSession) -> None:
    async with RawServer(
        lambda _: b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    ) as server:
        async with session.post(server.url, data=b"x") as response:
            assert response.status == 101
        server.respond = echo
        await answers_are_own(session, server)
        assert server.requests[1].nth == 1


@pytest.mark.parametrize("size", [20, 1_000_000])
async def test_an_answer_before_the_whole_request_ends_its_connection(
    session: aiohttp.ClientSession, size: int
) -> None:
    """The server takes the rest of the body for the next request, and answers that too."""
    refusal = answer(b"", "413 Content Too Large")
    async with RawServer(lambda _: refusal) as server:
        server.answers_early = True
        for _ in range(3):
            async with session.post(server.url, data=5 * (b"x" * (size // 5 - 4) + b"\r\n\r\n")) as response:
                assert response.status == 413
                keep(response)
        server.answers_early, server.respond = False, echo
        await answers_are_own(session, server)


async def test_what_a_server_does_not_read_is_dropped_when_the_call_is_broken_off() -> None:
    async with RawServer(echo) as server, open_session() as session:
        server.reads = False
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await connections.ask(session, "POST", server.url, {}, 16_000_000 * b"x")
        server.connections[0].read()
        await wait_until(lambda: not server.connections[0].is_open, "the connection to end")
        assert server.requests == []


@pytest.mark.parametrize("end", ["timeout", "cancel", "half read"])
async def test_an_exchange_that_is_broken_off_ends_its_connection(session: aiohttp.ClientSession, end: str) -> None:
    part = answer(BODY)[:-10]
    async with RawServer(lambda _: part if end == "half read" else b"") as server:

        async def broken_off() -> None:
            async with session.post(server.url, data=b"x") as response:
                await response.content.readexactly(10)
                keep(response)

        if end == "half read":
            await broken_off()
        elif end == "cancel":
            task = asyncio.create_task(broken_off())
            await wait_until(lambda: server.requests, "the request")
            task.cancel()
            await asyncio.wait([task])
        else:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(broken_off(), 0.01)
        for connection in server.connections:
            connection.send(answer(BODY))
        server.respond = echo
        await answers_are_own(session, server)
        assert server.requests[-6].nth == 1


# What `ask` sends


async def test_ask_sends_what_the_session_sends() -> None:
    headers = {"user-agent": "other", "Content-Type": "text/plain", "X-Name": "é"}
    async with RawServer(echo) as server, open_session() as session:
        async with session.post(f"{server.url}/a b?c=d#e", data=b"x", headers=headers) as response:
            await response.read()
        async with await connections.ask(session, "POST", f"{server.url}/a b?c=d#e", headers, b"x"):
            pass
        first, second = (request.head.split("\r\n") for request in server.requests)
        assert first[0] == second[0] == "POST /a%20b?c=d HTTP/1.1"
        assert sorted(line.title() for line in first) == sorted(line.title() for line in second)


@pytest.mark.parametrize("headers", [{"A": "b\r\nC: d"}, {"A\n": "b"}, {"A": "b\0"}])
async def test_ask_sends_no_header_with_a_line_break(headers: dict[str, str]) -> None:
    async with RawServer(echo) as server, open_session() as session:
        with pytest.raises(ValueError, match="header"):
            await connections.ask(session, "POST", server.url, headers, b"x")
        assert server.connections == []


@pytest.mark.parametrize("url", ["http://", "no address", "http://[::1", "/path"])
async def test_ask_raises_invalid_url_for_what_is_no_address(url: str) -> None:
    async with open_session() as session:
        with pytest.raises(aiohttp.InvalidURL):
            await connections.ask(session, "POST", url, {}, b"x")


async def test_ask_remembers_no_more_than_so_many_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_TARGETS", 2)
    connector = ExchangeConnector()
    async with RawServer(echo) as server, open_session(connector) as session:
        for number in range(5):
            async with await connections.ask(session, "POST", f"{server.url}/{number}", {}, b"x") as received:
                assert await read_capped(received, 10) == b"x"
        assert len(connector._targets) <= 2


async def test_a_body_that_ends_with_a_reset_is_not_whole() -> None:
    async with (
        RawServer(lambda _: b"HTTP/1.1 200 OK\r\n\r\n") as server,
        open_session() as session,
        await connections.ask(session, "POST", server.url, {}, b"x") as received,
    ):
        reading = asyncio.create_task(read_capped(received, 1_000))
        await asyncio.sleep(0)
        received.exchange.data_received(b"part")
        received.exchange.connection_lost(ConnectionResetError("reset"))  # before the reader wakes up
        with pytest.raises(aiohttp.ClientPayloadError):
            await reading


async def test_a_call_over_a_kept_connection_creates_no_task_and_no_timer() -> None:
    loop = asyncio.get_running_loop()
    async with RawServer(echo) as server, open_session() as session:

        async def call() -> None:
            async with await connections.ask(session, "POST", server.url, {}, b"x") as received:
                assert await read_capped(received, 10) == b"x"
                keep(received)

        await call()
        made: list[Any] = []
        loop.set_task_factory(lambda loop, work, **options: made.append(work) or asyncio.Task(work, loop=loop))
        call_at, loop.call_at = loop.call_at, lambda *call, **options: made.append(call) or call_at(*call, **options)
        try:
            await call()
        finally:
            loop.set_task_factory(None)
            loop.call_at = call_at
        assert made == []
        assert len(server.connections) == 1


# Any order of these

Step = st.tuples(st.booleans(), st.booleans(), st.sampled_from([b"", STRAY, STRAY[:9], b"\r\n"]), st.booleans())


@given(steps=st.lists(Step, min_size=1, max_size=12))
@pytest.mark.parametrize("opened", [open_session, _asking], ids=["session", "ask"])
async def test_whatever_a_server_sends_between_exchanges_each_answer_is_of_its_request(
    opened: Opened, steps: list[tuple[bool, bool, bytes, bool]]
) -> None:
    stray_with = b""
    async with RawServer(lambda request: echo(request) + stray_with) as server, opened() as session:
        for number, (is_kept, is_with_answer, stray, is_read) in enumerate(steps):
            stray_with = stray if is_with_answer else b""
            async with session.post(server.url, data=str(number).encode()) as response:
                assert await response.text() == str(number)
                if is_kept:
                    keep(response)
            if not is_with_answer:
                server.connections[-1].send(stray)
            if is_read:
                await asyncio.sleep(0)
                await asyncio.sleep(0)


# TLS, and the event loop of the service


@pytest.fixture
def contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = Authority(tmp_path)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*authority.issue("127.0.0.1"))
    return serving, ssl.create_default_context(cafile=str(authority.file))


async def over_tls(opened: Opened, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    serving, trusting = contexts
    connector = ExchangeConnector(ssl=trusting)
    async with RawServer(echo, context=serving) as server, opened(connector) as session:
        for text in ("one", "two", 200_000 * "x"):
            assert await ask(session, server, text) == text
        assert len(server.connections) < 3  # tickets may come late, and cost a connection
        for text in ("four", "five", "six"):
            server.connections[-1].send(STRAY)
            assert await ask(session, server, text) == text
            server.connections[-1].send(STRAY)
            await wait_until(lambda: not server.connections[-1].is_open, "the connection to close")


async def in_the_clear(opened: Opened, _: object) -> None:
    async with RawServer(echo) as server, opened() as session:
        await answers_are_own(session, server)
        assert len(server.connections) == 3
        for text in ("one", "two", "three"):
            for connection in server.connections:
                connection.send(STRAY)
            assert await ask(session, server, text) == text
        server.banner = STRAY
        for connection in server.connections:
            connection.send(STRAY)
        with pytest.raises(UnaskedAnswer):
            await ask(session, server, "four")


@pytest.mark.parametrize("scenario", [over_tls, in_the_clear])
@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_it_holds_with_tls_and_with_the_services_event_loop(
    opened: Opened,
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
    scenario: Callable[[Opened, Any], Coroutine[Any, Any, None]],
    make_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(scenario(opened, contexts))
