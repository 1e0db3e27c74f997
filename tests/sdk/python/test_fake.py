"""The fake of the Python client behaves as the service does: the same tests run against both."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from taskstream_client import (
    AsyncClient,
    Ended,
    NewTask,
    NotFound,
    Progress,
    RateLimited,
    Refused,
    Started,
    State,
    TaskCancelled,
    TaskFailed,
    TaskstreamError,
    Unavailable,
    WaitTimeout,
)
from taskstream_client.server import Failed, Reject, Server
from taskstream_client.testing import FakeTaskstream
from testkit.service import running_service, token


def shout(job: Any) -> Any:
    words = job.payload["text"].split()
    for number, word in enumerate(words, 1):
        job.report(100 * number / len(words), f"word {number}", output=word.upper() + " ", log=f"line {number}")
    return {"shouted": job.payload["text"].upper(), "attempt": job.attempt}


def reject(job: Any) -> Any:
    raise Reject("`text` must be text")


def fail(job: Any) -> Any:
    if job.attempt < job.payload["good"]:
        raise Failed("out of memory")
    return job.attempt


WORKS: dict[str, Callable[[Any], Any]] = {"shout": shout, "reject": reject, "fail": fail}


class Two:
    """Clients of two users of the same service, or of the same fake."""

    def __init__(self, alice: AsyncClient, bob: AsyncClient) -> None:
        self.alice = alice
        self.bob = bob


@contextlib.asynccontextmanager
async def faked() -> AsyncIterator[Two]:
    fake = FakeTaskstream()
    for name, work in WORKS.items():
        fake.predict(name)(work)
    async with fake.async_client("alice") as alice, fake.async_client("bob") as bob:
        yield Two(alice, bob)


@contextlib.asynccontextmanager
async def real(nats_url: str) -> AsyncIterator[Two]:
    server = Server(capacity=10)
    for name, work in WORKS.items():
        server.predict(name)(work)
    runner = web.AppRunner(server.aiohttp_app(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with (
            running_service(nats_url) as service,
            AsyncClient(service.url, token("root", "admin")) as root,
            AsyncClient(service.url, token("alice")) as alice,
            AsyncClient(service.url, token("bob")) as bob,
        ):
            for name in (*WORKS, "nobody"):
                await root.types.define(name)
            await root.servers.register("one", predict=f"{url}/predict", health=f"{url}/health", types=list(WORKS))
            yield Two(alice, bob)
    finally:
        await runner.cleanup()


@pytest.fixture(params=["fake", "real"])
async def two(request: pytest.FixtureRequest) -> AsyncIterator[Two]:
    """Both: each test runs twice."""
    over = faked() if request.param == "fake" else real(request.getfixturevalue("nats_url"))
    async with over as two:
        yield two


async def test_run_returns_the_result_and_shows_all_progress(two: Two) -> None:
    shown: list[Any] = []

    assert await two.alice.run("shout", {"text": "a b"}) == {"shouted": "A B", "attempt": 1}
    assert (await two.alice.run("shout", {"text": "a b"}, progress=shown.append))["shouted"] == "A B"

    reports = [update for update in shown if isinstance(update, Progress)]
    assert "".join(report.output for report in reports) == "A B "
    assert [line for report in reports for line in report.lines] == ["line 1", "line 2"]
    assert (reports[-1].progress, reports[-1].message) == (100, "word 2")
    assert shown[0].type == "TaskSubmitted"
    assert isinstance(shown[-1], Ended)


async def test_a_rejected_task_has_one_attempt_and_a_failed_one_all(two: Two) -> None:
    with pytest.raises(TaskFailed, match="must be text") as rejected:
        await two.alice.run("reject", {})
    with pytest.raises(TaskFailed, match="out of memory") as failed:
        await two.alice.run("fail", {"good": 9}, attempts=2)

    assert (rejected.value.task.failure_kind, rejected.value.task.attempt) == ("rejected", 1)
    assert (failed.value.task.failure_kind, failed.value.task.attempt) == ("error", 2)
    assert await two.alice.run("fail", {"good": 3}) == 3


async def test_a_stream_starts_with_the_state_and_resumes_after_an_update(two: Two) -> None:
    task = await two.alice.submit("shout", {"text": "a"}, delay=0.3)

    updates = [update async for update in two.alice.stream(task.id)]
    history = [update async for update in two.alice.stream(task.id, after="0")]

    assert isinstance(updates[0], State)
    assert (updates[0].task.id, updates[0].task.status) == (task.id, "WAITING")
    for found in (updates, history):
        assert [type(update) for update in found if isinstance(update, (Started, Ended))] == [Started, Ended]
        assert found[-1].result.data["shouted"] == "A"  # type: ignore[union-attr]
    assert [update async for update in two.alice.stream(task.id, after=history[-1].id)] == []
    again = [update async for update in two.alice.stream(task.id)]
    assert [type(update) for update in again] == [State]


async def test_a_key_submits_once(two: Two) -> None:
    first = await two.alice.submit("shout", {"text": "a"}, idempotency_key="k", delay=3600)

    assert (await two.alice.submit("shout", {"text": "a"}, idempotency_key="k", delay=3600)).id == first.id
    assert (await two.bob.submit("shout", {"text": "a"}, idempotency_key="k", delay=3600)).id != first.id
    with pytest.raises(Refused) as refused:
        await two.alice.submit("shout", {"text": "b"}, idempotency_key="k", delay=3600)
    assert refused.value.status == 422


async def test_tasks_are_cancelled_and_retried(two: Two) -> None:
    task = await two.alice.submit("shout", {"text": "a"}, delay=3600)

    assert (await two.alice.cancel(task.id)).status == "CANCELLED"
    assert (await two.alice.cancel(task.id)).status == "CANCELLED"
    with pytest.raises(TaskCancelled):
        await two.alice.run("shout", {"text": "a"}, depends_on=[task.id], on_parent_failure="skip")
    await two.alice.retry(task.id)
    assert (await two.alice.wait(task.id)).status == "FINISHED"
    for command in (two.alice.cancel, two.alice.retry):
        with pytest.raises(Refused) as refused:
            await command(task.id)
        assert refused.value.status == 409


async def test_a_parent_is_waited_for(two: Two) -> None:
    parent = await two.alice.submit("reject", {})
    with pytest.raises(TaskFailed) as failed:
        await two.alice.run("shout", {"text": "a"}, depends_on=[parent.id])

    assert failed.value.task.failure_kind == "parent_failed"
    assert (await two.alice.run("shout", {"text": "a"}, depends_on=[parent.id], on_parent_failure="run"))[
        "attempt"
    ] == 1


async def test_a_task_that_nobody_does_is_not_waited_for_longer_than_asked(two: Two) -> None:
    task = await two.alice.submit("nobody", {})

    with pytest.raises(WaitTimeout):
        await two.alice.wait(task.id, timeout=0.2)
    assert (await two.alice.tasks.get(task.id)).status == "WAITING"


@pytest.mark.parametrize(
    ("options", "path"),
    [({"priority": "urgent"}, "$.priority"), ({"attempts": 0}, "$.attempts"), ({"depends_on": ["x"]}, "$.dependsOn")],
    ids=["priority", "attempts", "parents"],
)
async def test_an_invalid_task_is_refused_with_its_path(two: Two, options: Any, path: str) -> None:
    with pytest.raises(Refused) as refused:
        await two.alice.submit("shout", {}, **options)

    assert refused.value.status == 400
    assert str(refused.value.path).startswith(path)


async def test_the_tasks_of_others_do_not_exist(two: Two) -> None:
    task = await two.alice.submit("shout", {"text": "a"}, delay=3600)

    for call in (two.bob.tasks.get, two.bob.cancel, two.bob.retry, two.bob.wait):
        with pytest.raises(NotFound):
            await call(task.id)
    assert [each async for each in two.bob.tasks.list()] == []


async def test_lists_batches_and_results_are_alike(two: Two) -> None:
    items: list[Any] = [NewTask(type="shout", payload={"text": str(number)}) for number in range(5)]
    items.append(NewTask(type="shout", payload={"text": "last"}, depends_on=[0, 4]))

    batch = await two.alice.batch(items, idempotency_key="k")
    await two.alice.wait(batch.task_ids[5])
    for task_id in batch.task_ids:
        await two.alice.wait(task_id)

    assert (await two.alice.batch(items, idempotency_key="k")).repeated
    assert [task.id async for task in two.alice.tasks.list()] == batch.task_ids[::-1]
    assert [task.id async for task in two.alice.tasks.list(limit=2, status="FINISHED")] == batch.task_ids[:-3:-1]
    assert (await two.alice.tasks.count()).count == 6
    found = await two.alice.batches.get(batch.batch_ids[0])
    assert (found.size, found.done) == (6, True)
    shown = [task async for task in two.alice.batches.tasks(batch.batch_ids[0], results=True)]
    assert [(task.index, task.data["shouted"]) for task in shown][-1] == (5, "LAST")
    result = await two.alice.results.get(batch.task_ids[1])
    assert result is not None
    assert result.data == {"shouted": "1", "attempt": 1}
    names = [event.type async for event in two.alice.tasks.events(batch.task_ids[0])]
    assert (names[0], names[-1]) == ("TaskSubmitted", "TaskSucceeded")


# What only the fake can do


def test_the_fake_answers_as_it_is_told() -> None:
    fake = FakeTaskstream()
    fake.predict()(lambda job: job.payload)
    with fake.client() as client:
        fake.refuse(503, retry_after=7)
        fake.cut()
        assert client.run("any", {"a": 1}) == {"a": 1}
        assert len([path for _, path in fake.requests if path == "/api/task"]) == 3
        assert client.tasks.count().count == 1, "a lost answer submits nothing twice"
        fake.refuse(429, retry_after=1000)
        with pytest.raises(RateLimited):
            client.submit("any", {})
        fake.refuse(503, times=1000)
        with pytest.raises(Unavailable):
            client.me()


def test_the_fake_says_what_it_does_not_know() -> None:
    fake = FakeTaskstream()
    with fake.client() as client:
        with pytest.raises(TaskstreamError, match=r"know GET /api/stats; set its answer with fake\.answer"):
            client.request("GET", "/api/stats")
        fake.answer("GET", "/api/stats", {"totals": {}})
        assert client.request("GET", "/api/stats") == {"totals": {}}


def test_the_clock_of_the_fake_starts_tasks() -> None:
    fake = FakeTaskstream()
    fake.predict("a")(lambda job: "done")
    with fake.client() as client:
        task = client.submit("a", {}, delay=60)
        fake.run_all()
        assert client.tasks.get(task.id).status == "WAITING"
        fake.advance(60)
        fake.run_all()
        assert client.tasks.get(task.id).data == "done"
