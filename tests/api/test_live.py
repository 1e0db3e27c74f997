"""Live topics over one stream: what a page shows, thin, merged and resumable."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from taskstream.api.live import channels, log_lines, task_rows
from taskstream.api.live.channels import LiveListener, frame
from taskstream.api.live.topics import UNKNOWN_PLACE, read_places, read_topics
from taskstream.errors import TooManyStreams
from testkit.backend import BackendServer, hold
from testkit.service import Client, Service, running_service, token
from testkit.sse import EventStream, Sent, opened
from testkit.waiting import wait_until

PATIENCE_SECONDS = 30.0


def path_of(*topics: str) -> str:
    return f"/api/live?{urlencode([('topic', topic) for topic in topics])}"


class Live:
    """An open stream of topics, and all that it has sent."""

    def __init__(self, stream: EventStream) -> None:
        self._sent = aiter(stream)
        self.seen: list[Sent] = []
        self.last_id = ""

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            sent = await anext(self._sent)
        self.seen.append(sent)
        self.last_id = sent.id or self.last_id
        return sent.data

    async def until(self, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Return the first message that fulfils a condition."""
        while True:
            found = await self.next()
            if holds(found):
                return found

    async def row(self, task_id: str, status: str) -> dict[str, Any]:
        """Wait for the row of a task with a status."""

        def found(message: dict[str, Any]) -> dict[str, Any] | None:
            rows = message.get("rows", [])
            return next((row for row in rows if row["id"] == task_id and row["status"] == status), None)

        row = found(await self.until(found))
        assert row is not None
        return row


@contextlib.asynccontextmanager
async def live(client: Client, *topics: str, last: str | None = None) -> AsyncIterator[Live]:
    async with opened(client, path_of(*topics), last) as stream:
        assert stream.response.status == 200, await stream.response.text()
        following = Live(stream)
        assert (await following.next())["type"] == "open"
        yield following


def is_type(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda message: message["type"] == name


# Rows of tasks


async def test_rows_of_tasks_that_match_come_as_they_change_without_their_payloads(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = hold
    await service.admin.register(backend, "one")
    async with live(service.alice, "tasks:type=default&status=WAITING,PROCESSING") as stream:
        task_id = await service.alice.submit({"payload": {"secret": "of alice"}})

        row = await stream.row(task_id, "PROCESSING")

        assert row["serverId"] == "one"
        backend.let_go.set()
        left = await stream.until(lambda message: task_id in message.get("left", []))
        assert left["topic"] == "tasks:type=default&status=WAITING,PROCESSING"
        assert "of alice" not in str(stream.seen)


async def test_users_get_rows_of_their_own_tasks_only_and_admins_everybodys(api: Service) -> None:
    async with live(api.alice, "tasks:") as of_alice, live(api.admin, "tasks:") as of_all:
        of_bob = await api.bob.submit({"payload": 1})
        own = await api.alice.submit({"payload": 2})

        await of_alice.row(own, "WAITING")
        await of_all.row(own, "WAITING")

        assert of_bob not in str(of_alice.seen)
        assert of_bob in str(of_all.seen)


async def test_of_many_changes_at_once_two_hundred_rows_come_and_the_others_are_counted(api: Service) -> None:
    async with live(api.alice, "tasks:") as stream:
        await api.alice.done("POST", "/api/tasks/batch", [{"payload": number} for number in range(700)])
        counted = 0
        while counted < 700:
            message = await stream.until(is_type("tasks"))
            assert len(message["rows"]) + len(message["left"]) <= task_rows.MOST_ROWS
            counted += len(message["rows"]) + message["more"]

    assert counted == 700


async def test_a_client_that_was_away_gets_the_rows_of_what_changed_meanwhile(api: Service) -> None:
    before = await api.alice.submit({"payload": 1})
    async with live(api.alice, "tasks:", "stats") as stream:
        last = stream.last_id
    meanwhile = await api.alice.submit({"payload": 2})

    async with live(api.alice, "alarms", "tasks:", last=last) as stream:
        await stream.row(meanwhile, "WAITING")
        later = await api.alice.submit({"payload": 3})
        await stream.row(later, "WAITING")

    rows = [row["id"] for sent in stream.seen for row in sent.data.get("rows", [])]
    assert rows.count(meanwhile) == rows.count(later) == 1
    assert before not in rows


async def test_a_client_that_was_away_for_too_long_is_told_to_read_its_list_again(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "LINGER_SECONDS", 0.0)
    async with live(api.alice, "tasks:") as stream:
        last = stream.last_id
    monkeypatch.setattr(task_rows, "MOST_CAUGHT_UP", 2)
    await api.alice.done("POST", "/api/tasks/batch", [{"payload": number} for number in range(3)])

    async with live(api.alice, "tasks:", last=last) as stream:
        assert await stream.until(is_type("reset"))
    async with live(api.alice, "tasks:", last=last.replace("=", "=9999")) as stream:
        assert await stream.until(is_type("reset"))


@pytest.mark.parametrize("place", ["²", "9" * 5000, "x", "-1", "1\ndata: forged", "\ud800"])
@pytest.mark.parametrize("topic", ["tasks:", "log:"])
async def test_a_place_that_makes_no_sense_resets_the_topic(api: Service, topic: str, place: str) -> None:
    query = urlencode({"topic": topic, "after": f"{read_topics([topic])[0].digest}={place}"}, errors="surrogatepass")

    async with opened(api.alice, f"/api/live?{query}") as stream, asyncio.timeout(PATIENCE_SECONDS):
        following = aiter(stream)
        assert [(await anext(following)).data["type"] for _ in range(2)] == ["open", "reset"]


@pytest.mark.parametrize("topic", ["stats", "alarms", "fleet"])
async def test_a_place_in_a_topic_that_has_none_changes_nothing(api: Service, topic: str) -> None:
    async with live(api.admin, topic, last=f"{read_topics([topic])[0].digest}=5") as stream:
        assert await stream.until(is_type(topic))


def test_a_place_is_never_sent_back_as_further_lines_of_the_stream() -> None:
    assert read_places("ab=1\ndata: forged|cd=12") == {"ab": UNKNOWN_PLACE, "cd": "12"}


# Numbers, alarms, the fleet


async def test_numbers_come_when_they_change(api: Service) -> None:
    async with live(api.alice, "stats") as stream:
        first = await stream.until(is_type("stats"))
        assert first["totals"]["waiting"] == 0
        await api.alice.submit({"payload": 1})
        await api.bob.submit({"payload": 1})

        changed = await stream.until(lambda message: message.get("totals", {}).get("waiting"))

    assert changed["totals"]["waiting"] == 1
    assert sum(point["submitted"] for point in changed["series"]) == 1


async def test_alarms_come_when_they_change(service: Service) -> None:
    async with live(service.auditor, "alarms") as stream:
        await service.admin.done("POST", "/api/pools/default/pause", {})
        await service.alice.submit({"payload": 1})

        changed = await stream.until(lambda message: message.get("alarms"))

    assert "pool-paused-with-backlog" in [alarm["kind"] for alarm in changed["alarms"]]


async def test_the_fleet_comes_whole_and_then_as_it_changes(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "one")
    async with live(service.auditor, "fleet") as stream:
        whole = await stream.until(is_type("fleet"))
        assert (whole["whole"], [server["id"] for server in whole["servers"]]) == (True, ["one"])
        assert [pool["name"] for pool in whole["pools"]] == ["default"]
        await service.admin.done("POST", "/api/servers/one/maintenance", {"maintenance": True})
        changed = await stream.until(lambda message: any(each["maintenance"] for each in message["servers"]))
        assert changed["whole"] is False
        await service.admin.done("DELETE", "/api/servers/one")
        assert await stream.until(lambda message: message["gone"] == ["one"])


async def test_the_fleet_is_for_admins_and_auditors(api: Service) -> None:
    assert (await api.alice.get(path_of("fleet"))).status == 403


# One task


async def test_the_events_of_a_task_come_with_their_state_first_and_an_end(
    service: Service, backend: BackendServer
) -> None:
    await service.admin.register(backend, "one")
    task_id = await service.alice.submit({"payload": 1})
    topic = f"task:{task_id}"
    async with live(service.alice, topic) as stream:
        await stream.until(is_type("ended"))
        last = stream.last_id

    events = [event["type"] for sent in stream.seen for event in sent.data.get("events", [])]
    assert (events[0], events[-1]) == ("state", "TaskSucceeded") or events == ["state"]
    assert all(sent.data.get("topic", topic) == topic for sent in stream.seen)
    async with live(service.alice, topic, last=last) as stream:
        assert (await stream.next())["type"] == "ended"


async def test_a_task_of_others_is_a_404_and_nothing_is_sent(api: Service) -> None:
    task_id = await api.bob.submit({"payload": 1})

    assert (await api.alice.get(path_of("stats", f"task:{task_id}"))).status == 404
    assert len(api.container.open_streams) == 0


# Lines of the log


async def test_lines_of_all_logs_come_as_they_are_written(api: Service) -> None:
    async with live(api.admin, "log:") as stream:
        await api.admin.done("PUT", "/api/types/resize", {"pool": "gpu"})
        task_id = await api.alice.submit({"type": "resize", "payload": {"secret": "of alice"}})
        lines: list[dict[str, Any]] = []
        while len(lines) < 2:
            lines += (await stream.until(is_type("log")))["lines"]

    assert [line["event"] for line in lines] == ["TypeDefined", "TaskSubmitted"]
    assert lines[1]["subject"] == {"kind": "task", "id": task_id}
    assert "of alice" not in str(stream.seen)


async def test_lines_are_filtered_and_users_see_their_own(api: Service) -> None:
    async with (
        live(api.alice, "log:") as of_alice,
        live(api.admin, "log:event=PoolPaused&actor=root") as pauses,
    ):
        await api.admin.done("PUT", "/api/types/resize", {"pool": "gpu"})
        await api.bob.submit({"payload": 1})
        own = await api.alice.submit({"payload": 1})
        await api.admin.done("POST", "/api/pools/gpu/pause", {})

        lines = (await of_alice.until(is_type("log")))["lines"]
        paused = (await pauses.until(is_type("log")))["lines"]

    assert [line["subject"]["id"] for line in lines] == [own]
    assert [line["event"] for line in paused] == ["PoolPaused"]


async def test_of_many_lines_at_once_the_newest_hundred_come_and_the_others_are_counted(api: Service) -> None:
    async with live(api.alice, "log:") as stream:
        await api.alice.done("POST", "/api/tasks/batch", [{"payload": number} for number in range(700)])
        counted = 0
        while counted < 700:
            message = await stream.until(is_type("log"))
            assert len(message["lines"]) <= log_lines.MOST_LINES
            counted += len(message["lines"]) + message["more"]

    assert counted == 700


async def test_a_client_that_was_away_gets_the_lines_it_missed_once(api: Service) -> None:
    async with live(api.alice, "log:") as stream:
        await api.alice.submit({"payload": 1})
        await stream.until(is_type("log"))
        last = stream.last_id
    missed = [await api.alice.submit({"payload": number}) for number in range(3)]

    async with live(api.alice, "log:", last=last) as stream:
        later = await api.alice.submit({"payload": 4})
        seen: list[str] = []
        while later not in seen:
            seen += [line["subject"]["id"] for line in (await stream.until(is_type("log")))["lines"]]

    assert seen == [*missed, later]


# Many listeners, slow listeners, limits


async def test_listeners_of_the_same_topic_share_one_computation(api: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    rows_of = task_rows.Rows.of

    def counted(self: Any, *given: Any) -> Any:
        made.append(1)
        return rows_of(self, *given)

    monkeypatch.setattr(task_rows.Rows, "of", counted)
    async with (
        live(api.alice, "tasks:status=WAITING") as first,
        live(api.alice, "tasks:status=WAITING") as second,
        live(api.alice, "tasks:status=WAITING") as third,
    ):
        task_id = await api.alice.submit({"payload": 1})
        for stream in (first, second, third):
            await stream.row(task_id, "WAITING")

    assert len(made) == 1


def test_a_listener_that_reads_nothing_holds_few_frames_and_counts_what_it_missed() -> None:
    listener = LiveListener()
    rows = listener.subscribe("tasks:", is_picture=False)
    numbers = listener.subscribe("stats", is_picture=True)

    for number in range(1_000):
        rows.offer(frame("tasks", str(number), 10, rows=[]))
        numbers.offer(frame("stats", number=number))

    assert (rows.waiting <= channels.MOST_FRAMES, numbers.waiting) == (True, 1)
    assert b'"number":999' in numbers.take()
    assert rows.take() == b'{"topic":"tasks:","type":"more","count":%d}' % (10 * (1_000 - rows.waiting))


async def test_a_stream_counts_as_many_streams_as_it_has_topics(nats_url: str) -> None:
    async with running_service(nats_url, worker=False, user_streams=3) as api:
        assert (await api.alice.get(path_of("stats", "alarms", "tasks:", "log:"))).status == 429
        async with live(api.alice, "stats", "alarms", "tasks:"):
            assert len(api.container.open_streams) == 3
            assert (await api.alice.get(path_of("stats"))).status == 429
            async with live(api.bob, "stats"):
                pass
        await wait_until(lambda: not len(api.container.open_streams), "the places to be given back")


async def test_a_user_has_few_topics_of_their_own_computed(api: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    topics = [f"tasks:type=t{number}" for number in range(3)]
    monkeypatch.setattr(channels, "MOST_CHANNELS", 2)
    assert (await api.alice.get(path_of(*topics))).status == 503

    places = channels.ChannelPlaces(2, 0)
    with places.open("alice"), places.open("alice"):
        with pytest.raises(TooManyStreams):
            places.open("alice")
        places.open("bob")


async def test_many_tabs_of_one_user_with_the_same_topic_count_as_one(api: Service) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(channels.CHANNELS_OF_ONE_USER + 2):
            await stack.enter_async_context(live(api.alice, "tasks:"))


async def test_a_stream_ends_with_its_token(nats_url: str) -> None:
    async with running_service(nats_url, worker=False, jwt_leeway=0.0) as api:
        short = api.bearing(token("alice", lifetime_seconds=2))
        async with live(short, "stats", "tasks:", "log:") as stream:
            last = await stream.until(is_type("expired"))

    assert "token" in last["error"]


async def test_a_stream_ends_when_the_service_stops(nats_url: str) -> None:
    async with running_service(nats_url, worker=False) as api, live(api.alice, "stats", "tasks:", "log:") as stream:
        api.container.feeds.hub.end()
        with pytest.raises(StopAsyncIteration):
            await stream.until(is_type("never"))


async def test_a_browser_opens_it_with_a_stream_token(api: Service) -> None:
    made = await api.alice.done("POST", "/api/stream-tokens")

    async with opened(api.anonymous, f"{path_of('stats')}&token={made['token']}") as stream:
        assert stream.response.status == 200


@pytest.mark.parametrize(
    "query",
    [
        "", "topic=", "topic=everything", "topic=stats:now", "topic=tasks:status%3DLOST", "topic=tasks:colour%3Dred",
        "topic=log:limit%3D3", "topic=log:event%3DNothing", "topic=tasks:attempts%3Dmany",
        "topic=tasks:label.a%3Dx%26label.a%3Dx", f"topic=tasks:{'x' * 3000}",
        "&".join(f"topic=tasks:type%3Dt{number}" for number in range(21)),
    ],
)  # fmt: skip
async def test_a_topic_that_makes_no_sense_is_refused(api: Service, query: str) -> None:
    assert await api.admin.refusal("GET", f"/api/live?{query}") == (400, "topic")
