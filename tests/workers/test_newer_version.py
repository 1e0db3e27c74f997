"""A newer version has written to the log: this one takes no harm, guesses nothing, and says what it cannot read."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import structlog.testing

from taskstream.events.ids import TaskRef
from taskstream.streams.jetstream.messages import read
from testkit.backend import BackendServer, hold
from testkit.service import Service, running_service
from testkit.waiting import wait_until


async def publish(service: Service, subject: str, event: dict[str, Any], **more: Any) -> None:
    """Append an event as a newer version would, past our own codec."""
    by = {"kind": "system", "id": "newer", "region": "eu"}
    recorded = {"id": subject, "at": datetime.now(UTC).isoformat(), "by": by, "event": event, **more}
    answer = await service.container.appending.request(subject, json.dumps(recorded).encode())
    assert "error" not in json.loads(answer.data), answer.data


def ref_of(task_id: str) -> TaskRef:
    unique, _, owner = task_id.partition("~")
    return TaskRef(owner, unique)


async def warnings(service: Service) -> str:
    answer = await service.anonymous.get("/health/ready")
    assert answer.status == 200, answer
    return "\n".join(answer["warnings"])


async def test_fields_it_does_not_know_are_passed_over(nats_url: str, backend: BackendServer) -> None:
    async with running_service(nats_url, worker=False) as service:
        owner, unique = ref_of(await service.alice.submit({"payload": {"n": 1}}))
        [submission] = await read(service.container.reading, "TASKS", f"task.{owner}.{unique}.>")
        event = json.loads(submission.data)["event"]
        event |= {"payload": {"n": 2}, "residency": "eu"}
        event["policy"]["jitter"] = "none"
        subject = submission.subject.replace(unique, unique[::-1])
        await publish(service, subject, event, trace={"parent": "00-1"})
    task_id = TaskRef(owner, unique[::-1]).id

    async with running_service(nats_url) as service:
        await service.admin.register(backend, "echo", online=False)
        details = await service.alice.ended(task_id)

        assert (details["status"], details["result"]["data"]) == ("FINISHED", {"echo": {"n": 2}})
        listed = (await service.alice.get("/api/tasks"))["tasks"]
        assert task_id in [task["id"] for task in listed]
        assert "newer" not in await warnings(service)


async def test_a_task_with_an_event_it_does_not_know_is_left_alone_and_the_others_go_on(
    nats_url: str, backend: BackendServer
) -> None:
    with structlog.testing.capture_logs() as logs:
        async with running_service(nats_url, worker=False) as service:
            paused = await service.alice.submit({"payload": "paused"})
            owner, unique = ref_of(paused)
            await publish(service, f"task.{owner}.{unique}.paused", {"type": "TaskPaused", "until": "tomorrow"})
        async with running_service(nats_url) as service:
            await service.admin.register(backend, "echo", online=False)
            other = await service.alice.submit({"payload": "other"})
            assert (await service.alice.ended(other))["status"] == "FINISHED"

            read_answer = await service.alice.get(f"/api/task/{paused}")
            cancel_answer = await service.alice.post(f"/api/task/{paused}/cancel")
            for answer in (read_answer, cancel_answer):
                assert answer.status == 503, answer
                assert int(answer.headers["Retry-After"]) > 0
                assert "newer version" in answer["error"]
            assert [call["request"] for call in backend.calls] == ["other"]

            await wait_until(
                lambda: "projector-tasks" in service.container.services.halted,
                "the projection to stop before what it cannot read",
            )
            assert "projector-tasks has stopped here" in await warnings(service)
            assert "paused" in service.container.services.halted["projector-tasks"]
    assert {entry["service"] for entry in logs if entry["event"] == "service.halted"} == {"index", "projector-tasks"}


async def test_a_server_with_an_unknown_event_gets_no_work_but_the_others_do(
    nats_url: str, backend: BackendServer
) -> None:
    with structlog.testing.capture_logs() as logs:
        async with running_service(nats_url) as service:
            for name in ("known", "newer"):
                await service.admin.register(backend, name)

            await publish(service, "server.newer.moved", {"type": "ServerMoved", "server_id": "newer", "region": "eu"})
            await wait_until(lambda: service.container.fleet.unreadable, "the event to be met")

            for number in range(6):
                task_id = await service.alice.submit({"payload": number})
                assert (await service.alice.ended(task_id))["serverId"] == "known"
            assert (await service.admin.get("/api/servers/newer")).status == 503
            assert [one["id"] for one in (await service.admin.get("/api/servers"))["servers"]] == ["known"]
            assert (await service.admin.get("/api/servers/known"))["status"] == "online"
            assert "server.newer is left out here" in await warnings(service)
        async with running_service(nats_url) as service:
            assert (await service.alice.ended(await service.alice.submit({"payload": 7})))["serverId"] == "known"
            assert "server.newer is left out here" in await warnings(service)
    assert {entry["left_out"] for entry in logs if entry["event"] == "fleet.unreadable"} == {"server.newer"}


async def test_a_task_of_a_type_it_cannot_read_is_not_taken_for_one_of_an_undefined_type(nats_url: str) -> None:
    async with running_service(nats_url, worker=False) as service:
        assert (await service.admin.put("/api/types/video", {"attempts": 7})).status == 200

        await publish(service, "type.video.split", {"type": "TypeSplit", "name": "video"})
        await wait_until(lambda: service.container.fleet.unreadable, "the event to be met")

        answer = await service.alice.post("/api/task", {"type": "video", "payload": {}})
        assert answer.status == 503, answer
        assert (await service.admin.get("/api/types")).status == 200
        assert "type.video is left out here" in await warnings(service)
        await service.alice.submit({"payload": {}})


async def test_an_answer_is_kept_whose_type_became_unreadable_during_the_call(
    nats_url: str, backend: BackendServer
) -> None:
    """No result is lost, and the server is called once."""
    backend.answer = hold
    async with running_service(nats_url) as service:
        assert (await service.admin.put("/api/types/video", {"attempts": 7})).status == 200
        await service.admin.register(backend, "one")
        task_id = await service.alice.submit({"type": "video", "payload": 1})
        await wait_until(lambda: len(backend.calls) == 1, "the call")

        await publish(service, "type.video.split", {"type": "TypeSplit", "name": "video"})
        await wait_until(lambda: service.container.fleet.unreadable, "the event to be met")
        backend.let_go.set()

        assert (await service.alice.ended(task_id))["status"] == "FINISHED"
        assert len(backend.calls) == 1
