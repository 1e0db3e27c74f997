"""Servers that know nothing of Taskstream, through the whole service: plain ones, and ones whose jobs are polled."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from testkit.jobs_server import Job, JobsServer, done_after, endless, failing
from testkit.legality import check_history
from testkit.model_servers import ModelServer, Ollama
from testkit.service import Service
from testkit.waiting import wait_until

from .behaviour import errors, types

POLLED: dict[str, Any] = {
    "request": {"body": {"in": "$payload", "id": "$id"}},
    "accepted": {"id": "$.job"},
    "poll": {
        "url": "{id}", "interval": 0.2, "patience": 1, "done": '$.state == "done"', "failed": '$.state == "failed"',
        "progress": "$.percent", "logs": "$.log",
    },
    "result": "$.output",
    "error": "$.why",
    "cancel": {"method": "DELETE", "url": "{id}", "confirmed": "$.stopped == true"},
}  # fmt: skip


@pytest.fixture
async def jobs() -> AsyncIterator[JobsServer]:
    async with JobsServer() as server:
        yield server


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


async def register(
    service: Service, server: JobsServer, server_id: str = "jobs", exchange: Any = None, **more: Any
) -> None:
    await service.admin.register(server, server_id, dialect="bare", exchange=exchange or POLLED, **more)


async def register_plain(service: Service, model: ModelServer, **more: Any) -> None:
    endpoints = {"predict": model.url + model.path, "health": f"{model.url}/health"}
    body = {"id": "plain", "name": "plain", "provider": "test", "dialect": "bare", "endpoints": endpoints, **more}
    await service.admin.done("POST", "/api/servers", body)
    await service.admin.server_is("plain", "online")


async def polled(server: JobsServer, polls: int = 1) -> None:
    """Wait until a job was polled so often."""
    await wait_until(lambda: any(job.polls >= polls for job in server.jobs.values()), "a poll")


# The answer is the result


async def test_a_plain_server_gets_the_payload_and_its_json_is_the_result(service: Service, model: ModelServer) -> None:
    await register_plain(service, model, apiKey="key-of-the-server", exchange={"request": {"headers": {"X-V": "2"}}})

    details = await service.alice.ended(await service.alice.submit({"payload": {"text": "hi"}}))

    assert (details["status"], details["result"]["data"]) == ("FINISHED", {"got": {"text": "hi"}})
    assert model.requests == [{"text": "hi"}]


async def test_text_and_bytes_are_results(service: Service, model: ModelServer) -> None:
    await register_plain(service, model)
    model.answer = web.Response(text="It was dark.")
    text = await service.alice.ended(await service.alice.submit({"payload": 1}))
    model.answer = web.Response(body=b"RIFF\x00wave", content_type="audio/wav")
    sound = await service.alice.ended(await service.alice.submit({"payload": 1}))

    assert text["result"]["data"] == "It was dark."
    data = sound["result"]["data"]
    assert (data["mediaType"], data["bytes"]) == ("audio/wav", 9)
    async with service.alice.session.get(
        service.url + data["$ref"], headers={"Authorization": f"Bearer {service.alice.bearer}"}
    ) as answer:
        assert (answer.status, await answer.read()) == (200, b"RIFF\x00wave")


async def test_a_type_may_name_the_dialect_of_its_servers(service: Service, model: ModelServer) -> None:
    await register_plain(service, model, dialect=None)
    await service.admin.done("PUT", "/api/types/shout", {"dialect": "bare"})

    details = await service.alice.ended(await service.alice.submit({"type": "shout", "payload": {"text": "hi"}}))

    assert details["result"]["data"] == {"got": {"text": "hi"}}


async def test_a_busy_server_costs_no_attempt(service: Service, model: ModelServer) -> None:
    await register_plain(service, model, exchange={"busyWhen": {"status": [500], "contains": "queue full"}})
    model.refuses(500, "sorry: queue full", "text/plain")
    task_id = await service.alice.submit({"payload": 1})
    await wait_until(lambda: model.requests, "the call")
    model.answer = None

    details = await service.alice.ended(task_id)

    history = await service.alice.history(task_id)
    assert details["status"] == "FINISHED"
    assert errors(history) == []
    assert "AttemptReturned" in types(history)


async def test_an_answer_without_its_result_is_tried_again_and_then_fails(service: Service, model: ModelServer) -> None:
    await register_plain(service, model, exchange={"result": "$.output"})

    details = await service.alice.ended(await service.alice.submit({"payload": 1, "attempts": 2}))

    assert (details["status"], details["attempt"]) == ("FAILED", 2)
    assert "nothing at `$.output`" in details["error"]


async def test_a_stream_is_output_as_it_comes_and_one_result(service: Service, model: ModelServer) -> None:
    class Chat(ModelServer):
        async def result(self, request: web.Request, body: Any) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for part in ({"text": "Hel", "p": 0.5}, {"text": "lo", "p": 1}, "[DONE]"):
                await response.write(f"data: {json.dumps(part) if isinstance(part, dict) else part}\n\n".encode())
            return response

    async with Chat() as chat:
        stream = {"output": "$.text", "progress": "$.p", "progressMax": 1, "done": '$ == "[DONE]"'}
        await register_plain(service, chat, exchange={"stream": stream, "result": "$.text"})
        task_id = await service.alice.submit({"payload": 1})
        details = await service.alice.ended(task_id)

    assert details["result"]["data"] == "Hello"
    output = [event["output"] for event in await service.alice.history(task_id) if event["type"] == "ProgressReported"]
    assert "".join(output) == "Hello"


async def test_a_program_that_was_detected_is_called_as_its_preset_says(service: Service) -> None:
    async with Ollama() as ollama:
        await register_plain(service, ollama, dialect="auto")
        await service.admin.call("PATCH", "/api/servers/plain", {"weight": 3})
        shown = (await service.admin.get("/api/servers/plain")).body
        task_id = await service.alice.submit({"payload": {"model": "m"}})
        details = await service.alice.ended(task_id)

    assert details["result"]["data"]["message"]["content"] == "Hello"
    output = [event["output"] for event in await service.alice.history(task_id) if event["type"] == "ProgressReported"]
    assert "".join(output) == "Hello"
    assert (shown["dialect"], shown["dialectDetected"]["preset"], shown["exchange"]) == ("auto", "ollama-chat", None)


# Jobs that are polled


async def test_a_job_is_polled_until_it_is_done(service: Service, jobs: JobsServer) -> None:
    jobs.work = done_after(3, {"image": "x"})
    await register(service, jobs, apiKey="key-of-the-server")

    task_id = await service.alice.submit({"payload": {"text": "hi"}})
    details = await service.alice.ended(task_id)

    assert (details["status"], details["result"]["data"]) == ("FINISHED", {"image": "x"})
    assert (jobs.job.request["in"], jobs.job.polls) == ({"text": "hi"}, 3)
    assert "alice" not in jobs.job.request["id"]
    assert jobs.headers[0]["Authorization"] == "Bearer key-of-the-server"
    reports = [event for event in await service.alice.history(task_id) if event["type"] == "ProgressReported"]
    assert [line for event in reports for line in event["lines"]] == ["step 1", "step 2", "step 3"]
    assert reports[0]["progress"] == pytest.approx(100 / 3)
    check_history(await service.alice.recorded(task_id))


async def test_the_result_of_a_job_may_be_a_file_at_its_own_url(service: Service, jobs: JobsServer) -> None:
    jobs.work = done_after(1, b"RIFF\x00wave")
    poll = {**POLLED["poll"], "resultUrl": "{id}/result"}
    jobs_with_bytes = {name: value for name, value in POLLED.items() if name != "result"} | {"poll": poll}
    await register(service, jobs, exchange=jobs_with_bytes)

    details = await service.alice.ended(await service.alice.submit({"payload": 1}))

    assert (details["status"], details["result"]["data"]["mediaType"]) == ("FINISHED", "audio/wav")


async def test_a_job_that_fails_fails_the_task_at_once_with_its_reason(service: Service, jobs: JobsServer) -> None:
    jobs.work = failing("no such voice")
    await register(service, jobs)

    details = await service.alice.ended(await service.alice.submit({"payload": 1}))

    assert (details["status"], details["attempt"], details["error"]) == ("FAILED", 1, "no such voice")


async def test_a_server_that_is_busy_or_refuses_gets_no_job(service: Service, jobs: JobsServer) -> None:
    jobs.refuse = (503, {"detail": "full"}, {"Retry-After": "0"})
    await register(service, jobs)
    waiting = await service.alice.submit({"payload": 1})
    await wait_until(lambda: jobs.headers, "a call")
    jobs.refuse = None
    assert (await service.alice.ended(waiting))["status"] == "FINISHED"
    assert errors(await service.alice.history(waiting)) == []

    jobs.refuse = (422, {"detail": "text is too long"}, {})
    refused = await service.alice.ended(await service.alice.submit({"payload": 1}))
    assert (refused["status"], refused["attempt"]) == ("FAILED", 1)
    assert "text is too long" in refused["error"]


async def test_a_cancellation_is_passed_on_and_what_came_of_it_is_shown(service: Service, jobs: JobsServer) -> None:
    jobs.work = endless
    await register(service, jobs)
    task_id = await service.alice.submit({"payload": 1})
    await polled(jobs)

    await service.alice.done("POST", f"/api/task/{task_id}/cancel")

    async def confirmed() -> bool:
        return (await service.alice.details(task_id))["cancelOutcome"] == "confirmed"

    await wait_until(confirmed, "the outcome of the cancellation")
    assert jobs.cancels == [jobs.job.id]
    assert jobs.job.state == "cancelled"


async def test_a_job_without_a_way_to_cancel_it_goes_on_and_that_is_shown(service: Service, jobs: JobsServer) -> None:
    jobs.work = endless
    await register(service, jobs, exchange={name: value for name, value in POLLED.items() if name != "cancel"})
    task_id = await service.alice.submit({"payload": 1})
    await polled(jobs)

    await service.alice.done("POST", f"/api/task/{task_id}/cancel")

    async def impossible() -> bool:
        return (await service.alice.details(task_id))["cancelOutcome"] == "impossible"

    await wait_until(impossible, "the outcome of the cancellation")
    assert jobs.job.state == "running"


async def test_a_job_whose_polls_are_lost_is_not_started_again(service: Service, jobs: JobsServer) -> None:
    def interrupted(job: Job) -> None:
        if job.polls == 1:
            jobs.later(restart())
        else:
            done_after(2)(job)

    async def restart() -> None:
        await jobs.stop()
        await jobs.start()

    jobs.work = interrupted
    jobs.poll_answers = [None, 502, 429]
    await register(service, jobs)

    details = await service.alice.ended(await service.alice.submit({"payload": 1}))

    assert (details["status"], details["attempt"]) == ("FINISHED", 1)
    assert len(jobs.jobs) == 1


async def test_a_task_whose_server_is_gone_in_the_middle_is_done_elsewhere(service: Service, jobs: JobsServer) -> None:
    jobs.work = endless
    await register(service, jobs, "one")
    task_id = await service.alice.submit({"payload": 1})
    await polled(jobs)
    async with JobsServer(done_after(1, "elsewhere")) as other:
        await register(service, other, "two")
        await jobs.stop()

        details = await service.alice.ended(task_id)

    assert (details["status"], details["attempt"], details["result"]["data"]) == ("FINISHED", 2, "elsewhere")
    assert errors(await service.alice.history(task_id)) == [(1, "unreachable")]


async def test_a_job_that_a_restarted_server_forgot_is_tried_again(service: Service, jobs: JobsServer) -> None:
    def forget_once(job: Job) -> None:
        if len(jobs.headers) == 1:
            del jobs.jobs[job.id]
        else:
            done_after(2, "again")(job)

    jobs.work = forget_once
    await register(service, jobs)
    task_id = await service.alice.submit({"payload": 1})

    details = await service.alice.ended(task_id)

    assert (details["status"], details["result"]["data"]) == ("FINISHED", "again")
    assert errors(await service.alice.history(task_id)) == [(1, "error")]


async def test_an_attempt_that_runs_out_of_time_cancels_its_job(service: Service, jobs: JobsServer) -> None:
    jobs.work = endless
    await register(service, jobs)
    await service.admin.done("PUT", "/api/types/slow", {"timeout": 1, "attempts": 1})

    details = await service.alice.ended(await service.alice.submit({"type": "slow", "payload": 1}))

    assert details["status"] == "FAILED"
    await wait_until(lambda: jobs.job.state == "cancelled", "the job to be cancelled")
