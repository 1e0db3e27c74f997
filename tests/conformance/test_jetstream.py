"""What we rely on in nats-server, one fact each: an upgrade that changes one fails here first."""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg

from taskstream.clock import utc_now
from taskstream.streams.client.connection import Connection, NoResponders, status_of
from taskstream.streams.jetstream.api import ApiError, api
from testkit.nats import NatsServer
from testkit.outage import restart
from testkit.waiting import wait_until

GUARD = "Nats-Expected-Last-Subject-Sequence"
LOG = {"storage": "file", "allow_direct": True, "allow_atomic": True, "deny_delete": True, "deny_purge": True}


async def create(connection: Connection, name: str, subjects: list[str] | None = None, **more: Any) -> None:
    await api(connection, f"STREAM.CREATE.{name}", {"name": name, "subjects": subjects or [], **more})


async def publish(connection: Connection, subject: str, data: bytes = b"", **headers: str) -> dict[str, Any]:
    """Publish with `Nats-…` headers (underscores for hyphens) and return the answer."""
    named = {"Nats-" + key.replace("_", "-"): value for key, value in headers.items()}
    found: dict[str, Any] = msgspec.json.decode((await connection.request(subject, data, named)).data)
    return found


async def guarded(connection: Connection, subject: str, expected: int, over: str) -> dict[str, Any]:
    answer = await connection.request(subject, b"", {GUARD: str(expected), f"{GUARD}-Subject": over})
    found: dict[str, Any] = msgspec.json.decode(answer.data)
    return found


async def batch(connection: Connection, subjects: list[str], guards: dict[int, tuple[str, int]]) -> dict[str, Any]:
    for number, subject in enumerate(subjects, 1):
        headers = {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": str(number)}
        if number in guards:
            over, expected = guards[number]
            headers |= {GUARD: str(expected), f"{GUARD}-Subject": over}
        if number < len(subjects):
            await connection.publish(subject, b"", headers=headers)
    headers["Nats-Batch-Commit"] = "1"
    found: dict[str, Any] = msgspec.json.decode((await connection.request(subjects[-1], b"", headers)).data)
    return found


async def state(connection: Connection, stream: str) -> dict[str, Any]:
    found: dict[str, Any] = (await api(connection, f"STREAM.INFO.{stream}"))["state"]
    return found


async def stored(connection: Connection, stream: str, subject: str) -> tuple[bytes, str]:
    """Return body and headers of the last message on a subject."""
    message = (await api(connection, f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject}))["message"]
    return base64.b64decode(message.get("data", "")), base64.b64decode(message.get("hdrs", "")).decode()


async def holds(connection: Connection, stream: str, count: int) -> None:
    async def look() -> bool:
        return (await state(connection, stream))["messages"] == count

    await wait_until(look, f"{count} messages in {stream}")


async def test_a_guard_may_be_a_wildcard_over_all_subjects_of_one_task(connection: Connection) -> None:
    await create(connection, "L", ["task.>"], **LOG)

    assert (await guarded(connection, "task.a.1.submitted", 0, "task.a.1.>"))["seq"] == 1
    assert (await guarded(connection, "task.a.2.submitted", 0, "task.a.2.>"))["seq"] == 2
    assert (await guarded(connection, "task.a.1.started", 1, "task.a.1.>"))["seq"] == 3


async def test_a_lost_race_is_error_10071(connection: Connection) -> None:
    await create(connection, "L", ["task.>"], **LOG)
    await guarded(connection, "task.a.1.submitted", 0, "task.a.1.>")

    assert (await guarded(connection, "task.a.1.other", 0, "task.a.1.>"))["error"]["err_code"] == 10071
    assert (await state(connection, "L"))["messages"] == 1


async def test_a_batch_answers_with_the_sequence_of_its_last_message_and_its_count(connection: Connection) -> None:
    await create(connection, "L", ["task.>"], **LOG)
    await publish(connection, "task.a.0.x")

    answer = await batch(connection, ["task.a.1.x", "task.a.2.x", "task.a.3.x"], {1: ("task.a.1.>", 0)})

    assert (answer["seq"], answer["count"]) == (4, 3)


async def test_one_failing_guard_refuses_the_whole_batch(connection: Connection) -> None:
    await create(connection, "L", ["task.>"], **LOG)
    await publish(connection, "task.a.2.x")

    answer = await batch(
        connection, ["task.a.1.x", "task.a.2.y", "task.a.3.x"], {1: ("task.a.1.>", 0), 2: ("task.a.2.>", 0)}
    )

    assert answer["error"]["err_code"] == 10071
    assert (await state(connection, "L"))["messages"] == 1


async def test_a_batch_that_is_never_committed_stores_nothing(connection: Connection) -> None:
    await create(connection, "L", ["task.>"], **LOG)
    for number in (1, 2):
        await connection.publish("task.a.1.x", headers={"Nats-Batch-Id": "b", "Nats-Batch-Sequence": str(number)})

    assert (await publish(connection, "task.a.2.x"))["seq"] == 1


async def test_a_log_cannot_be_deleted_from_or_purged(connection: Connection) -> None:
    await create(connection, "L", ["task.>"], **LOG)
    await publish(connection, "task.a.1.x")

    with pytest.raises(ApiError):
        await api(connection, "STREAM.MSG.DELETE.L", {"seq": 1})
    with pytest.raises(ApiError):
        await api(connection, "STREAM.PURGE.L")

    assert (await state(connection, "L"))["messages"] == 1


async def test_what_denies_deletion_and_purging_cannot_be_taken_back(connection: Connection) -> None:
    await create(connection, "L", ["task.>"], **LOG)
    config = (await api(connection, "STREAM.INFO.L"))["config"]

    for field in ("deny_delete", "deny_purge"):
        with pytest.raises(ApiError):
            await api(connection, "STREAM.UPDATE.L", {**config, field: False})


SOURCES = [
    {"name": "L", "subject_transforms": [{"src": "task.*.*.queued.*", "dest": "q.{{wildcard(3)}}.{{wildcard(2)}}"}]}
]


async def test_sourcing_with_a_transform_fills_a_work_queue_and_names_source_sequences(
    connection: Connection,
) -> None:
    await create(connection, "L", ["task.>"], **LOG)
    await create(connection, "Q", sources=SOURCES, retention="workqueue", persist_mode="async")
    await publish(connection, "task.a.1.other")
    await publish(connection, "task.a.1.queued.fast", b"body")
    await holds(connection, "Q", 1)

    body, headers = await stored(connection, "Q", "q.fast.1")

    assert body == b"body"
    [line] = [line for line in headers.splitlines() if line.startswith("Nats-Stream-Source:")]
    assert line.split()[1:3] == ["L", "2"]


async def drained_and_restarted(nats: NatsServer, connection: Connection, *, gently: bool, **more: Any) -> int:
    """Return how many messages a sourced work queue has after 50 came and went, a restart, and one more."""
    await create(connection, "L", ["task.>"], **LOG)
    await create(connection, "Q", sources=SOURCES, retention="workqueue", **more)
    consumer = {"durable_name": "c", "name": "c", "ack_policy": "explicit"}
    await api(connection, "CONSUMER.CREATE.Q.c", {"stream_name": "Q", "config": consumer})
    for number in range(50):
        await publish(connection, f"task.a.{number}.queued.fast")
    await holds(connection, "Q", 50)
    for message in await pull(connection, "Q", "c", {"batch": 50}, 50):
        await message.ack_sync()
    await holds(connection, "Q", 0)

    await restart(nats, connection, gently=gently)
    await publish(connection, "task.a.new.queued.fast")

    async def arrived() -> bool:
        found = (await api(connection, "STREAM.INFO.Q", {"subjects_filter": "q.fast.new"}))["state"].get("subjects")
        return bool(found)

    await wait_until(arrived, "the new message")
    return int((await state(connection, "Q"))["messages"])


@pytest.mark.parametrize(("gently", "mode"), [(True, "default"), (False, "default"), (True, "async")])
async def test_a_drained_work_queue_is_not_filled_again_after_a_restart(
    nats: NatsServer, connection: Connection, mode: str, *, gently: bool
) -> None:
    messages = await drained_and_restarted(nats, connection, gently=gently, persist_mode=mode)

    assert messages <= 3  # the last one or two may come twice


async def test_a_drained_work_queue_with_async_persistence_may_refill_after_a_kill(
    nats: NatsServer, connection: Connection
) -> None:
    """All that it ever held comes again, from the first message of its source on; nothing is left out."""
    messages = await drained_and_restarted(nats, connection, gently=False, persist_mode="async")

    assert 1 <= messages <= 51


async def test_a_stream_may_persist_asynchronously(connection: Connection) -> None:
    await create(connection, "Q", ["q.>"], storage="file", persist_mode="async")

    assert (await api(connection, "STREAM.INFO.Q"))["config"]["persist_mode"] == "async"


async def timers(connection: Connection) -> None:
    await create(
        connection, "T", ["timer.>", "due.>"], retention="workqueue", allow_msg_schedules=True, allow_msg_ttl=True
    )


def at(seconds: float) -> str:
    return f"@at {utc_now() + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S.%fZ}"


async def test_a_scheduled_message_fires_at_its_target_and_keeps_its_own_headers(connection: Connection) -> None:
    await timers(connection)
    await connection.request(
        "timer.a", b"body", {"Nats-Schedule": at(0.1), "Nats-Schedule-Target": "due.a", "Our-Own": "yes"}
    )

    async def fired() -> bool:
        return bool((await api(connection, "STREAM.INFO.T", {"subjects_filter": "due.>"}))["state"].get("subjects"))

    await wait_until(fired, "the message to fire")
    body, headers = await stored(connection, "T", "due.a")
    assert body == b"body"
    assert "Our-Own: yes" in headers
    assert "Nats-Scheduler: timer.a" in headers
    assert (await state(connection, "T"))["messages"] == 1


async def test_a_schedule_is_replaced_by_publishing_its_subject_again(connection: Connection) -> None:
    await timers(connection)
    await publish(connection, "timer.a", b"one", Schedule=at(0.2), Schedule_Target="due.a")
    await publish(connection, "timer.a", b"two", Schedule=at(3600), Schedule_Target="due.a")
    await publish(connection, "timer.b", b"", Schedule=at(0.4), Schedule_Target="due.b")

    async def fired() -> dict[str, int]:
        found = (await api(connection, "STREAM.INFO.T", {"subjects_filter": "due.>"}))["state"].get("subjects")
        return found or {}

    assert await wait_until(fired, "the other timer") == {"due.b": 1}
    assert (await stored(connection, "T", "timer.a"))[0] == b"two"


async def test_a_stream_that_does_not_exist_has_no_responders(connection: Connection) -> None:
    with pytest.raises(NoResponders):
        await connection.request("nowhere.at.all", b"")
    with pytest.raises(NoResponders):
        await connection.request_many("$JS.API.DIRECT.GET.NONE", b"{}")


async def pull(connection: Connection, stream: str, consumer: str, request: dict[str, Any], count: int) -> list[Msg]:
    """Return the first `count` answers to a pull."""
    arrived: list[Msg] = []
    inbox = await connection.listen_at_inbox(arrived.append)
    await connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}", msgspec.json.encode(request), inbox)
    await wait_until(lambda: len(arrived) >= count, f"{count} answers")
    return arrived


async def work_queue(connection: Connection) -> None:
    await create(connection, "Q", ["q.>"], retention="workqueue")
    config = {"durable_name": "c", "name": "c", "ack_policy": "explicit", "ack_wait": 30 * 10**9, "max_deliver": -1}
    await api(connection, "CONSUMER.CREATE.Q.c", {"stream_name": "Q", "config": config})


async def test_a_pulled_message_keeps_its_subject_and_tells_its_place_in_nine_tokens(connection: Connection) -> None:
    await work_queue(connection)
    await publish(connection, "q.a")
    await publish(connection, "q.b")

    first, second = await pull(connection, "Q", "c", {"batch": 2}, 2)

    assert (first.subject, second.subject) == ("q.a", "q.b")
    tokens = second.reply.split(".")
    assert len(tokens) == 9
    assert tokens[:7] == ["$JS", "ACK", "Q", "c", "1", "2", "2"]
    assert tokens[8] == "0"
    assert first.reply.split(".")[8] == "1"


async def test_a_pull_that_does_not_wait_ends_with_404(connection: Connection) -> None:
    await work_queue(connection)
    await publish(connection, "q.a")

    async def is_pending() -> bool:
        return bool((await api(connection, "CONSUMER.INFO.Q.c"))["num_pending"])

    await wait_until(is_pending, "the consumer to know of the message")
    message, end = await pull(connection, "Q", "c", {"batch": 5, "no_wait": True}, 2)

    assert (message.subject, status_of(message)) == ("q.a", None)
    assert (status_of(end), end.data) == ("404", b"")


async def test_a_pull_that_expires_ends_with_408(connection: Connection) -> None:
    await work_queue(connection)

    [end] = await pull(connection, "Q", "c", {"batch": 1, "expires": 10_000_000}, 1)

    assert status_of(end) == "408"


async def test_a_message_can_be_given_back_for_a_while(connection: Connection) -> None:
    await work_queue(connection)
    await publish(connection, "q.a")
    [message] = await pull(connection, "Q", "c", {"batch": 1}, 1)

    await message.respond(b'-NAK {"delay":1}')
    [again] = await pull(connection, "Q", "c", {"batch": 1, "expires": 10 * 10**9}, 1)
    assert again.reply.split(".")[4] == "2"
    await again.respond(b'-NAK {"delay":3600000000000}')
    [end] = await pull(connection, "Q", "c", {"batch": 1, "expires": 300_000_000}, 1)

    assert status_of(end) == "408"
    assert (await state(connection, "Q"))["messages"] == 1


async def test_a_message_is_kept_by_saying_that_work_on_it_goes_on(connection: Connection) -> None:
    await create(connection, "Q", ["q.>"], retention="workqueue")
    config = {"durable_name": "c", "name": "c", "ack_policy": "explicit", "ack_wait": 400_000_000, "max_deliver": -1}
    await api(connection, "CONSUMER.CREATE.Q.c", {"stream_name": "Q", "config": config})
    await publish(connection, "q.kept")
    await publish(connection, "q.left")
    kept, _ = await pull(connection, "Q", "c", {"batch": 2}, 2)

    async def keep() -> None:
        while True:
            await kept.respond(b"+WPI")
            await asyncio.sleep(0.05)

    keeping = asyncio.create_task(keep())
    again = await pull(connection, "Q", "c", {"batch": 2, "expires": 1_500_000_000}, 2)
    keeping.cancel()

    assert {message.subject for message in again if not status_of(message)} == {"q.left"}


async def test_a_direct_get_of_what_matches_a_filter_comes_in_batches(connection: Connection) -> None:
    await create(connection, "L", ["task.>"], **LOG)
    for number in range(6):
        await publish(connection, f"task.{number % 2}.x", b"%d" % number)
    request = msgspec.json.encode({"batch": 2, "next_by_subj": "task.1.>", "seq": 1})

    *messages, end = await connection.request_many("$JS.API.DIRECT.GET.L", request)

    assert [(message.headers or {})["Nats-Sequence"] for message in messages] == ["2", "4"]
    assert [(message.headers or {})["Nats-Subject"] for message in messages] == ["task.1.x"] * 2
    assert status_of(end) == "204"
    assert (end.headers or {})["Nats-Num-Pending"] == "1"


async def test_a_direct_get_that_matches_nothing_is_a_404(connection: Connection) -> None:
    await create(connection, "L", ["task.>"], **LOG)

    [end] = await connection.request_many("$JS.API.DIRECT.GET.L", b'{"batch":2,"next_by_subj":"task.1.>","seq":1}')

    assert status_of(end) == "404"


async def test_a_direct_get_of_the_last_of_many_subjects_ends_with_204(connection: Connection) -> None:
    await create(connection, "L", ["task.>"], **LOG)
    for name in ("a", "b", "a"):
        await publish(connection, f"task.{name}")
    request = msgspec.json.encode({"multi_last": ["task.a", "task.b", "task.none"], "batch": 1_000})

    *messages, end = await connection.request_many("$JS.API.DIRECT.GET.L", request)

    assert [(message.headers or {})["Nats-Sequence"] for message in messages] == ["2", "3"]
    assert status_of(end) == "204"


async def test_a_direct_get_takes_1024_subjects_and_no_more(connection: Connection) -> None:
    await create(connection, "L", ["task.>"], **LOG)
    for start in range(0, 1_025, 205):
        await asyncio.gather(*(publish(connection, f"task.{number}") for number in range(start, start + 205)))

    async def get(count: int) -> str | None:
        request = {"multi_last": [f"task.{number}" for number in range(count)], "batch": 2_000}
        return status_of((await connection.request_many("$JS.API.DIRECT.GET.L", msgspec.json.encode(request)))[-1])

    assert await get(1_024) == "204"
    assert await get(1_025) == "413"


async def test_the_mark_of_a_deleted_key_disappears_after_its_time(connection: Connection) -> None:
    await create(connection, "KV_b", ["$KV.b.>"], max_msgs_per_subject=1, allow_msg_ttl=True, allow_rollup_hdrs=True)
    await publish(connection, "$KV.b.k", b"v")
    await connection.request("$KV.b.k", b"", {"KV-Operation": "PURGE", "Nats-TTL": "1s"})
    assert (await state(connection, "KV_b"))["messages"] == 1

    await holds(connection, "KV_b", 0)


async def test_a_stream_s_info_tells_the_server_s_time(connection: Connection) -> None:
    await create(connection, "L", ["task.>"], **LOG)

    for info in (await api(connection, "STREAM.INFO.L"), (await api(connection, "STREAM.LIST"))["streams"][0]):
        assert msgspec.convert(info["ts"], type(utc_now())) - utc_now() < timedelta(minutes=1)


async def test_the_same_message_id_is_swallowed_whatever_its_subject(connection: Connection) -> None:
    """Why an Idempotency-Key is never used as one."""
    await create(connection, "L", ["task.>"], **LOG)
    await publish(connection, "task.a", Msg_Id="1")

    assert (await publish(connection, "task.b", Msg_Id="1"))["duplicate"] is True
