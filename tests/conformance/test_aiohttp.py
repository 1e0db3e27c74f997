"""What we rely on in aiohttp, one fact each, some of it not public."""

from __future__ import annotations

import ast
import inspect
from collections import deque
from importlib.metadata import version
from pathlib import Path

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest, ConnectionKey

import taskstream
from taskstream.wire import connections
from taskstream.wire.connections import (
    MOST_INFORMATIONAL,
    ExchangeConnector,
    _Exchange,
    _Request,
    _Response,
    keep,
    open_session,
)
from testkit.raw_server import RawServer, answer

OVERRIDDEN = {
    aiohttp.TCPConnector: (ExchangeConnector, {"_get", "_release"}),
    ResponseHandler: (_Exchange, {"connection_made", "connection_lost", "data_received", "feed_data", "start_timeout"}),
    ClientRequest: (_Request, {"connection_key", "send", "write_bytes"}),
    aiohttp.ClientResponse: (_Response, {"release", "start"}),
}
USED_FUNCTIONS = {"_serialize_headers"}
"""Private functions: it refuses line breaks in names and values."""
USED = {"_factory", "_loop", "_buffer", "_exception", "_payload"}
"""Private attributes of the connector and of the protocol."""
STRAY = answer(b"of another request")


def test_every_private_member_we_touch_is_named_here() -> None:
    tree = ast.parse(inspect.getsource(connections))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")}
    own = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr not in USED
    } | {node.name for made in classes.values() for node in made.body if isinstance(node, ast.FunctionDef)}
    imported = {name.name for node in tree.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert {name for name in imported if name.startswith("_")} == USED_FUNCTIONS
    assert {name for name in read - own if not name.startswith("__")} - {"_get", "_release", "_replace"} == USED
    assert version("aiohttp").startswith("3.14."), "read the new client before requirements.txt moves"


async def test_every_private_member_we_touch_exists() -> None:
    async with aiohttp.TCPConnector() as connector:
        protocol = connector._factory()
        assert type(protocol) is ResponseHandler
        assert connector._loop is not None
        assert protocol._buffer == deque()
        assert protocol._exception is None
        assert protocol._payload is None
    for theirs, (ours, names) in OVERRIDDEN.items():
        for name in names:
            assert name in vars(ours)
            before, after = (getattr(of, name) for of in (theirs, ours))
            if not isinstance(before, property):
                assert list(inspect.signature(after).parameters) == list(inspect.signature(before).parameters), name
    assert "proxy_headers_hash" in ConnectionKey._fields


async def test_it_uses_a_connection_again_without_a_look_at_what_arrived() -> None:
    """If this fails, half of connections.py may not be needed any more."""
    async with RawServer(lambda _: answer(b"own")) as server, aiohttp.ClientSession() as session:
        for expected in (b"own", b"of another request"):
            async with session.get(server.url) as response:
                assert await response.read() == expected
            server.connections[0].send(STRAY)


async def test_it_takes_any_number_of_informational_answers() -> None:
    """If this fails, `feed_data` of connections.py may not be needed any more."""
    informational = 3 * MOST_INFORMATIONAL * b"HTTP/1.1 102 Processing\r\n\r\n"
    async with (
        RawServer(lambda _: informational + answer(b"own")) as server,
        aiohttp.ClientSession() as session,
        session.get(server.url) as response,
    ):
        assert await response.read() == b"own"


async def test_an_exchange_begins_once_for_each_request_with_and_without_a_body() -> None:
    async with RawServer(lambda _: answer(b"")) as server, open_session() as session:
        for method, body in (("GET", None), ("POST", b"x"), ("POST", None), ("PUT", 300_000 * b"x"), ("HEAD", None)):
            async with session.request(method, server.url, data=body) as response:
                await response.read()
                assert isinstance(response, _Response)
                assert response.exchange is not None
                begun = response.exchange._begun
                keep(response)
        assert begun == 5
        assert len(server.connections) == 1


def test_all_sessions_are_opened_in_one_place() -> None:
    """But for the command line's: it speaks to our own API only."""
    made = {"aiohttp.ClientSession", "aiohttp.TCPConnector", "aiohttp.request", "ClientSession", "TCPConnector"}
    found = []
    for path in Path(inspect.getfile(taskstream)).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())) if path.parent.name != "operator" else ():
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in made:
                found.append(path.name)
    assert found == ["connections.py"]
