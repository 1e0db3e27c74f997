"""Workers of RunPod's protocol take the tasks of a pulled server. What they send is what real ones sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import Raw

from taskstream.api.runpod import refusals
from taskstream.api.runpod import routes as runpod_routes
from taskstream.backends.dialects.dialect import Update
from taskstream.events.ids import parse_task_id
from taskstream.events.subjects import timer_subject
from taskstream.pulling.attempts import AttemptAnswer, PulledAttempt
from taskstream.streams.jetstream.messages import last_position
from testkit.puller import register_pulled
from testkit.runpod_worker import RunpodWorker, recorded_posts
from testkit.service import Service, running_service

SERVER = "shouting"
TASK = {"type": "shout", "payload": {"text": "hello world"}}


@pytest.fixture
async def worker(service: Service) -> RunpodWorker:
    await register_pulled(service.admin, SERVER)
    return RunpodWorker(service.client("fleet", "service"))


async def ended_as_recorded(service: Service, worker: RunpodWorker, name: str) -> dict[str, Any]:
    """Submit a task, let a worker send what was recorded, and return how the task has ended."""
    task_id = await service.alice.submit(TASK)
    job = await worker.one()
    assert job["input"] == TASK["payload"]
    for kind, query, body in recorded_posts(name):
        await worker.send_as_recorded(job["id"], kind, query, body)
    return await service.alice.ended(task_id)


async def test_a_handler_s_output_is_the_result(service: Service, worker: RunpodWorker) -> None:
    ended = await ended_as_recorded(service, worker, "plain")
    assert ended["status"] == "FINISHED"
    assert ended["result"]["data"] == {"shouted": "HELLO WORLD"}
    kinds = [event["type"] for event in await service.alice.history(ended["id"])]
    assert "ProgressReported" in kinds


@pytest.mark.parametrize(
    ("name", "data"),
    [("stream", ["HELLO ", "WORLD "]), ("stream-aggregate", ["HELLO ", "WORLD "])],
)
async def test_the_pieces_of_a_generator_are_the_result(
    service: Service, worker: RunpodWorker, name: str, data: Any
) -> None:
    ended = await ended_as_recorded(service, worker, name)
    assert (ended["status"], ended["result"]["data"]) == ("FINISHED", data)


async def test_pieces_that_are_no_text_keep_their_form(service: Service, worker: RunpodWorker) -> None:
    task_id = await service.alice.submit(TASK)
    job = await worker.one()
    for piece in ({"step": 1}, "text", 7):
        await worker.send(job["id"], "job-stream", {"output": piece})
    await worker.send(job["id"], "job-done", {"output": []}, streams=True)
    assert (await service.alice.ended(task_id))["result"]["data"] == [{"step": 1}, "text", 7]


@pytest.mark.parametrize("name", ["plain-failed", "plain-error-key", "stream-failed"])
async def test_an_error_of_a_handler_fails_the_task_and_says_why(
    service: Service, worker: RunpodWorker, name: str
) -> None:
    ended = await ended_as_recorded(service, worker, name)
    assert ended["status"] == "FAILED"
    assert any(reason in ended["error"] for reason in ("the model broke", "refused by the model"))


async def test_a_report_after_the_end_changes_nothing(service: Service, worker: RunpodWorker) -> None:
    task_id = await service.alice.submit(TASK)
    job = await worker.one()
    await worker.send(job["id"], "job-done", {"output": 1})
    ended = await service.alice.ended(task_id)
    for body in ({"output": 2}, {"error": "late"}, {"status": "IN_PROGRESS", "output": "late"}):
        await worker.send(job["id"], "job-done", body)
    await worker.send(job["id"], "job-stream", {"output": "late"})
    assert await service.alice.details(task_id) == ended


async def test_a_batch_brings_several_jobs(service: Service, worker: RunpodWorker) -> None:
    for _ in range(3):
        await service.alice.submit(TASK)
    taken: list[dict[str, Any]] = []
    while len(taken) < 3:
        taken += await worker.take(most=3)
    assert len({job["id"] for job in taken}) == 3


async def test_a_cancelled_task_s_job_is_to_stop_and_a_ping_shows_that_it_has(
    service: Service, worker: RunpodWorker
) -> None:
    task_id = await service.alice.submit(TASK)
    async with worker.watching() as told:
        job = await worker.one()
        await service.alice.done("POST", f"/api/task/{task_id}/cancel")
        assert await told == [job["id"]]
    async with worker.watching() as told_again:
        await worker.ping(job["id"])
        assert (await service.alice.details(task_id))["cancelOutcome"] is None
        await worker.ping()
        assert (await service.alice.details(task_id))["cancelOutcome"] == "confirmed"
        assert not told_again.done()


async def test_the_pings_of_a_dead_worker_renew_nothing(nats_url: str) -> None:
    """The process that pings outlives a killed worker."""
    async with running_service(nats_url, pull_lease=1.0, retry_base=0.01) as service:
        await register_pulled(service.admin, SERVER)
        killed, other = (RunpodWorker(service.client("fleet", "service"), name) for name in ("killed", "other"))
        task_id = await service.alice.submit(TASK)
        async with killed.watching():
            job = await killed.one()

        async def ping_until_lost() -> None:
            while True:
                await killed.ping(job["id"])

        pinging = asyncio.create_task(ping_until_lost())
        again = await other.one()
        pinging.cancel()
        assert again["id"] != job["id"]
        await killed.send(job["id"], "job-done", {"output": "late"})
        await other.send(again["id"], "job-done", {"output": "in time"})
        assert (await service.alice.ended(task_id))["result"]["data"] == "in time"


async def test_pings_renew_the_leases_of_a_living_worker(service: Service, worker: RunpodWorker) -> None:
    task_id = await service.alice.submit(TASK)
    lease = timer_subject("deadline", *parse_task_id(task_id))
    async with worker.watching():
        job = await worker.one()
        before = await last_position(service.container.reading, "TIMERS", lease)
        assert before is not None
        await worker.ping("unknown", job["id"])
        after = await last_position(service.container.reading, "TIMERS", lease)
        assert after is not None
        assert after.sequence > before.sequence


async def test_a_refusal_of_a_long_poll_is_held(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK repeats a refused request at once."""
    held: list[str] = []

    async def hold(self: refusals.HeldRefusals, scope: Any, receive: Any) -> None:
        held.append(scope["path"])

    monkeypatch.setattr(refusals.HeldRefusals, "_hold", hold)
    for client in (service.client("fleet", "service"), service.alice, service.anonymous):
        worker = RunpodWorker(client, server_id="unknown")
        async with worker.request("GET", "job-take/w", "t=1") as response:
            assert response.status in (401, 403, 404)
    assert held == 3 * ["/runpod/jobs/unknown/job-take/w"]


async def test_a_result_that_is_no_json_is_no_success(service: Service, worker: RunpodWorker) -> None:
    task_id = await service.alice.submit(TASK | {"attempts": 1})
    for body in ("{", '{"output": NaN}', "[]", ""):
        job = await worker.one()
        await worker.send_as_recorded(job["id"], "job-done", "t=1&isStream=false", body)
        kinds = [event["type"] for event in await service.alice.history(task_id)]
        assert "TaskSucceeded" not in kinds
        if "TaskFailed" in kinds:
            break
    assert (await service.alice.ended(task_id))["status"] == "FAILED"


async def test_a_worker_of_another_server_s_token_is_refused(service: Service, worker: RunpodWorker) -> None:
    await register_pulled(service.admin, "other")
    task_id = await service.alice.submit(TASK)
    job = await worker.one()
    stranger = RunpodWorker(service.client("other", "service"))
    async with stranger.request("POST", f"job-done/w/{job['id']}", "t=1", '{"output": 1}') as response:
        assert response.status == 403
    elsewhere = RunpodWorker(service.client("other", "service"), server_id="other")
    await elsewhere.send(job["id"], "job-done", {"output": 1})
    assert (await service.alice.details(task_id))["status"] == "PROCESSING"


async def test_an_idle_worker_s_watch_ends_so_that_the_worker_may(
    service: Service, worker: RunpodWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK ends only when its requests are answered."""
    monkeypatch.setattr(runpod_routes, "IDLE_SECONDS", 0.0)
    await service.alice.submit(TASK)
    async with worker.watching() as told:
        job = await worker.one()
        await worker.send(job["id"], "job-done", {"output": 1})
        assert await told == []


async def test_progress_beside_a_stream_changes_no_piece_of_it(
    service: Service, worker: RunpodWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, reports = service.container.pulled_attempts, service.container.reports
    real = attempts.renew

    async def report_and_renew(attempt: PulledAttempt) -> AttemptAnswer:
        """Report progress, as another thread of the worker does, before the piece is answered."""
        seen = Update(custom_data=Raw(b'{"seen":1}'))
        key, by, known = attempt.key, attempt.by, attempt.known
        await reports.progress(key.ref, seen, attempt.reporter, by=by, cause="", known=known)
        return await real(attempt)

    monkeypatch.setattr(attempts, "renew", report_and_renew)
    task_id = await service.alice.submit(TASK)
    job = await worker.one()

    for number in range(15):
        await worker.send(job["id"], "job-stream", {"output": {"step": number}})
    await worker.send(job["id"], "job-done", {"output": []}, streams=True)

    assert (await service.alice.ended(task_id))["result"]["data"] == [{"step": number} for number in range(15)]
