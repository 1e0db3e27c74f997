"""What we rely on in nats-py, one fact each, some of it not public."""

from __future__ import annotations

import ast
import asyncio
import inspect
import socket
from importlib.metadata import version
from itertools import pairwise
from typing import Any, cast

import nats.aio.client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats import connect, errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport

from taskstream.errors import StoreUnavailable
from taskstream.streams.client import client as our_client
from taskstream.streams.client.access import ANYBODY
from taskstream.streams.client.client import NatsClient, NatsMessage, parse_headers
from taskstream.streams.client.connection import PayloadTooLarge, open_connection
from testkit.nats import NatsServer
from testkit.outage import begin, end
from testkit.waiting import wait_until

OVERRIDDEN = {
    "_attempt_reconnect",  # one that died: tests/streams/test_silent_server.py
    "_process_connect_init",  # TLS refused by the server: tests/streams/test_access.py
    "_process_err",  # an error of the server leads to a reconnect: tests/streams/test_access.py
    "_process_info",  # required TLS: tests/streams/test_access.py
    "_process_msg",  # test_a_listener_…
    "_process_op_err",  # a loss, reported at once: test_a_loss_… here; a reconnect: tests/streams/test_silent_server.py
    "_remove_sub",  # test_a_listener_…
}
USED = {
    "_error_cb",
    "_flusher_task",
    "_inbox_prefix",
    "_pending",  # test_a_message_is_sent_after_…
    "_pending_data_size",
    "_ping_interval_task",
    "_ps",  # test_messages_arrive_in_order_…
    "_reading_task",
    "_reconnection_task",  # a close without NATS: tests/workers/test_stop_without_nats.py
    "_server_info",  # whether there is a cluster: tests/streams/test_elections.py
    "_status",
    "_transport",  # test_its_socket_…
}
ELSEWHERE = {"_id", "_io_writer", "_io_reader", "_buffer"}
"""Members of a subscription and of the transport: test_a_listener_… and test_its_socket_… use them."""


def private_members() -> set[str]:
    """Return the private attributes that streams/client/client.py reads or overrides and does not define."""
    tree = ast.parse(inspect.getsource(our_client))
    own = {"_access", "_listeners", "_reports", "_on_loss", "_jwt", "_sign", "_socket_transport", "_discard_transport"}
    own |= {"_replaced", "_end"}
    own |= {"_receive_at_once", "_deliver", "_hear", "_encoded", "_unwritten", "_unwritten_bytes", "_write"}
    own |= {"_client", "_sid", "_raw_headers", "_parsed_headers"}  # of NatsMessage
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return {name for name in read | defined if name.startswith("_") and not name.startswith("__")} - own


def test_every_private_member_we_touch_is_named_here() -> None:
    assert private_members() == OVERRIDDEN | USED | ELSEWHERE
    assert version("nats-py").startswith("2.16."), "read the new client before the pin in pyproject.toml moves"


async def test_every_private_member_we_touch_exists() -> None:
    client = nats.aio.client.Client()

    assert {name for name in OVERRIDDEN | USED if not hasattr(client, name)} == set()
    for name in OVERRIDDEN:
        theirs, ours = (inspect.signature(getattr(of, name)) for of in (nats.aio.client.Client, NatsClient))
        assert list(ours.parameters) == list(theirs.parameters), name
    assert {field.lstrip("_") for field in Msg.__dataclass_fields__} >= {"client", "subject", "reply", "data"}
    assert issubclass(NatsMessage, Msg)


async def test_a_publish_without_connection_fails_at_once_and_does_not_land_later(nats: NatsServer) -> None:
    connection, other = await open_connection(nats.url, "test"), await open_connection(nats.url, "test")
    await end(nats, connection, other)

    with pytest.raises(errors.OutboundBufferLimitError):
        await connection.client.publish("s", b"lost")

    await begin(nats, connection, other)
    seen: list[bytes] = []

    async def receive(message: object) -> None:
        seen.append(message.data)  # type: ignore[attr-defined]

    await other.subscribe("s", receive)
    await other.flush()
    await connection.client.publish("s", b"after")
    await wait_until(lambda: seen, "a message")
    assert seen == [b"after"]
    await connection.close()
    await other.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"NATS/1.0\r\nNats-Stream-Source: TASKS 12 task.*.*.submitted.*.* dispatch.>\r\nNats-Batch-Id: a-1\r\n\r\n",
        b"NATS/1.0\r\nName:no space\r\nOther:\ttab \r\n Third : 3\r\n\r\n",
        b"NATS/1.0\r\nno colon\r\nIn name: dropped\r\nEmpty:\r\nTwice: 1\r\nTwice: 2\r\n\r\n",
        b"NATS/1.0\r\n" + "Ü: dropped\r\nValue: Ü\r\n".encode() + b"Broken: \xff\r\n\r\n",
        b"NATS/1.0 404 No Messages\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 12\r\nNats-Pending-Bytes: 0\r\n\r\n",
        b"NATS/1.0\r\n\r\n",
    ],
)
async def test_headers_are_read_as_it_reads_them_itself(raw: bytes) -> None:
    assert parse_headers(raw) == await nats.aio.client.Client()._process_headers(raw)


@pytest.mark.parametrize("headers", [None, {"One": "1"}, {"One": "1", "Other": "task.a.>", "Umlaut": "Ü"}])
@pytest.mark.parametrize("reply", ["", "inbox.1"])
async def test_a_message_is_sent_as_it_sends_it_itself(
    nats_url: str, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str] | None, reply: str
) -> None:
    connection = await open_connection(nats_url, "test")
    theirs = await connect(nats_url)
    sent: list[bytes] = []
    monkeypatch.setattr(connection.client._transport, "write", sent.append)
    await connection.publish("s", b"payload", reply=reply, headers=headers)
    await asyncio.sleep(0)  # the round ends
    await theirs.publish("s", b"payload", reply=reply, headers=headers)
    assert sent == [b"".join(theirs._pending)]
    assert sent[0].endswith(b"payload\r\n")
    await connection.close()
    await theirs.close()


async def test_messages_of_one_round_are_written_together_and_in_order(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await open_connection(nats_url, "test")
    heard: list[bytes] = []
    await connection.listen("s", lambda message: heard.append(message.data))
    written: list[bytes] = []
    write = connection.client._transport.write

    def count(data: bytes) -> None:
        written.append(data)
        write(data)

    monkeypatch.setattr(connection.client._transport, "write", count)
    numbers = [b"%d" % number for number in range(50)]
    for number in numbers:
        await connection.publish("s", number)

    await wait_until(lambda: heard == numbers, "all messages in order")
    assert len(written) == 1
    await connection.close()


async def test_messages_that_a_loss_overtakes_are_never_written(nats_url: str) -> None:
    connection = await open_connection(nats_url, "test")
    other = await open_connection(nats_url, "other")
    heard: list[bytes] = []
    await other.listen("s", lambda message: heard.append(message.data))

    await connection.publish("s", b"before the loss")
    await connection.client.drop()
    await wait_until(lambda: connection.is_connected, "the reconnect")
    await connection.publish("s", b"after it")

    await wait_until(lambda: heard, "a message")
    assert heard == [b"after it"]
    await connection.close()
    await other.close()


async def test_a_message_is_sent_after_the_commands_that_wait_to_be_written(nats_url: str) -> None:
    connection = await open_connection(nats_url, "test")
    heard: list[Msg] = []

    await connection.listen("s", heard.append)
    assert connection.client._pending, "the subscription waits to be written"
    await connection.publish("s", b"after the subscription")

    await wait_until(lambda: heard, "the message")
    await connection.close()


@pytest.mark.parametrize("subject", ["", "two words", "s\r\nPUB other  0"])
async def test_no_subject_has_a_space_or_a_line_break(nats_url: str, subject: str) -> None:
    connection = await open_connection(nats_url, "test")
    with pytest.raises(StoreUnavailable):
        await connection.publish(subject, b"")
    with pytest.raises(StoreUnavailable):
        await connection.publish("s", b"", reply=f"{subject or 's'} ")
    await connection.close()


@given(
    messages=st.lists(
        st.tuples(
            st.booleans(),
            st.sampled_from([b"s.1", b"a.subject.of.six.tokens.more"]),
            st.sampled_from([b"", b"inbox.7"]),
            st.sampled_from([b"", b"NATS/1.0\r\nName: value\r\n\r\n", b"NATS/1.0 404 No Messages\r\n\r\n"]),
            st.binary(max_size=40),
        ),
        max_size=8,
    ),
    cuts=st.lists(st.integers(0, 600), max_size=6),
)
def test_messages_arrive_in_order_however_their_bytes_are_cut(
    messages: list[tuple[bool, bytes, bytes, bytes, bytes]], cuts: list[int]
) -> None:
    stream = b""
    for is_heard, subject, reply, headers, data in messages:
        to = b" ".join(filter(None, (subject, b"1" if is_heard else b"2", reply)))
        size = b"%d" % (len(headers) + len(data))
        line = b"HMSG %s %d %s" % (to, len(headers), size) if headers else b"MSG %s %s" % (to, size)
        stream += line + b"\r\n" + headers + data + b"\r\n"
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]

    heard, left = asyncio.run(_fed([stream[start:end] for start, end in pairwise(edges)]))

    expected = [
        (subject.decode(), reply.decode(), data, parse_headers(headers) if headers else None)
        for _, subject, reply, headers, data in messages
    ]
    assert heard == [each for each, (is_heard, *_) in zip(expected, messages, strict=True) if is_heard]
    assert left == [each for each, (is_heard, *_) in zip(expected, messages, strict=True) if not is_heard]


Content = tuple[str, str, bytes, dict[str, str] | None]


async def _fed(pieces: list[bytes]) -> tuple[list[Content], list[Content]]:
    """Return what a listener and a subscriber get of these bytes, from a client that is connected to nothing."""
    client = NatsClient(ANYBODY)
    client._transport = TcpTransport()
    client._transport._io_reader = asyncio.StreamReader()
    client._transport._io_writer = cast(Any, object())
    heard: list[Content] = []
    client._listeners[1] = lambda message: heard.append(_content(message))
    subscription = client._subs[2] = Subscription(client, 2, "s.*")
    client._receive_at_once()
    reading = asyncio.create_task(client._read_loop())
    for piece in pieces:
        client._transport._io_reader.feed_data(piece)
        if len(piece) % 2:
            await asyncio.sleep(0)
    client._transport._io_reader.feed_data(b"")
    for _ in range(10):
        await asyncio.sleep(0)
    reading.cancel()
    queue = subscription._pending_queue
    return heard, [_content(queue.get_nowait()) for _ in range(queue.qsize())]


def _content(message: Msg) -> Content:
    return message.subject, message.reply, message.data, message.headers or None


@pytest.mark.parametrize("value", ["two\r\nlines", "two\nlines", "two\rlines"])
async def test_no_header_has_two_lines(nats_url: str, value: str) -> None:
    connection = await open_connection(nats_url, "test")
    with pytest.raises(StoreUnavailable):
        await connection.publish("s", b"", headers={"Name": value})
    await connection.close()


async def test_a_listener_gets_what_a_subscriber_gets_and_one_that_fails_fails_alone(nats_url: str) -> None:
    connection = await open_connection(nats_url, "test")
    heard: list[Msg] = []
    received: list[Msg] = []

    def listen(message: Msg) -> None:
        heard.append(message)
        raise ValueError("of no consequence")

    async def receive(message: Msg) -> None:
        received.append(message)

    listening = await connection.listen("s.*", listen)
    await connection.subscribe("s.*", receive)
    await connection.publish("s.1", b"bare", reply="r")
    await connection.publish("s.2", b"", headers={"Name": "value"})
    await wait_until(lambda: len(received) == 2, "both messages")

    def content(messages: list[Msg]) -> list[tuple[str, str, bytes, dict[str, str] | None]]:
        return [(message.subject, message.reply, message.data, message.headers) for message in messages]

    assert content(heard) == content(received) == [("s.1", "r", b"bare", None), ("s.2", "", b"", {"Name": "value"})]

    await listening.unsubscribe()
    await connection.publish("s.3")
    await wait_until(lambda: len(received) == 3, "the third message")
    assert len(heard) == 2
    await connection.close()


async def test_its_socket_is_where_we_reach_for_it(nats_url: str) -> None:
    connection = await open_connection(nats_url, "test")

    transport = connection.client._transport._io_writer.transport  # type: ignore[union-attr]

    assert isinstance(transport, asyncio.Transport)
    found = transport.get_extra_info("socket")
    assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) > 0
    await connection.close()


async def test_aborting_its_socket_makes_it_connect_again_with_its_subscriptions(nats_url: str) -> None:
    connection = await open_connection(nats_url, "test")
    seen: list[object] = []

    async def receive(message: object) -> None:
        seen.append(message)

    await connection.subscribe("s", receive)
    connection.client._transport._io_writer.transport.abort()  # type: ignore[union-attr]
    await wait_until(lambda: not connection.is_connected, "the loss to be noticed")
    await wait_until(lambda: connection.is_connected, "a new connection")

    await connection.publish("s", b"")
    await wait_until(lambda: seen, "a message")
    await connection.close()


async def test_its_disconnected_callback_runs_between_the_lost_and_the_next_connection(nats: NatsServer) -> None:
    happened: list[str] = []

    async def lost() -> None:
        happened.append("lost")

    async def back() -> None:
        happened.append("back")

    async def failed(error: Exception) -> None:
        """Say nothing."""

    client = await connect(
        nats.url, disconnected_cb=lost, reconnected_cb=back, error_cb=failed, max_reconnect_attempts=-1
    )
    nats.kill()
    await wait_until(lambda: happened, "the callback")
    nats.start()
    await wait_until(lambda: "back" in happened, "the connection")

    assert happened == ["lost", "back"]
    await client.close()


async def test_we_refuse_a_payload_above_the_limit_before_the_server_disconnects(
    nats_url: str,
) -> None:
    connection = await open_connection(nats_url, "test")

    with pytest.raises(PayloadTooLarge):
        await connection.publish("s", b"x" * int(connection.client.max_payload))

    assert connection.is_connected
    await connection.publish("s", b"x" * connection.max_payload, headers={"h": "x" * 7_000})
    await connection.flush()
    assert connection.is_connected
    await connection.close()
