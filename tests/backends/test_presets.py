"""Each preset, against a server that speaks its program's wire format, over real connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec import Raw

from taskstream.api.routes.presets import preset_info
from taskstream.api.schemas.servers import RegisterBody
from taskstream.backends import presets as package
from taskstream.backends.client import BackendClient
from taskstream.backends.dialects import DIALECTS
from taskstream.backends.dialects.dialect import Answer, Busy, Call, Completed, Failed, FailedByBackend, Update
from taskstream.backends.egress import EgressPolicy
from taskstream.backends.exchange_form import stored_exchange
from taskstream.backends.exchanges import CancelReport
from taskstream.backends.presets import expanded, presets
from taskstream.events.server import ServerRegistered
from testkit import jobs_server, model_servers
from testkit.jobs_server import JobsServer, done_after, endless, failing
from testkit.model_servers import ModelServer
from testkit.waiting import wait_until

PROGRAMS: dict[str, type[JobsServer | ModelServer]] = {
    "a1111": model_servers.StableDiffusion,
    "bentoml-task": jobs_server.BentomlTasks,
    "comfyui": jobs_server.ComfyJobs,
    "gradio-call": jobs_server.GradioCalls,
    "kserve-v1": model_servers.KserveV1,
    "ollama-chat": model_servers.Ollama,
    "ollama-generate": model_servers.OllamaGenerate,
    "replicate-like": jobs_server.ReplicatePredictions,
    "runpod-endpoint": jobs_server.RunpodJobs,
    "tei": model_servers.Tei,
    "torchserve": model_servers.Torchserve,
}
"""A server for each preset."""
POLLED = sorted(name for name, program in PROGRAMS.items() if issubclass(program, JobsServer))
CANCELLABLE = {"comfyui", "replicate-like", "runpod-endpoint"}


class Tried:
    """A preset, and a server of its program."""

    def __init__(self, name: str, server: Any, backend: BackendClient) -> None:
        self.name = name
        self.server = server
        self.backend = backend
        self.updates: list[Update] = []

    @property
    def registered(self) -> ServerRegistered:
        return registration(self.name, self.server.url + self.server.path)

    async def call(self, payload: Any) -> Answer:
        return await self.attempt(payload).run()

    async def cancelled(self, payload: Any) -> CancelReport:
        """Return what comes of a cancellation while the job runs."""
        attempt = self.attempt(payload)
        running = asyncio.create_task(attempt.run())
        await wait_until(lambda: any(job.polls for job in self.server.jobs.values()), "a poll")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert attempt.cancelled is not None
        return attempt.cancelled

    def attempt(self, payload: Any) -> Any:
        async def on_update(update: Update) -> None:
            self.updates.append(update)

        call = Call(
            task_id="0" * 26 + "~alice",
            task_type="t",
            attempt=1,
            payload=Raw(json.dumps(payload).encode()),
            deadline=datetime.now(UTC) + timedelta(seconds=60),
            callback_url="",
            callback_token="",
        )
        server = self.registered
        return self.backend.begin(DIALECTS[server.dialect], server, call, on_update)


def registration(name: str, predict_url: str) -> ServerRegistered:
    """Return the registration that a preset makes, with a shorter interval."""
    given = {**presets()[name].example, "id": "s1", "preset": name, "endpoints": {"predict": predict_url}}
    if "poll" in presets()[name].server.get("exchange", {}):
        given["exchange"] = {"poll": {"interval": 0.2}}
    body = msgspec.convert(expanded(given, presets()[name]), RegisterBody)
    return ServerRegistered(
        server_id=body.id,
        name=body.name,
        provider=body.provider,
        predict_url=body.endpoints.predict,
        busy_status=None if body.busy_status is None else tuple(body.busy_status),
        dialect=body.dialect or "",
        exchange=stored_exchange(body.exchange, "authorization") if body.exchange else None,
    )


@pytest.fixture
async def tried(request: pytest.FixtureRequest) -> AsyncIterator[Tried]:
    """The preset that the test is parametrized by."""
    async with PROGRAMS[request.param]() as server, EgressPolicy(allow_private=True).session() as session:
        yield Tried(request.param, server, BackendClient(session, 1_000_000, health_timeout_seconds=1))


def with_presets(*names: str) -> Any:
    return pytest.mark.parametrize("tried", names, indirect=True)


def data(answer: Answer) -> Any:
    assert isinstance(answer, Completed), answer
    return json.loads(answer.result)["data"]


# The files


def test_every_file_is_a_preset_that_registers_its_example_and_is_tried_here() -> None:
    files = {file.stem for file in Path(next(iter(package.__path__))).glob("*.toml")}

    assert files == set(presets()) == set(PROGRAMS)
    for name, preset in presets().items():
        body = msgspec.convert(expanded({**preset.example, "preset": name}, preset), RegisterBody)
        assert body.dialect in DIALECTS
        shown = preset_info(name, preset).exchange
        assert (shown and stored_exchange(shown, "x-key")) == (
            body.exchange and stored_exchange(body.exchange, "x-key")
        )
        assert not preset.server.keys() & preset.example.keys()
        assert preset.example["endpoints"]["health"], "without an address to check, it never comes online"


def test_what_a_registration_says_itself_is_not_taken_from_its_preset() -> None:
    preset = presets()["replicate-like"]
    given = {
        "maxConcurrent": 3,
        "busyStatus": None,
        "exchange": {"result": "$", "poll": {"interval": 9}, "cancel": None},
    }

    found = expanded(given, preset)

    ours = preset.server["exchange"]
    assert (found["maxConcurrent"], found["busyStatus"], found["dialect"]) == (3, None, "bare")
    assert found["exchange"] == {**ours, "result": "$", "cancel": None, "poll": {**ours["poll"], "interval": 9}}
    assert "interval" not in ours["poll"]


# Programs whose jobs are polled

OUTPUTS: dict[str, Any] = {
    "bentoml-task": {"summary": "short"},
    "comfyui": {"9": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}},
    "gradio-call": ["Hello", 1],
    "replicate-like": ["https://x/a.png"],
    "runpod-endpoint": {"image": "iVBOR"},
}
BODIES: dict[str, Any] = {
    "bentoml-task": {"text": "long"},
    "comfyui": {"prompt": {"text": "long"}},
    "gradio-call": {"data": {"text": "long"}},
    "replicate-like": {"input": {"text": "long"}},
    "runpod-endpoint": {"input": {"text": "long"}},
}


@with_presets(*POLLED)
async def test_a_job_is_started_once_polled_and_its_output_is_the_result(tried: Tried) -> None:
    tried.server.work = done_after(2, OUTPUTS[tried.name])

    answer = await tried.call({"text": "long"})

    assert data(answer) == OUTPUTS[tried.name]
    job = tried.server.job
    assert job.polls == 2
    assert {name: value for name, value in job.request.items() if name != "prompt_id"} == BODIES[tried.name]


@with_presets(*POLLED)
async def test_a_job_that_fails_ends_the_task_with_its_reason(tried: Tried) -> None:
    tried.server.work = failing("no such voice")

    answer = await tried.call({"text": "long"})

    assert isinstance(answer, FailedByBackend) or (isinstance(answer, Failed) and answer.kind == "rejected")
    assert "no such voice" in answer.error


@with_presets(*POLLED)
async def test_a_program_that_takes_no_job_is_busy_or_refuses_it(tried: Tried) -> None:
    tried.server.refuse = (503, {"detail": "Queue is full."}, {"Retry-After": "3"})
    busy = await tried.call({"text": "long"})
    tried.server.refuse = (422, {"detail": "text is too long"}, {})
    refused = await tried.call({"text": "long"})

    assert isinstance(busy, Busy)
    assert busy.retry_after == timedelta(seconds=3)
    assert isinstance(refused, Failed)
    assert refused.kind == "rejected"
    assert "text is too long" in refused.error


@with_presets(*sorted(CANCELLABLE))
async def test_a_job_is_cancelled_by_its_own_route_which_confirms_it(tried: Tried) -> None:
    tried.server.work = endless

    report = await tried.cancelled({"text": "long"})

    assert report.outcome == "confirmed"
    assert tried.server.cancels == [tried.server.job.id]
    assert tried.server.job.state == "cancelled"


@with_presets(*sorted(CANCELLABLE))
async def test_a_job_that_somebody_else_cancelled_is_tried_again(tried: Tried) -> None:
    def cancelled(job: jobs_server.Job) -> None:
        job.state = "cancelled"

    tried.server.work = cancelled

    answer = await tried.call({"text": "long"})

    assert isinstance(answer, Failed)
    assert answer.kind == "error"


@with_presets(*(name for name in POLLED if name != "gradio-call"))
async def test_a_server_that_was_started_anew_has_lost_the_job(tried: Tried) -> None:
    def forget(job: jobs_server.Job) -> None:
        del tried.server.jobs[job.id]

    tried.server.work = forget

    answer = await tried.call({"text": "long"})

    assert isinstance(answer, Failed)
    assert answer.kind == "error"
    assert "does not know the job any more" in answer.error


@with_presets("bentoml-task")
async def test_a_task_of_bentoml_cannot_be_cancelled_and_polls_may_be_refused(tried: Tried) -> None:
    tried.server.work = done_after(1, "text")
    tried.server.poll_answers = [429, None, 500]
    assert data(await tried.call({"text": "long"})) == "text"

    tried.server.jobs.clear()
    tried.server.work = endless
    report = await tried.cancelled({"text": "long"})
    assert (report.outcome, tried.server.cancels) == ("impossible", [])


@with_presets("replicate-like")
async def test_the_log_of_a_prediction_is_passed_on(tried: Tried) -> None:
    tried.server.work = done_after(3, "x")

    await tried.call({"text": "long"})

    assert [update.lines for update in tried.updates] == [("step 1",), ("step 2",), ("step 3",)]


@with_presets("comfyui")
async def test_comfyui_gets_a_uuid_of_the_attempt(tried: Tried) -> None:
    await tried.call({"text": "long"})

    chosen = tried.server.job.request["prompt_id"]
    assert str(UUID(chosen)) == chosen


@with_presets("gradio-call")
async def test_a_call_of_gradio_that_is_cancelled_closes_its_stream(tried: Tried) -> None:
    tried.server.work = endless

    report = await tried.cancelled({"text": "long"})

    assert report.outcome == "requested"
    await asyncio.wait_for(tried.server.left.wait(), 60)


# Programs that answer with the result

PAYLOADS: dict[str, tuple[Any, Any]] = {
    "a1111": ({"prompt": "a"}, {"images": ["iVBORw0KGgo="], "parameters": {"prompt": "a"}, "info": "{}"}),
    "kserve-v1": ({"instances": [[1], [2]]}, [1, 1]),
    "tei": ({"inputs": ["a", "b"]}, [[0.1, 0.2], [0.1, 0.2]]),
    "torchserve": ({"data": "a"}, {"tabby": 0.9}),
}


@with_presets(*PAYLOADS)
async def test_the_payload_is_sent_as_it_is_and_the_answer_is_the_result(tried: Tried) -> None:
    payload, result = PAYLOADS[tried.name]

    assert data(await tried.call(payload)) == result
    assert tried.server.requests == [payload]


REFUSALS: list[tuple[str, int, Any, str, type[Answer] | str]] = [
    ("a1111", 422, {"detail": [{"loc": ["body", "steps"], "msg": "not a number"}]}, "steps", "rejected"),
    ("a1111", 500, {"error": "OutOfMemoryError", "detail": "", "body": ""}, "OutOfMemoryError", "error"),
    ("kserve-v1", 500, {"error": "QueueFull: the request queue is full"}, "queue", Busy),
    ("kserve-v1", 500, {"error": "ValueError : no such column"}, "no such column", "error"),
    ("kserve-v1", 404, {"error": "Model with name x does not exist."}, "does not exist", "rejected"),
    ("tei", 429, {"error": "Model is overloaded", "error_type": "overloaded"}, "overloaded", Busy),
    ("tei", 424, {"error": "backend failed", "error_type": "backend"}, "backend failed", "error"),
    ("tei", 503, {"error": "unhealthy", "error_type": "unhealthy"}, "unhealthy", "error"),
    ("tei", 413, {"error": "batch size 40 > maximum 32", "error_type": "validation"}, "maximum 32", "rejected"),
    ("torchserve", 503, {"code": 503, "type": "X", "message": "no worker is available"}, "no worker", Busy),
    ("torchserve", 404, {"code": 404, "type": "X", "message": "Model not found: x"}, "not found", "rejected"),
    ("torchserve", 500, {"code": 500, "type": "X", "message": "Worker died."}, "Worker died", "error"),
    ("ollama-chat", 503, {"error": "server busy, please try again"}, "server busy", Busy),
    ("ollama-chat", 404, {"error": "model 'x' not found"}, "not found", "rejected"),
    ("ollama-generate", 400, {"error": "missing request body"}, "missing", "rejected"),
]


@pytest.mark.parametrize(("tried", "status", "body", "words", "verdict"), REFUSALS, indirect=["tried"])
async def test_a_refusal_means_what_the_program_means(
    tried: Tried, status: int, body: Any, words: str, verdict: type[Answer] | str
) -> None:
    tried.server.refuses(status, body)

    answer = await tried.call({"inputs": "a"})

    assert isinstance(answer, Failed | Busy)
    assert words in answer.error
    assert (
        isinstance(answer, Failed) and answer.kind == verdict
        if isinstance(verdict, str)
        else isinstance(answer, verdict)
    )


@with_presets("ollama-chat", "ollama-generate")
async def test_ollama_streams_and_the_result_is_what_it_would_be_whole(tried: Tried) -> None:
    streamed = data(await tried.call({"model": "m"}))
    output = [update.output for update in tried.updates]
    whole = data(await tried.call({"model": "m", "stream": False}))

    assert output == ["Hel", "lo"]
    assert streamed == whole
    assert streamed["done"]


@with_presets("ollama-chat")
async def test_an_error_in_the_middle_of_ollama_s_stream_is_tried_again(tried: Tried) -> None:
    tried.server.breaks_with = "an error was encountered while running the model"

    answer = await tried.call({"model": "m"})

    assert isinstance(answer, Failed)
    assert (answer.kind, "while running the model" in answer.error) == ("error", True)
