"""What a client of NATS can do with each set of rights: docs/guarantees.md lists it, and here it is tried."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from taskstream.container import Container, open_container
from taskstream.errors import StoreError
from taskstream.settings import Settings
from taskstream.streams.client.access import Access
from taskstream.streams.client.connection import Connection, open_connection
from taskstream.streams.client.connection_errors import AccessRefused
from taskstream.streams.jetstream.api import api, find_stream
from taskstream.streams.topology.definitions import DISPATCH, TASKS
from taskstream.streams.topology.ensure import ensure_streams
from taskstream.streams.topology.startup_retry import StartupRetry
from testkit.histories import give, ref, submission
from testkit.nats import NatsServer
from testkit.service import quick_settings
from testkit.waiting import NotInTime, wait_until

DEPLOY = Path(__file__).parents[2] / "deploy" / "nats"
PASSWORD = "of-the-tests"
FULL = "taskstream"
USERS = ("api", "worker", "setup", FULL)
NO_ANSWER_SECONDS = 0.5


def authorization() -> str:
    """Return permissions.conf, and in it a user with all rights, as cluster.conf has it."""
    text = (DEPLOY / "permissions.conf").read_text()
    more = f'    {{ user: "{FULL}", password: "{PASSWORD}" }}\n'
    text = text.replace("  users: [\n", f"  users: [\n{more}", 1)
    return re.sub(r"\$\w+_PASSWORD", f'"{PASSWORD}"', text)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "nats", authorization())
    server.start()
    yield server
    server.stop()


def settings_of(server: NatsServer) -> Settings:
    return quick_settings(nats_url=server.url, nats_user=FULL, nats_password=PASSWORD)


@pytest.fixture
async def container(guarded: NatsServer) -> AsyncIterator[Container]:
    async with await open_container(settings_of(guarded), guarded.url) as container:
        yield container


class Tried(Struct):
    """A client with some rights, and one with all rights that sees what it did."""

    name: str
    connection: Connection
    container: Container

    async def asks(self, name: str, body: object = None) -> bool:
        """Return whether JetStream does what this client asks of it."""
        return await is_done(api(self.connection, name, body, NO_ANSWER_SECONDS))

    async def stores(self, subject: str, content: bytes = b"{}") -> bool:
        """Return whether a stream takes this client's message."""
        return await is_done(self.connection.request(subject, content, timeout_seconds=NO_ANSWER_SECONDS))

    async def log(self) -> dict[str, Any]:
        return await api(self.container.appending, f"STREAM.INFO.{TASKS}", {"subjects_filter": ">"})

    async def updates_log(self, **changes: object) -> bool:
        """Return whether this client may change the stream TASKS, which is then as before."""
        config = (await self.log())["config"]
        done = await self.asks(f"STREAM.UPDATE.{TASKS}", config | changes)
        if done:
            await api(self.container.appending, f"STREAM.UPDATE.{TASKS}", config)
        return done


async def is_done(act: Awaitable[object]) -> bool:
    try:
        await act
    except StoreError:  # refused, or nobody answers
        return False
    return True


async def reads_all(tried: Tried) -> bool:
    return await tried.asks(f"STREAM.MSG.GET.{TASKS}", {"seq": 1})


async def appends(tried: Tried) -> bool:
    return await tried.stores(f"task.alice.{tried.name}.cancelled.=")


async def deletes_an_event(tried: Tried) -> bool:
    return await tried.asks(f"STREAM.MSG.DELETE.{TASKS}", {"seq": 1})


async def purges(tried: Tried) -> bool:
    return await tried.asks(f"STREAM.PURGE.{TASKS}")


async def ends_the_protection(tried: Tried) -> bool:
    return await tried.updates_log(deny_delete=False) or await tried.updates_log(deny_purge=False)


async def makes_the_log_forget(tried: Tried) -> bool:
    return await tried.updates_log(max_age=366 * 86_400 * 10**9)


async def deletes_the_queue(tried: Tried) -> bool:
    done = await tried.asks(f"STREAM.DELETE.{DISPATCH}")
    await ensure_streams(tried.container.appending, tried.container.settings, StartupRetry())
    return done


async def puts_into_the_queue(tried: Tried) -> bool:
    return await tried.stores("dispatch.default.high.alice.1")


async def changes_secrets(tried: Tried) -> bool:
    return await tried.stores(f"$KV.secrets.{tried.name}")


async def changes_projections(tried: Tried) -> bool:
    return await tried.stores(f"$KV.tasks.{tried.name}")


async def redirects_an_answer(tried: Tried) -> bool:
    """JetStream sends its answer to the reply subject of a request, with rights of its own: here into the log."""
    subject = f"task.alice.{tried.name}.redirected"
    await tried.connection.client.publish("$JS.API.INFO", b"", reply=subject)
    await tried.connection.client.flush()
    try:
        await wait_until(lambda: _is_stored(tried, subject), "the answer in the log", 2.0)
    except NotInTime:
        return False
    return True


async def _is_stored(tried: Tried, subject: str) -> bool:
    return subject in (await tried.log())["state"].get("subjects", {})


async def deletes_by_a_redirected_answer(tried: Tried) -> bool:
    await tried.connection.client.publish("$JS.API.INFO", b"", reply="$JS.API.STREAM.DELETE.KV_usage")
    await tried.connection.client.flush()
    await tried.log()  # an answer after the other
    return await find_stream(tried.container.appending, "KV_usage") is None


async def deletes_the_log(tried: Tried) -> bool:
    return await tried.asks(f"STREAM.DELETE.{TASKS}")


RIGHTS: dict[Callable[[Tried], Awaitable[bool]], set[str]] = {
    reads_all: {"api", "worker", "setup", FULL},
    appends: {"api", "worker", FULL},
    redirects_an_answer: {"api", "worker", "setup", FULL},
    changes_secrets: {"api", "worker", FULL},
    changes_projections: {"worker", "setup", FULL},
    deletes_the_queue: {"setup", FULL},
    makes_the_log_forget: {"setup", FULL},
    deletes_an_event: set(),
    purges: set(),
    ends_the_protection: set(),
    puts_into_the_queue: set(),
    deletes_by_a_redirected_answer: set(),
    deletes_the_log: {FULL},
}
"""Who can do what; the last one ends the others."""


async def test_what_each_user_of_nats_can_do_is_what_the_guarantees_list(
    guarded: NatsServer, container: Container
) -> None:
    await give(container.commands, ref(1), submission())
    found: dict[str, set[str]] = {}
    async with AsyncExitStack() as stack:
        clients = []
        for user in USERS:
            prefix = "_INBOX" if user == FULL else f"_INBOX_{user}"
            access = Access(user=user, password=PASSWORD, inbox_prefix=prefix)
            connection = await open_connection(guarded.url, "test", access)
            stack.push_async_callback(connection.close)
            clients.append(Tried(user, connection, container))
        for act in RIGHTS:
            found[act.__name__] = {tried.name for tried in clients if await act(tried)}

    assert found == {act.__name__: users for act, users in RIGHTS.items()}


async def test_without_a_user_nothing_can_be_done(guarded: NatsServer) -> None:
    for access in (Access(), Access(user=FULL, password="guessed"), Access(token=PASSWORD)):
        with pytest.raises(AccessRefused):
            await open_connection(guarded.url, "test", access)
