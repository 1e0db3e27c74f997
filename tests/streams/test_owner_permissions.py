"""Plain NATS: with `deploy/nats/owner-permissions.conf`, an owner's client receives its own tasks only."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from testkit.backend import BackendServer, accept
from testkit.nats import NatsServer
from testkit.service import Service, running_service
from testkit.sse import opened, received
from testkit.waiting import wait_until

TEMPLATE = Path(__file__).parents[2] / "deploy" / "nats" / "owner-permissions.conf"
OWNERS = ("alice", "bob")


def authorization(direct_get: bool = False) -> str:
    """Return the template for both owners; with `direct_get`, as it must not be: they may read by direct get, too."""
    text = TEMPLATE.read_text()
    entry = re.search(r'    \{\n      user: "OWNER".*?\n    \}\n', text, re.DOTALL)
    assert entry is not None
    entries = "".join(entry[0].replace("OWNER", owner) for owner in OWNERS)
    text = text.replace(entry[0], entries)
    if direct_get:
        for owner in OWNERS:
            wrong = f'publish: {{ allow: [ "$JS.API.DIRECT.GET.TASKS.task.{owner}.>" ] }}'
            text = text.replace('publish: { deny: [ ">" ] }', wrong, 1)
    return re.sub(r"\$[A-Za-z]+_NATS_PASSWORD", '"password"', text)


@pytest.fixture
def closed_nats(tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server that asks who one is."""
    server = NatsServer(tmp_path / "nats", authorization())
    server.start()
    yield server
    server.stop()


def url_of(server: NatsServer, user: str) -> str:
    return server.url.replace("nats://", f"nats://{user}:password@")


@pytest.fixture
async def service(closed_nats: NatsServer) -> AsyncIterator[Service]:
    async with running_service(url_of(closed_nats, "taskstream")) as service:
        yield service


class Subscriber:
    """A NATS client that records messages and refusals."""

    def __init__(self, client: Nats) -> None:
        self.client = client
        self.received_messages: list[Msg] = []
        self.refused: list[str] = []

    @property
    def events(self) -> list[tuple[int, str]]:
        """Sequence and type of each event that is in the log."""
        stored = [message for message in self.received_messages if message.subject.startswith("event.")]
        return [
            (int((message.headers or {})["Nats-Sequence"]), json.loads(message.data)["event"]["type"])
            for message in stored
        ]

    async def note(self, message: Msg) -> None:
        self.received_messages.append(message)

    async def listen(self, *subjects: str) -> None:
        for subject in subjects:
            await self.client.subscribe(subject, cb=self.note)
        await self.client.flush()

    async def is_refused(self, what: str) -> None:
        await wait_until(lambda: any(what.lower() in text.lower() for text in self.refused), f"{what} to be refused")


async def subscriber(server: NatsServer, user: str) -> Subscriber:
    async def on_error(error: Exception) -> None:
        found.refused.append(str(error))

    client = Nats()
    found = Subscriber(client)
    await client.connect(url_of(server, user), error_cb=on_error)
    return found


@pytest.fixture
async def alice(closed_nats: NatsServer) -> AsyncIterator[Subscriber]:
    found = await subscriber(closed_nats, "alice")
    yield found
    await found.client.close()


async def test_an_owner_hears_each_event_as_it_is_in_the_log_and_nothing_of_others(
    service: Service, closed_nats: NatsServer, alice: Subscriber
) -> None:
    await alice.listen("event.alice.>", "progress.alice.*")
    async with BackendServer() as backend:
        await service.admin.register(backend, "one")
        ids = [await service.alice.submit({"payload": number}) for number in range(5)]
        others = [await service.bob.submit({"payload": number}) for number in range(5)]
        for client, task_ids in ((service.bob, others), (service.alice, ids)):
            for task_id in task_ids:
                await client.ended(task_id)
        expected = []
        for task_id in ids:
            entries = (await service.alice.get(f"/api/task/{task_id}/events"))["events"]
            expected += [(entry["sequence"], entry["event"]["type"]) for entry in entries]
        await wait_until(lambda: len(alice.events) >= len(expected), "all of them")

    assert alice.events == sorted(expected)
    assert {message.subject.split(".")[1] for message in alice.received_messages} == {"alice"}


async def test_what_a_guard_refuses_is_not_heard(service: Service, alice: Subscriber) -> None:
    await alice.listen("event.alice.>")
    task_id = await service.alice.submit({"payload": 1})
    answers = await asyncio.gather(*(service.alice.post(f"/api/task/{task_id}/cancel") for _ in range(20)))
    await service.alice.submit({"payload": 2})
    await wait_until(lambda: len(alice.events) >= 3, "the last one")

    assert {answer.status for answer in answers} == {200}
    assert [name for _, name in alice.events] == ["TaskSubmitted", "TaskCancelled", "TaskSubmitted"]


async def test_after_a_break_the_rest_is_read_over_http(
    service: Service, closed_nats: NatsServer, alice: Subscriber
) -> None:
    await alice.listen("event.alice.>")
    first = await service.alice.submit({"payload": 1})
    await wait_until(lambda: alice.events, "the first")
    await alice.client.close()
    missed = [await service.alice.submit({"payload": number}) for number in range(3)]

    again = await subscriber(closed_nats, "alice")
    await again.listen("event.alice.>")  # first listen, then read: what both have is passed over by its sequence
    async with opened(service.alice, "/api/tasks/stream", last=alice.events[-1][0]) as stream:
        await service.alice.post(f"/api/task/{first}/cancel")
        rest = [(sent.sequence, sent.type) for sent in await received(stream, 4)]
        await wait_until(lambda: again.events, "what came after")
    await again.client.close()

    assert [name for _, name in rest] == ["TaskSubmitted"] * len(missed) + ["TaskCancelled"]
    assert again.events == rest[-1:]


async def test_reports_of_progress_are_heard_live(service: Service, alice: Subscriber) -> None:
    await alice.listen("progress.alice.*")
    async with BackendServer(accept) as backend:
        await service.admin.register(backend, "one", callback=True, **{"async": True})
        await service.alice.submit({"payload": 1})
        await wait_until(lambda: backend.calls, "the call")
        for number in range(30):
            await backend.report(backend.calls[0], "PROCESSING", output=f"{number};")
        await wait_until(lambda: len(alice.received_messages) > 3, "reports")

    assert all(json.loads(message.data)["event"]["output"].endswith(";") for message in alice.received_messages)


async def test_nothing_else_may_be_subscribed_to(service: Service, alice: Subscriber) -> None:
    for subject in (
        *(">", "*.>", "event.>", "event.*.>", "event.bob.>", "progress.>", "progress.bob.*"),
        *("task.>", "task.alice.>", "dispatch.>", "_INBOX.>", "$JS.>", "$KV.>", "$O.>", "$SYS.>"),
    ):
        await alice.listen(subject)
        await alice.is_refused(f'subscription to "{subject}"')

    await service.bob.submit({"payload": 1})
    assert alice.received_messages == []


async def test_nothing_may_be_published(service: Service, alice: Subscriber) -> None:
    before = await tasks_subjects(service)

    for subject in (
        *("task.alice.1.cancelled.=", "event.alice.1.cancelled", "progress.alice.1", "dispatch.default.high.alice.1"),
        *("$JS.API.INFO", "$JS.API.STREAM.INFO.TASKS", "$JS.API.STREAM.MSG.GET.TASKS", "$JS.API.DIRECT.GET.TASKS"),
        *("$JS.API.DIRECT.GET.TASKS.task.alice.>", "$JS.API.CONSUMER.CREATE.TASKS.x", "$KV.registry.server.x"),
    ):
        await alice.client.publish(subject, b"{}")
        await alice.is_refused(f'publish to "{subject}"')

    assert await tasks_subjects(service) == before


async def tasks_subjects(service: Service) -> dict[str, int]:
    """Return how many messages of tasks the log has, by subject."""
    answer = await service.container.reading.request("$JS.API.STREAM.INFO.TASKS", b'{"subjects_filter": "task.>"}')
    found: dict[str, int] = json.loads(answer.data)["state"].get("subjects", {})
    return found


async def test_why_not_even_reading_by_direct_get_may_be_allowed(tmp_path: Path) -> None:
    """JetStream answers to any reply subject with rights of its own: should that ever change, the template may."""
    server = NatsServer(tmp_path / "open", authorization(direct_get=True))
    server.start()
    try:
        async with running_service(url_of(server, "taskstream"), worker=False) as service:
            container = service.container
            task_id = await service.alice.submit({"payload": 1})
            await container.buckets.heartbeats.put("somebodys", b"value")
            alice = await subscriber(server, "alice")
            own = f"$JS.API.DIRECT.GET.TASKS.task.alice.{task_id.partition('~')[0]}.>"

            await alice.client.publish(own, b"", reply="$KV.heartbeats.somebodys")

            async def overwritten() -> bool:
                found = await container.buckets.heartbeats.get("somebodys")
                return found is not None and found.value != b"value"

            await wait_until(overwritten, "what is not alice's to be overwritten")
            await alice.client.close()
    finally:
        server.stop()


async def test_without_a_password_nobody_comes_in(closed_nats: NatsServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", closed_nats.port)
    await reader.readline()
    writer.write(b'CONNECT {"verbose":true}\r\nSUB event.> 1\r\n')

    assert await reader.readline() == b"-ERR 'Authorization Violation'\r\n"
    writer.close()
    await writer.wait_closed()
