"""Files and batches of OpenAI's API: every request has one result, whatever happens meanwhile."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from taskstream.api.facades.openai.batches import requests, result_files, runner, submitting
from taskstream.api.facades.openai.batches.runner import BatchRunner
from taskstream.clock import utc_now
from taskstream.commands import handler
from taskstream.errors import StoreUnavailable
from testkit.service import Service, running_service
from testkit.vllm import WORDS, VllmServer
from testkit.waiting import wait_until

from .openai_batches import CHAT, BatchClient, chat_line, ids, json_lines, register


@pytest.fixture
async def vllm() -> AsyncIterator[VllmServer]:
    async with VllmServer() as found:
        yield found


@pytest.fixture
async def alice(service: Service, vllm: VllmServer) -> BatchClient:
    await register(service.admin, vllm, maxConcurrent=2)
    return BatchClient(service.alice)


async def one_ends(vllm: VllmServer) -> None:
    """Let one request `step` end, whichever it is; two others run then. The server answers without streams."""
    await wait_until(lambda: vllm.running == 2, "two requests that run")
    vllm.step()
    await wait_until(lambda: len(vllm.asked) == 3, "the next request")


async def tasks_of(service: Service) -> list[dict[str, Any]]:
    return await service.alice.tasks()


async def test_a_batch_runs_every_request_and_writes_the_responses(alice: BatchClient, service: Service) -> None:
    lines = [chat_line(f"r-{number}") for number in range(3)]
    created = await alice.create(await alice.input(lines), metadata={"run": "7"})

    assert (created["object"], created["status"], created["endpoint"]) == ("batch", "validating", CHAT)
    assert created["expires_at"] - created["created_at"] == 86_400
    batch = await alice.ended(created["id"])

    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert (batch["metadata"], batch["error_file_id"], batch["errors"]) == ({"run": "7"}, None, None)
    assert batch["created_at"] <= batch["in_progress_at"] <= batch["finalizing_at"] <= batch["completed_at"]
    assert batch["usage"]["output_tokens"] == 21
    responses, errors = await alice.results(batch)
    assert (set(responses), errors) == ({"r-0", "r-1", "r-2"}, {})
    response = responses["r-1"]["response"]
    assert (response["status_code"], responses["r-1"]["error"]) == (200, None)
    assert response["body"]["choices"][0]["message"]["content"] == WORDS
    tasks = await tasks_of(service)
    assert {task["priority"] for task in tasks} == {"low"}
    assert len({task["batchId"] for task in tasks}) == 1


async def test_the_files_of_a_batch_are_files_like_others(alice: BatchClient) -> None:
    file_id = await alice.input([chat_line("r-1")])
    batch = await alice.ended((await alice.create(file_id))["id"])

    files = await alice.client.done("GET", "/openai/v1/files")
    outputs = await alice.client.done("GET", "/openai/v1/files?purpose=batch_output")
    after = await alice.client.done("GET", f"/openai/v1/files?after={batch['output_file_id']}&limit=1")
    gone = await alice.client.done("DELETE", f"/openai/v1/files/{file_id}")

    assert ids(files) == [batch["output_file_id"], file_id]
    assert ids(outputs) == [batch["output_file_id"]]
    assert (ids(after), after["has_more"]) == ([file_id], False)
    assert outputs["data"][0]["filename"].endswith("_output.jsonl")
    assert gone == {"id": file_id, "object": "file", "deleted": True}
    assert (await alice.client.get(f"/openai/v1/files/{file_id}")).status == 404


async def test_batches_are_listed_newest_first_in_pages(alice: BatchClient) -> None:
    made = [await alice.begun([chat_line("r")]) for _ in range(3)]

    first = await alice.client.done("GET", "/openai/v1/batches?limit=2")
    rest = await alice.client.done("GET", f"/openai/v1/batches?limit=2&after={first['last_id']}")
    oldest = await alice.client.done("GET", "/openai/v1/batches?order=asc&limit=1")

    assert (ids(first), first["has_more"]) == (made[:0:-1], True)
    assert (ids(rest), rest["has_more"]) == (made[:1], False)
    assert ids(oldest) == made[:1]


async def test_a_batch_with_a_key_is_created_once(alice: BatchClient) -> None:
    body = {"input_file_id": await alice.input([chat_line("r")]), "endpoint": CHAT, "completion_window": "24h"}
    headers = {"Idempotency-Key": "k"}

    one = await alice.client.post("/openai/v1/batches", body, headers=headers)
    again = await alice.client.post("/openai/v1/batches", body, headers=headers)
    other = await alice.client.post("/openai/v1/batches", body | {"completion_window": "1h"}, headers=headers)

    assert one["id"] == again["id"]
    assert other.status in (409, 422)


INVALID: dict[str, tuple[bytes, list[tuple[str, int | None]]]] = {
    "nothing": (b"\n\n", [("empty_file", None)]),
    "no JSON": (json_lines([chat_line("r-1")]) + b"nonsense\n", [("invalid_json_line", 2)]),
    "doubles": (json_lines([chat_line("r"), chat_line("s"), chat_line("r")]), [("duplicate_custom_id", 3)]),
    "another endpoint": (json_lines([chat_line("r", url="/v1/embeddings")]), [("invalid_url", 1)]),
    "another method": (json_lines([chat_line("r", method="GET")]), [("invalid_method", 1)]),
    "no such model": (json_lines([chat_line("r", model="no-such")]), [("model_not_found", 1)]),
    "a stream": (
        json_lines([chat_line("r", body={"model": "llama", "messages": [], "stream": True})]),
        [("unsupported_parameter", 1)],
    ),
    "too long": (json_lines([chat_line("r", "x" * 1_100_000), chat_line("s", method="PUT")]), [
        ("line_too_long", 1),
        ("invalid_method", 2),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
async def test_nothing_of_an_invalid_input_is_run(alice: BatchClient, service: Service, name: str) -> None:
    content, expected = INVALID[name]
    file = await alice.upload(content)
    batch = await alice.ended((await alice.create(file["id"]))["id"])

    assert batch["status"] == "failed"
    assert batch["failed_at"] is not None
    assert [(error["code"], error["line"]) for error in batch["errors"]["data"]] == expected
    assert all(error["message"] for error in batch["errors"]["data"])
    assert await tasks_of(service) == []


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"input_file_id": "file-00000000000000000000000000~alice"}, "input_file_id"),
        ({"endpoint": "/v1/files"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "8d"}, "completion_window"),
        ({"metadata": {f"k{number}": "v" for number in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "output_expires_after.seconds"),
        ({"unknown": 1}, "unknown"),
    ],
)
async def test_a_batch_that_cannot_be_is_refused_in_openais_form(
    alice: BatchClient, changed: dict[str, Any], param: str
) -> None:
    body = {"input_file_id": await alice.input([chat_line("r")]), "endpoint": CHAT, "completion_window": "24h"}

    answer = await alice.client.post("/openai/v1/batches", body | changed)

    assert answer.status == 400, answer
    assert answer["error"]["param"] == param
    assert answer["error"]["type"] == "invalid_request_error"


async def test_only_a_file_for_batches_that_lives_long_enough_is_an_input(alice: BatchClient) -> None:
    content = json_lines([chat_line("r")])
    other = await alice.upload(content, purpose="user_data")
    short = await alice.upload(content, **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"})

    for file in (other, short):
        body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
        assert (await alice.client.post("/openai/v1/batches", body))["error"]["param"] == "input_file_id"
    assert short["expires_at"] - short["created_at"] == 3_600


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": ""}, "purpose"),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "5"}, "expires_after[seconds]"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "0000003600999"}, "expires_after[seconds]"),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "0000003600" + "9" * 30},
            "expires_after[seconds]",
        ),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_form_that_says_too_little_or_too_much_stores_no_file(
    alice: BatchClient, fields: dict[str, str], param: str
) -> None:
    answer = await alice.upload(b"{}", **fields)

    assert (answer.status, answer["error"]["param"]) == (400, param)
    assert ids(await alice.client.done("GET", "/openai/v1/files")) == []


async def test_batches_and_files_of_others_do_not_exist(alice: BatchClient, service: Service) -> None:
    file_id = await alice.input([chat_line("r")])
    batch_id = (await alice.create(file_id))["id"]
    bob = service.bob

    for method, path in [
        ("GET", f"/openai/v1/batches/{batch_id}"),
        ("POST", f"/openai/v1/batches/{batch_id}/cancel"),
        ("GET", f"/openai/v1/files/{file_id}"),
        ("GET", f"/openai/v1/files/{file_id}/content"),
        ("DELETE", f"/openai/v1/files/{file_id}"),
    ]:
        assert (await bob.call(method, path)).status == 404, path
    assert ids(await bob.done("GET", "/openai/v1/batches")) == []
    body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
    assert (await bob.post("/openai/v1/batches", body)).status == 400


async def test_a_cancel_reaches_queued_and_running_requests_and_keeps_results(
    alice: BatchClient, service: Service, vllm: VllmServer
) -> None:
    vllm.streams = False
    done = await alice.begun([chat_line(f"r-{number}", "step") for number in range(6)])
    await one_ends(vllm)

    cancelled = await alice.client.done("POST", f"/openai/v1/batches/{done}/cancel")
    again = await alice.client.done("POST", f"/openai/v1/batches/{done}/cancel")
    batch = await alice.ended(done)

    assert cancelled["status"] == again["status"] == "cancelling"
    assert batch["status"] == "cancelled"
    assert batch["cancelling_at"] <= batch["cancelled_at"]
    assert batch["request_counts"] == {"total": 6, "completed": 1, "failed": 0}
    responses, errors = await alice.results(batch)
    assert (len(responses), errors) == (1, {})
    assert {task["status"] for task in await tasks_of(service)} == {"FINISHED", "CANCELLED"}
    await wait_until(lambda: vllm.running == 0, "the server to stop")
    late = await alice.client.post(f"/openai/v1/batches/{done}/cancel")
    assert late["status"] == "cancelled"


async def test_a_batch_that_has_ended_cannot_be_cancelled(alice: BatchClient) -> None:
    batch = await alice.ended(await alice.begun([chat_line("r")]))

    answer = await alice.client.post(f"/openai/v1/batches/{batch['id']}/cancel")

    assert answer.status == 409
    assert "completed" in answer["error"]["message"]


async def test_at_the_end_of_the_window_what_has_not_run_expires_and_results_stay(
    alice: BatchClient, vllm: VllmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "MOST_UNDER_WAY", 4)
    vllm.streams = False
    custom_ids = {f"r-{number}" for number in range(9)}
    batch_id = await alice.begun([chat_line(custom_id, "step") for custom_id in custom_ids], "1h")
    await one_ends(vllm)
    for module in (runner, handler):
        monkeypatch.setattr(module, "utc_now", lambda: utc_now() + timedelta(hours=2))

    batch = await alice.ended(batch_id)

    assert batch["status"] == "expired"
    assert batch["expired_at"] > batch["expires_at"]
    assert batch["request_counts"] == {"total": 9, "completed": 1, "failed": 8}
    responses, errors = await alice.results(batch)
    assert len(responses) == 1
    assert set(errors) == custom_ids - set(responses)
    assert {line["error"]["code"] for line in errors.values()} == {"batch_expired"}
    assert {line["response"] for line in errors.values()} == {None}


async def test_a_batch_larger_than_the_quota_is_submitted_as_room_appears(nats_url: str) -> None:
    async with VllmServer() as vllm, running_service(nats_url, owner_waiting=8) as service:
        await register(service.admin, vllm)
        alice = BatchClient(service.alice)
        most = 0

        batch_id = await alice.begun([chat_line(f"r-{number}") for number in range(40)])
        while (batch := await alice.read(batch_id))["status"] not in ("completed", "failed"):
            waiting = [task for task in await tasks_of(service) if task["status"] == "WAITING"]
            most = max(most, len(waiting))

        assert batch["status"] == "completed"
        responses, _ = await alice.results(batch)
        assert len(responses) == 40
        assert most <= 8


async def test_a_crash_after_tasks_were_stored_submits_no_line_twice(
    alice: BatchClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "MOST_TOGETHER", 3)
    tell, failures = BatchRunner._tell, iter(range(4))

    async def lost(self: BatchRunner, ref: Any, command: Any) -> object:
        if type(command).__name__ == "AdvanceBatchJob" and next(failures, None) is not None:
            raise StoreUnavailable("as after a crash")
        return await tell(self, ref, command)

    monkeypatch.setattr(BatchRunner, "_tell", lost)
    batch = await alice.ended(await alice.begun([chat_line(f"r-{number}") for number in range(10)]))

    responses, errors = await alice.results(batch)
    assert (len(responses), errors) == (10, {})
    assert len(await tasks_of(service)) == 10
    assert next(failures, None) is None


async def test_a_crash_while_results_are_written_leaves_one_file_of_each_kind(
    alice: BatchClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell, failures = BatchRunner._tell, iter(range(2))

    async def lost(self: BatchRunner, ref: Any, command: Any) -> object:
        if type(command).__name__ == "FinishBatchJob" and next(failures, None) is not None:
            raise StoreUnavailable("as after a crash")
        return await tell(self, ref, command)

    monkeypatch.setattr(BatchRunner, "_tell", lost)
    batch = await alice.ended(await alice.begun([chat_line(f"r-{number}") for number in range(4)]))

    outputs = await alice.client.done("GET", "/openai/v1/files?purpose=batch_output")
    assert ids(outputs) == [batch["output_file_id"]]
    assert len((await alice.results(batch))[0]) == 4
    assert next(failures, None) is None


async def test_what_a_server_refuses_is_an_error_with_its_status_and_body(
    alice: BatchClient, service: Service, vllm: VllmServer
) -> None:
    await service.admin.done("PUT", "/api/types/strict", {})
    await register(service.admin, vllm, "v2", types=["strict"], models=["strict"])

    batch = await alice.ended(await alice.begun([chat_line("good"), chat_line("bad", model="strict")]))

    assert (batch["status"], batch["request_counts"]["failed"]) == ("completed", 1)
    responses, errors = await alice.results(batch)
    assert (set(responses), set(errors)) == ({"good"}, {"bad"})
    response = errors["bad"]["response"]
    assert response["status_code"] == 404
    assert response["body"]["error"]["message"] == "The model `strict` does not exist."


async def test_an_input_in_use_is_not_deleted(alice: BatchClient, vllm: VllmServer) -> None:
    file_id = await alice.input([chat_line("r", "hold")])
    batch_id = (await alice.create(file_id))["id"]
    await wait_until(lambda: vllm.running == 1, "the request to run")

    refused = await alice.client.delete(f"/openai/v1/files/{file_id}")
    await alice.client.done("POST", f"/openai/v1/batches/{batch_id}/cancel")
    await alice.ended(batch_id)

    assert refused.status == 409
    assert batch_id in refused["error"]["message"]
    assert (await alice.client.delete(f"/openai/v1/files/{file_id}")).status == 200


async def test_an_input_that_is_lost_ends_the_batch_with_the_results_so_far(
    alice: BatchClient, vllm: VllmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "MOST_UNDER_WAY", 2)
    monkeypatch.setattr(submitting, "MOST_TOGETHER", 2)
    vllm.holds = True
    file_id = await alice.input([chat_line(f"r-{number}") for number in range(6)])
    batch_id = (await alice.create(file_id))["id"]
    await wait_until(lambda: vllm.running == 2, "two requests to run")
    await alice.client.done("DELETE", f"/api/files/{file_id.removeprefix('file-')}")
    vllm.release()

    batch = await alice.ended(batch_id)

    assert batch["status"] == "failed"
    assert [error["code"] for error in batch["errors"]["data"]] == ["input_file_deleted"]
    assert len((await alice.results(batch))[0]) == 2


async def test_the_log_says_what_became_of_a_batch(alice: BatchClient, service: Service) -> None:
    batch = await alice.ended(await alice.begun([chat_line("r")]))

    page = await service.alice.done("GET", "/api/log?log=batch-jobs&limit=50")
    others = await service.bob.done("GET", "/api/log?log=batch-jobs&limit=50")

    words = [entry["event"] for entry in page["entries"]]
    assert {"BatchJobCreated", "BatchJobValidated", "BatchJobAdvanced", "BatchJobFinished"} <= set(words)
    assert {f"batch_{entry['subject']['id']}" for entry in page["entries"]} == {batch["id"]}
    assert others["entries"] == []


async def test_a_line_whose_type_has_changed_since_validation_is_an_error(
    alice: BatchClient, service: Service, vllm: VllmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "MOST_TOGETHER", 1)
    monkeypatch.setattr(submitting, "MOST_UNDER_WAY", 1)
    vllm.holds = True
    await service.admin.done("PUT", "/api/types/strict", {})
    batch_id = await alice.begun([chat_line("good"), chat_line("bad", model="strict")])
    await wait_until(lambda: vllm.running == 1, "the first request to run")
    schema = {"type": "object", "required": ["temperature"]}
    await service.admin.done("PUT", "/api/types/strict", {"schema": schema})
    vllm.release()

    batch = await alice.ended(batch_id)

    responses, errors = await alice.results(batch)
    assert set(responses) == {"good"}
    assert errors["bad"]["error"]["code"] == "invalid_request"
    assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}


def test_the_limits_are_those_of_openai() -> None:
    assert (requests.MOST_LINES, requests.MOST_BYTES) == (50_000, 209_715_200)
    assert result_files.READ_TOGETHER * 1024**2 <= 64 * 1024**2
    assert json.loads(json_lines([{}])) == {}
