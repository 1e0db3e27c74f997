"""Tasks by the Python client, on a real service."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
from typing import Any

import pytest
from aiohttp import web

from taskstream_client import (
    AsyncClient,
    Client,
    Ended,
    NewTask,
    NotFound,
    Progress,
    Refused,
    Started,
    State,
    TaskCancelled,
    TaskFailed,
    WaitTimeout,
)
from testkit.backend import BackendServer, finished, hold, status
from testkit.service import Service, token
from testkit.waiting import wait_until

from .conftest import Threaded


async def spoken(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
    """Answer with a stream of two reports and the result."""
    answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await answer.prepare(request)
    await answer.write(b'{"progress": 50, "message": "half", "output": "one "}\n')
    await answer.write(b'{"progress": 90, "output": "two"}\n')
    await answer.write(b'{"data": {"said": "one two"}}\n')
    return answer


async def test_run_returns_the_data_of_the_result(
    service: Service, backend: BackendServer, alice: AsyncClient, blocking: Threaded
) -> None:
    await service.admin.register(backend, "one")

    assert await alice.run("shout", {"text": "a"}) == {"echo": {"text": "a"}}
    assert await blocking(lambda client: client.run("shout", {"text": "b"})) == {"echo": {"text": "b"}}


async def test_run_raises_what_the_task_came_to(service: Service, backend: BackendServer, alice: AsyncClient) -> None:
    backend.answer = status(400, {"error": "`text` must be text"})
    await service.admin.register(backend, "one")

    with pytest.raises(TaskFailed, match="must be text") as failed:
        await alice.run("shout", {})

    assert failed.value.task.failure_kind == "rejected"
    assert failed.value.task.payload == {}
    held = await alice.submit("shout", {}, delay=3600)
    await alice.cancel(held.id, reason="enough")
    with pytest.raises(TaskCancelled):
        await alice.run("shout", {}, idempotency_key="k", delay=3600, timeout=60, progress=_cancels(service, alice))


def _cancels(service: Service, client: AsyncClient) -> Any:
    """Return a listener that cancels the task that it is shown."""
    later: list[asyncio.Task[Any]] = []

    def show(update: object) -> None:
        if not later and not isinstance(update, Ended):
            later.append(asyncio.ensure_future(client.cancel(update.task_id)))  # type: ignore[attr-defined]

    return show


async def test_an_invalid_task_is_refused_with_its_path(alice: AsyncClient) -> None:
    with pytest.raises(Refused, match="priority") as refused:
        await alice.submit("shout", {}, priority="urgent")  # type: ignore[arg-type]

    assert (refused.value.status, refused.value.path) == (400, "$.priority")
    with pytest.raises(NotFound, match="Check the id"):
        await alice.tasks.get("01KDW1Z6P0C6N4T0Z5V3Q9H8RB~alice")


async def test_a_wait_ends_at_its_timeout_and_the_task_goes_on(alice: AsyncClient) -> None:
    task = await alice.submit("shout", {}, delay=3600)

    with pytest.raises(WaitTimeout, match="It goes on") as late:
        await alice.wait(task.id, timeout=0.2)
    with pytest.raises(WaitTimeout):
        await alice.run("shout", {}, delay=3600, timeout=0.2, progress=lambda update: None)

    assert late.value.task_id == task.id
    assert not (await alice.tasks.get(task.id)).ended


@pytest.mark.parametrize("cancels", [True, False])
async def test_leaving_run_cancels_its_task_only_if_asked(alice: AsyncClient, cancels: bool) -> None:
    run = asyncio.create_task(alice.run("shout", {}, delay=3600, idempotency_key="k", cancel_on_exit=cancels))
    listed = await wait_until(lambda: _first(alice), "the task to be there")
    run.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await run

    assert (await alice.tasks.get(listed.id)).status == ("CANCELLED" if cancels else "WAITING")


async def _first(client: AsyncClient) -> Any:
    return await anext(aiter(client.tasks.list(limit=1)), None)


async def test_a_stream_brings_typed_updates_and_ends_with_the_task(
    service: Service, backend: BackendServer, alice: AsyncClient, blocking: Threaded
) -> None:
    backend.answer = spoken
    await service.admin.register(backend, "one")
    task = await alice.submit("shout", {})

    updates = [update async for update in alice.stream(task.id)]
    history = await blocking(lambda client: list(client.stream(task.id, after="0")))

    assert isinstance(updates[0], State)
    for found in (updates, history):
        assert isinstance(found[-1], Ended)
        assert found[-1].status == "FINISHED"
        assert found[-1].result is not None
        assert found[-1].result.data == {"said": "one two"}
    assert "".join(each.output for each in history if isinstance(each, Progress)) == "one two"
    assert [each.server_id for each in history if isinstance(each, Started)] == ["one"]
    assert [update async for update in alice.stream(task.id, after=updates[-1].id)] == []


async def test_run_shows_progress(service: Service, backend: BackendServer, alice: AsyncClient) -> None:
    backend.answer = spoken
    await service.admin.register(backend, "one")
    shown: list[Any] = []

    assert await alice.run("shout", {}, progress=shown.append) == {"said": "one two"}

    assert "".join(each.output for each in shown if isinstance(each, Progress)) == "one two"
    assert isinstance(shown[-1], Ended)


async def test_a_task_is_submitted_once_per_key(alice: AsyncClient) -> None:
    first = await alice.submit("shout", {"a": 1}, idempotency_key="k")

    assert (await alice.submit("shout", {"a": 1}, idempotency_key="k")).id == first.id
    assert (await alice.submit("shout", {"a": 1})).id != first.id
    with pytest.raises(Refused, match="422"):
        await alice.submit("shout", {"a": 2}, idempotency_key="k")


async def test_all_options_of_a_submission_reach_the_service(alice: AsyncClient) -> None:
    parent = await alice.submit("shout", {}, delay=3600)
    later = datetime.datetime(2099, 1, 1, tzinfo=datetime.UTC)

    task = await alice.submit(
        "shout",
        {"a": [1, None, "é"]},
        priority="high",
        attempt_timeout=12.5,
        attempts=7,
        run_at=later,
        expires_at=later + datetime.timedelta(hours=1),
        deadline=later + datetime.timedelta(hours=2),
        depends_on=[parent.id],
        on_parent_failure="skip",
        concurrency_key="album",
        require={"gpu": "a100"},
        prefer={"zone": "b"},
    )

    found = await alice.tasks.get(task.id)
    assert found == task
    assert (found.priority, found.attempts, found.run_at, found.concurrency_key) == ("high", 7, later, "album")
    assert (found.depends_on, found.on_parent_failure) == ([parent.id], "skip")
    assert (found.require, found.prefer, found.payload) == ({"gpu": "a100"}, {"zone": "b"}, {"a": [1, None, "é"]})
    assert found.deadline == later + datetime.timedelta(hours=2)


async def test_a_list_is_read_page_by_page_when_its_entries_are_wanted(alice: AsyncClient, blocking: Threaded) -> None:
    batch = await alice.batch([NewTask(type="shout", payload=n, delay=3600) for n in range(450)])

    everything = [task.id async for task in alice.tasks.list(status="WAITING", type=["shout", "other"])]
    some = await blocking(lambda client: [task.id for task in itertools.islice(client.tasks.list(), 3)])

    assert everything == batch.task_ids[::-1]
    assert some == everything[:3]
    assert [task.id async for task in alice.tasks.list(limit=201)] == everything[:201]
    assert (await alice.tasks.count(where={"status": "WAITING"})).count == 450


async def test_a_cancelled_task_is_retried(service: Service, backend: BackendServer, alice: AsyncClient) -> None:
    task = await alice.submit("shout", {}, delay=3600)

    assert (await alice.cancel(task.id, reason="enough")).status == "CANCELLED"
    assert (await alice.cancel(task.id)).status == "CANCELLED"
    await alice.retry(task.id)
    await service.admin.register(backend, "one")

    assert (await alice.wait(task.id)).status == "FINISHED"
    with pytest.raises(Refused):
        await alice.cancel(task.id)
    assert (await anext(alice.tasks.events(task.id))).type == "TaskSubmitted"
    assert (await alice.tasks.why(task.id)).summary


async def test_bulk_commands_take_ids_or_a_filter(alice: AsyncClient) -> None:
    batch = await alice.batch([{"payload": n, "delay": 3600} for n in range(5)])

    assert (await alice.tasks.cancel_many(batch.task_ids[:2])).done == 2
    assert (await alice.tasks.cancel_many(where={"status": ["WAITING"]}, dry_run=True)).matched == 3
    assert (await alice.tasks.cancel_many(where={"status": ["WAITING"]})).done == 3
    assert (await alice.tasks.delete_many(batch.task_ids)).done == 5
    with pytest.raises(ValueError, match="one of the two"):
        await alice.tasks.retry_many()


async def test_the_stream_of_all_tasks_follows_new_ones(alice: AsyncClient) -> None:
    first = await alice.submit("shout", {}, delay=3600)
    found: list[Any] = []
    stream = alice.tasks.stream()
    found.append(await anext(stream))
    second = await alice.submit("other", {}, delay=3600)
    found.append(await anext(stream))
    await stream.aclose()

    assert [update.task_id for update in found] == [first.id, second.id]
    assert isinstance(found[0], State)


async def test_results_are_whole_however_large(service: Service, backend: BackendServer, alice: AsyncClient) -> None:
    text = "x" * 3_000_000

    async def large(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
        return web.json_response(finished(task, {"text": text}))

    backend.answer = large
    await service.admin.register(backend, "one")
    task = await alice.submit("shout", {})
    updates = [update async for update in alice.stream(task.id)]

    assert (await alice.wait(task.id)).data == {"text": text}
    result = await alice.results.get(task.id)
    assert result is not None
    assert result.data == {"text": text}
    assert isinstance(updates[-1], Ended)
    assert updates[-1].result is None


async def test_a_file_is_downloaded_and_appears_when_it_is_complete(
    service: Service, backend: BackendServer, alice: AsyncClient, blocking: Threaded, tmp_path: Any
) -> None:
    picture = bytes(range(256)) * 3000

    async def draw(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
        return web.Response(body=picture, content_type="image/png")

    backend.answer = draw
    await service.admin.register(backend, "one")
    task = await alice.wait((await alice.submit("draw", {})).id)
    assert task.result is not None
    (file,) = task.result.files

    assert (file.media_type, file.bytes) == ("image/png", len(picture))
    assert await alice.results.read(file) == picture
    assert await blocking(lambda client: client.results.download(task.id, tmp_path / "a.png")) == len(picture)
    assert [path.name for path in tmp_path.iterdir() if path.suffix in (".png", ".part")] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == picture


async def test_a_client_takes_its_settings_from_the_environment(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKSTREAM_URL", service.url + "/api/")
    monkeypatch.setenv("TASKSTREAM_TOKEN", token("alice"))

    async with AsyncClient() as client:
        me = await client.me()
        assert (me.subject, me.roles) == ("alice", ["user"])
    monkeypatch.delenv("TASKSTREAM_TOKEN")
    monkeypatch.setenv("TASKSTREAM_API_KEY", token("bob"))
    with Client() as blocking:
        assert (await asyncio.to_thread(blocking.me)).subject == "bob"


async def test_the_work_is_not_stopped_by_a_stream_that_is_left(
    service: Service, backend: BackendServer, alice: AsyncClient
) -> None:
    backend.answer = hold
    await service.admin.register(backend, "one")
    task = await alice.submit("shout", {})
    async with contextlib.aclosing(alice.stream(task.id, after="0")) as updates:
        async for update in updates:
            if isinstance(update, Started):
                break
    backend.let_go.set()

    assert (await alice.wait(task.id)).status == "FINISHED"
