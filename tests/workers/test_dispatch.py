"""Ready tasks go to the servers that can take them: in order of priority, and never too many at once."""

from __future__ import annotations

import asyncio

import pytest
import structlog.testing
from aiohttp import web

from taskstream.commands.task_commands import RequeueTask
from taskstream.events.envelope import Actor
from taskstream.events.ids import parse_task_id
from testkit.backend import BackendServer, accept, echo, hold, overlapping
from testkit.service import Service, running_service
from testkit.waiting import wait_until

from .behaviour import Reporting, called, queue_holds, request, submit_all, types

# What a backend sees, and how it may answer


async def test_a_synchronous_server_is_sent_the_task_and_ends_it_with_its_answer(
    service: Service, backend: BackendServer
) -> None:
    await service.admin.register(backend, "sync")

    task_id = await service.alice.submit({"payload": {"prompt": "tree"}})
    details = await service.alice.ended(task_id)

    assert backend.calls[0] | {"deadline": 0} == {
        "task_id": task_id,
        "type": "default",
        "request": {"prompt": "tree"},
        "async": False,
        "attempt": 1,
        "deadline": 0,
    }
    assert details["serverId"] == "sync"
    assert details["result"]["data"] == {"echo": {"prompt": "tree"}}
    assert details["result"]["metadata"]["status"] == "FINISHED"


async def test_a_callback_server_accepts_reports_progress_and_ends_the_task(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = accept
    await service.admin.register(backend, "callback", **{"async": True, "callback": True})

    task_id = await service.alice.submit({"payload": 1})
    await called(backend, 1)
    sent = backend.calls[0]
    assert sent["async"] is True
    assert sent["callback_url"] == f"{service.url}/api/task/{task_id}"
    await backend.report(sent, "PROCESSING", progress=40, message="nearly half")
    halfway = await service.alice.details(task_id)
    await backend.report(sent, "FINISHED", data={"image": "x"})
    details = await service.alice.ended(task_id)

    assert (halfway["status"], halfway["progress"], halfway["message"]) == ("PROCESSING", 40, "nearly half")
    assert details["result"]["data"] == {"image": "x"}
    assert set(types(await service.alice.history(task_id))) == {
        "TaskSubmitted", "AttemptStarted", "AttemptAccepted", "ProgressReported", "TaskSucceeded",
    }  # fmt: skip


async def test_a_callback_server_may_be_spoken_for_by_a_service_token(service: Service, backend: BackendServer) -> None:
    backend.answer = accept
    await service.admin.register(backend, "callback", **{"async": True, "callback": True})

    task_id = await service.alice.submit({"payload": 1})
    await called(backend, 1)
    body = {"data": 7, "metadata": {"server_id": "callback", "status": "FINISHED"}}
    answer = await service.client("callback", "service").put(f"/api/task/{task_id}", body)

    assert answer.status == 200
    assert (await service.alice.details(task_id))["result"]["data"] == 7


async def test_json_in_no_known_shape_is_kept_whole_as_data(service: Service, backend: BackendServer) -> None:
    async def plain(server: BackendServer, task: object, _: web.Request) -> web.StreamResponse:
        return web.json_response(["plain", {"json": True}])

    backend.answer = plain
    await service.admin.register(backend, "plain")

    details = await service.alice.ended(await service.alice.submit({"payload": 1}))

    assert details["status"] == "FINISHED"
    assert details["result"]["data"] == ["plain", {"json": True}]
    assert details["result"]["metadata"]["server_id"] == "plain"


# Order and limits


async def test_high_priority_goes_before_low_however_late_it_came(service: Service, backend: BackendServer) -> None:
    backend.answer = hold
    await service.admin.register(backend, "one", maxConcurrent=1)
    tasks = [await service.alice.submit({"payload": "first"})]
    await called(backend, 1)

    order = ("low", "low", "normal", "high", "high")
    tasks += [await service.alice.submit({"payload": each, "priority": each}) for each in order]
    await queue_holds(service, 6)
    backend.let_go.set()
    for task_id in tasks:
        await service.alice.ended(task_id)

    assert list(map(request, backend.calls)) == ["first", "high", "high", "normal", "low", "low"]


@pytest.mark.parametrize("reports", [False, True])
async def test_the_limit_holds_while_a_second_worker_joins(
    nats_url: str, backend: BackendServer, reports: bool
) -> None:
    reporting = Reporting(1)
    backend.answer = reporting if reports else overlapping()
    count = 30 if reports else 150
    async with running_service(nats_url) as first:
        for number in range(4):  # several, so that some change hands
            how = {"async": reports, "callback": reports}
            await first.admin.register(backend, f"s{number}", maxConcurrent=1, **how)
        tasks = await submit_all(first.alice, [{"payload": number} for number in range(count)])
        async with running_service(nats_url) as second:
            tasks += await submit_all(second.alice, [{"payload": number} for number in range(count)])
            for task_id in tasks:
                assert (await second.alice.ended(task_id))["status"] == "FINISHED"

    assert len(backend.calls) == 2 * count
    assert (reporting.most_open if reports else backend.most_at_once) <= 4


async def test_an_accepted_task_keeps_its_slot_until_its_report(service: Service, backend: BackendServer) -> None:
    backend.answer = reporting = Reporting(3)
    await service.admin.register(backend, "callback", maxConcurrent=3, **{"async": True, "callback": True})

    tasks = await submit_all(service.alice, [{"payload": number} for number in range(30)])
    ended = [await service.alice.ended(task_id) for task_id in tasks]

    assert {details["status"] for details in ended} == {"FINISHED"}
    assert len(backend.calls) == 30
    assert reporting.most_open == 3


async def test_a_callback_faster_than_the_acceptance_frees_its_slot(service: Service, backend: BackendServer) -> None:
    async def report_first(server: BackendServer, task: dict[str, object], incoming: web.Request) -> web.StreamResponse:
        assert (await server.report(task, "PROCESSING", progress=10))[0] == 200
        assert (await server.report(task, "FINISHED", data="early"))[0] == 200
        return await accept(server, task, incoming)

    backend.answer = report_first
    await service.admin.register(backend, "hasty", maxConcurrent=1, **{"async": True, "callback": True})

    tasks = await submit_all(service.alice, [{"payload": number} for number in range(12)])
    ended = [await service.alice.ended(task_id) for task_id in tasks]

    await queue_holds(service, 0)

    assert {details["result"]["data"] for details in ended} == {"early"}
    assert len(backend.calls) == 12
    history = types(await service.alice.history(tasks[0]))
    assert [word for word in history if word != "TaskQueued"] == [  # its owner's window may have held it
        "TaskSubmitted", "AttemptStarted", "ProgressReported", "TaskSucceeded",
    ]  # fmt: skip


async def test_a_task_that_is_queued_twice_runs_once_and_takes_one_slot(
    service: Service, backend: BackendServer
) -> None:
    twice = await service.alice.submit({"payload": "twice"})
    for _ in range(2):
        await service.container.commands.task(
            parse_task_id(twice), RequeueTask(reason="to see what happens"), by=Actor("system", "test")
        )
    await queue_holds(service, 3)
    backend.answer = hold
    await service.admin.register(backend, "two", maxConcurrent=2)
    await called(backend, 1)

    others = await submit_all(service.alice, [{"payload": number} for number in range(4)])
    await called(backend, 2)
    backend.let_go.set()
    for task_id in (twice, *others):
        await service.alice.ended(task_id)

    assert backend.most_at_once == 2
    assert len(backend.calls) == 5
    assert types(await service.alice.history(twice)).count("AttemptStarted") == 1


async def test_a_submission_that_cannot_be_read_holds_up_no_others(service: Service, backend: BackendServer) -> None:
    with structlog.testing.capture_logs() as logs:
        await service.container.appending.request(
            "task.mallory.0.submitted.default.high", b'{"event": {"type": "Unheard"}}'
        )
        await service.admin.register(backend, "only")
        task_id = await service.alice.submit({"payload": 1})
        await called(backend, 1)

    assert backend.calls[0]["task_id"] == task_id
    assert "dispatcher.unreadable" in [entry["event"] for entry in logs]
    assert "dispatcher" not in [entry.get("service") for entry in logs]  # it did not fall over it


# Who can run it


async def test_a_task_that_no_server_can_run_waits_and_holds_up_nobody(
    service: Service, backend: BackendServer
) -> None:
    await service.admin.register(backend, "images", types=["image"])
    videos = await submit_all(service.alice, [{"type": "video", "payload": number} for number in range(30)])

    images = await submit_all(service.alice, [{"type": "image", "payload": number} for number in range(30)])
    for task_id in images:
        assert (await service.alice.ended(task_id))["serverId"] == "images"
    assert {(await service.alice.details(task_id))["status"] for task_id in videos} == {"WAITING"}

    await service.admin.register(backend, "videos", types=["video"])
    for task_id in videos:
        assert (await service.alice.ended(task_id))["serverId"] == "videos"


async def test_tasks_whose_only_server_is_full_hold_up_no_others(service: Service, backend: BackendServer) -> None:
    async with BackendServer(hold) as busy:
        await service.admin.register(busy, "videos", types=["video"], maxConcurrent=1)
        await service.admin.register(backend, "images", types=["image"], maxConcurrent=2)
        videos = await submit_all(service.alice, [{"type": "video", "payload": number} for number in range(30)])
        await called(busy, 1)

        images = await submit_all(service.alice, [{"type": "image", "payload": number} for number in range(30)])
        for task_id in images:
            await service.alice.ended(task_id)
        assert len(busy.calls) == 1

        busy.let_go.set()
        for task_id in videos:
            assert (await service.alice.ended(task_id))["serverId"] == "videos"


async def test_a_task_finds_its_server_whichever_worker_takes_it_out(nats_url: str, backend: BackendServer) -> None:
    kinds = [f"kind{number}" for number in range(4)]
    async with running_service(nats_url) as first, running_service(nats_url):
        for kind in kinds:
            await first.admin.register(backend, kind, types=[kind])
        tasks = {await first.alice.submit({"type": kind, "payload": n}): kind for n in range(10) for kind in kinds}

        for task_id, kind in tasks.items():
            assert (await first.alice.ended(task_id))["serverId"] == kind


async def test_a_type_may_be_registered_and_moved_to_another_pool_while_its_tasks_wait(
    service: Service, backend: BackendServer
) -> None:
    tasks = [await service.alice.submit({"type": "song", "payload": "before"})]
    for pool in ("music", "audio"):
        assert (await service.admin.put("/api/types/song", {"pool": pool})).status == 200
        tasks.append(await service.alice.submit({"type": "song", "payload": pool}))

    await service.admin.register(backend, "singer", types=["song"])
    for task_id in tasks:
        assert (await service.alice.ended(task_id))["status"] == "FINISHED"

    assert (await service.admin.put("/api/types/song", {"pool": "late"})).status == 200
    assert (await service.alice.ended(await service.alice.submit({"type": "song", "payload": 1})))["attempt"] == 1


async def test_the_least_loaded_server_is_chosen(service: Service, backend: BackendServer) -> None:
    backend.answer = hold
    async with BackendServer(hold) as other:
        await service.admin.register(backend, "a", maxConcurrent=4)
        await service.admin.register(other, "b", maxConcurrent=2)

        for number in range(6):
            await service.alice.submit({"payload": number})
            await wait_until(lambda wanted=number + 1: len(backend.calls) + len(other.calls) == wanted, "the next call")
            assert abs(len(backend.calls) / 4 - len(other.calls) / 2) <= 0.5

        assert (len(backend.calls), len(other.calls)) == (4, 2)
        backend.let_go.set()


# Servers that come and go


async def test_a_server_that_is_removed_finishes_what_it_has(service: Service, backend: BackendServer) -> None:
    backend.answer = hold
    await service.admin.register(backend, "leaving")
    task_id = await service.alice.submit({"payload": 1})
    await called(backend, 1)

    assert (await service.admin.delete("/api/servers/leaving")).status == 200
    waiting = await service.alice.submit({"payload": 2})
    backend.let_go.set()
    assert (await service.alice.ended(task_id))["serverId"] == "leaving"
    assert (await service.alice.details(waiting))["status"] == "WAITING"

    backend.answer = echo
    await service.admin.register(backend, "coming")
    assert (await service.alice.ended(waiting))["serverId"] == "coming"


async def test_a_server_replaced_by_a_callback_server_of_the_same_id_frees_its_slots(
    service: Service, backend: BackendServer
) -> None:
    await service.admin.register(backend, "changing", maxConcurrent=1)
    await service.alice.ended(await service.alice.submit({"payload": 0}))

    backend.answer = reporting = Reporting(1)
    await service.admin.register(backend, "changing", maxConcurrent=1, **{"async": True, "callback": True})
    tasks = await submit_all(service.alice, [{"payload": number} for number in range(8)])
    for task_id in tasks:
        assert (await service.alice.ended(task_id))["result"]["data"] == "reported"

    assert reporting.most_open == 1


async def test_each_of_two_servers_has_its_limit_at_once_and_never_more(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = overlapping(5)
    async with BackendServer(overlapping(7)) as other:
        await service.admin.register(backend, "a", maxConcurrent=5)
        await service.admin.register(other, "b", maxConcurrent=7)
        tasks = await asyncio.gather(
            *(
                service.client(f"user{number % 7}").submit(
                    {"payload": number, "priority": ("high", "normal", "low")[number % 3]}
                )
                for number in range(200)
            )
        )
        for number, task_id in enumerate(tasks):
            assert (await service.client(f"user{number % 7}").ended(task_id))["attempt"] == 1
        await queue_holds(service, 0)

    assert len(backend.calls) + len(other.calls) == 200
    assert (backend.most_at_once, other.most_at_once) == (5, 7)
