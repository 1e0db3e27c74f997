"""Predictions of Replicate's API: created, read, listed, awaited and cancelled as its clients do it."""

from __future__ import annotations

from typing import Any

import pytest

from testkit.backend import BackendServer, accept, hold, status
from testkit.service import Client, Service
from testkit.waiting import wait_until

V1 = "/replicate/v1"


async def created(client: Client, prompt: str = "a cat", **more: Any) -> Any:
    """Create a prediction of `acme/flux` and return it."""
    answer = await client.post(f"{V1}/models/acme/flux/predictions", {"input": {"prompt": prompt}}, **more)
    assert answer.status == 201, answer
    return answer.body


async def ended(client: Client, prediction: Any) -> Any:
    """Return a prediction once it has ended."""
    path = f"{V1}/predictions/{prediction['id']}"
    return await client.until(path, lambda found: found["completed_at"], "the prediction to end")


async def test_a_prediction_is_an_ordinary_task_of_its_type(service: Service, backend: BackendServer) -> None:
    prediction = await created(service.alice)

    task = await service.alice.ended(prediction["id"])
    assert (task["type"], task["request"], task["owner"]) == ("flux", {"prompt": "a cat"}, "alice")
    assert backend.calls[0]["request"] == {"prompt": "a cat"}
    submitted = (await service.alice.history(prediction["id"]))[0]
    assert submitted["facade"] == {"name": "replicate", "endpoint": "models", "model": "acme/flux"}


async def test_a_prediction_has_every_field_that_clients_require(service: Service) -> None:
    prediction = await ended(service.alice, await created(service.alice))

    url = f"{service.url}{V1}/predictions/{prediction['id']}"
    assert prediction["urls"].pop("stream").startswith(f"{url}/stream?token=")
    assert prediction["urls"] == {
        "get": url,
        "cancel": f"{url}/cancel",
        "web": f"{service.url}/console/#/tasks/{prediction['id']}",
    }
    assert len(prediction["version"]) == 64
    assert prediction["metrics"].keys() == {"predict_time", "total_time"}
    shown = {name: prediction[name] for name in ("model", "input", "output", "error", "status", "source", "logs")}
    assert shown == {
        "model": "acme/flux",
        "input": {"prompt": "a cat"},
        "output": {"echo": {"prompt": "a cat"}},
        "error": None,
        "status": "succeeded",
        "source": "api",
        "logs": "",
    }
    assert prediction["data_removed"] is False
    assert prediction["created_at"] <= prediction["started_at"] <= prediction["completed_at"]


@pytest.mark.parametrize("base", ["/replicate/v1", "/replicate", "/replicate/v1/v1"])
async def test_every_spelling_of_the_base_is_understood(service: Service, base: str) -> None:
    answer = await service.alice.post(f"{base}/models/acme/flux/predictions", {"input": {}})

    assert answer.status == 201
    assert (await service.alice.get(f"{base}/predictions/{answer['id']}")).status == 200


@pytest.mark.parametrize("form", ["{id}", "acme/flux", "acme/flux:{id}", "acme/flux:" + "0" * 64])
async def test_a_version_is_named_by_its_id_or_its_model(service: Service, form: str) -> None:
    model = await service.alice.done("GET", f"{V1}/models/acme/flux")
    version = form.replace("{id}", model["latest_version"]["id"])

    answer = await service.alice.post(f"{V1}/predictions", {"version": version, "input": {"prompt": "x"}})

    assert (answer.status, answer.body["model"]) == (201, "acme/flux")
    named = version.rpartition(":")[2]
    assert answer["version"] == (model["latest_version"]["id"] if "/" in named else named)


@pytest.mark.parametrize("version", ["0" * 64, "nobody/nothing", "x", "acme/flux/x", "../..", "acme/flux:{writer}"])
async def test_a_version_that_no_model_has_is_refused(service: Service, version: str) -> None:
    writer = (await service.alice.done("GET", f"{V1}/models/acme/writer"))["latest_version"]["id"]
    body = {"version": version.replace("{writer}", writer), "input": {}}

    answer = await service.alice.post(f"{V1}/predictions", body)

    assert (answer.status, answer["title"]) == (422, "Invalid version or not permitted")
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_a_deployment_is_its_model(service: Service) -> None:
    answer = await service.alice.post(f"{V1}/deployments/acme/flux/predictions", {"input": {}})

    assert (answer.status, answer["model"], answer["deployment"]) == (201, "acme/flux", "acme/flux")


async def test_a_client_that_waits_gets_the_output(service: Service) -> None:
    answer = await service.alice.post(
        f"{V1}/models/acme/flux/predictions", {"input": {"prompt": "x"}}, headers={"Prefer": "wait"}
    )

    assert (answer["status"], answer["output"]) == ("succeeded", {"echo": {"prompt": "x"}})
    assert answer.headers["Preference-Applied"] == "wait"


async def test_a_wait_that_runs_out_says_starting_while_the_task_runs(service: Service, backend: BackendServer) -> None:
    backend.answer = hold

    answer = await service.alice.post(f"{V1}/models/acme/flux/predictions", {"input": {}}, headers={"Prefer": "wait=1"})

    assert (answer["status"], answer["output"], answer["started_at"]) == ("starting", None, None)
    assert answer.headers["Preference-Applied"] == "wait=1"
    polled = await service.alice.until(
        f"{V1}/predictions/{answer['id']}", lambda found: found["status"] != "starting", "the task to run"
    )
    assert polled["status"] == "processing"
    backend.let_go.set()
    assert (await ended(service.alice, answer))["output"] == {"held": True}


async def test_a_failed_prediction_has_its_error(service: Service, backend: BackendServer) -> None:
    backend.answer = status(422, {"error": "the model said no"})

    prediction = await ended(service.alice, await created(service.alice))

    assert (prediction["status"], prediction["output"]) == ("failed", None)
    assert "the model said no" in prediction["error"]


async def test_a_cancelled_prediction_stays_cancelled(service: Service, backend: BackendServer) -> None:
    backend.answer = hold
    prediction = await created(service.alice)

    cancelled = await service.alice.post(f"{V1}/predictions/{prediction['id']}/cancel")
    again = await service.alice.post(f"{V1}/predictions/{prediction['id']}/cancel")

    assert (cancelled.status, again.status) == (200, 200)
    assert cancelled["status"] == again["status"] == "canceled"
    assert cancelled["error"] is None


async def test_cancel_after_is_the_deadline_of_the_task(service: Service, backend: BackendServer) -> None:
    backend.answer = hold

    prediction = await created(service.alice, headers={"Cancel-After": "1m30s"})

    assert prediction["deadline"] > prediction["created_at"]
    task = await service.alice.details(prediction["id"])
    assert 89_000 < task["deadline"] - task["createdAt"] <= 90_000


@pytest.mark.parametrize("after", ["4s", "", "soon", "-1", "1d"])
async def test_a_cancel_after_that_is_no_duration_is_refused(service: Service, after: str) -> None:
    answer = await service.alice.post(
        f"{V1}/models/acme/flux/predictions", {"input": {}}, headers={"Cancel-After": after}
    )

    assert answer.status == 422
    assert answer["invalid_fields"][0]["field"] == "Cancel-After"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": {"prompt": 1}}, "input.prompt"),
        ({"input": {}, "webhook": "ftp://x"}, "webhook"),
        ({"input": {}, "webhook": "http://10.0.0.1/x"}, "webhook"),
        ({"input": {}, "webhook": "http://127.0.0.1/x", "webhook_events_filter": ["all"]}, "webhook_events_filter[0]"),
    ],
)
async def test_an_invalid_input_is_refused_with_its_field(service: Service, body: Any, field: str) -> None:
    answer = await service.alice.post(f"{V1}/models/acme/flux/predictions", body)

    assert (answer.status, answer["title"]) == (422, "Input validation failed")
    assert answer["invalid_fields"][0]["field"] == field


async def test_predictions_of_others_are_not_found_whatever_the_role(service: Service) -> None:
    prediction = await created(service.alice)

    for client in (service.bob, service.admin, service.auditor):
        for method, path in (("GET", ""), ("GET", "/stream"), ("POST", "/cancel")):
            if client is service.auditor and method == "POST":
                continue
            answer = await client.call(method, f"{V1}/predictions/{prediction['id']}{path}")
            assert answer.status == 404, (client, path)
        assert (await client.done("GET", f"{V1}/predictions"))["results"] == []


async def test_without_a_token_the_error_has_replicates_title(service: Service) -> None:
    answer = await service.anonymous.get(f"{V1}/predictions")

    assert (answer.status, answer["title"]) == (401, "Unauthenticated")
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_a_path_that_is_not_supported_is_a_problem(service: Service) -> None:
    answer = await service.alice.get(f"{V1}/trainings")

    assert (answer.status, answer["title"]) == (404, "Not found")


async def test_over_the_quota_the_error_says_when_to_try_again(service: Service) -> None:
    await service.admin.done("PUT", "/api/owners/alice/limits", {"waiting": 1})
    await service.admin.done("POST", "/api/types/flux/pause", {})
    await created(service.alice)

    answer = await service.alice.post(f"{V1}/models/acme/flux/predictions", {"input": {}})

    assert answer.status == 429
    assert "Expected available in" in answer["detail"]
    assert answer.headers["ratelimit-remaining"] == "0"
    assert answer.headers["ratelimit-reset"] == answer.headers["Retry-After"]


async def test_a_list_has_pages_with_absolute_urls_both_ways(service: Service, backend: BackendServer) -> None:
    backend.answer = hold
    ids = [(await created(service.alice, str(number)))["id"] for number in range(103)]

    first = await service.alice.done("GET", f"{V1}/predictions")
    second = await service.alice.done("GET", first["next"].removeprefix(service.url))
    back = await service.alice.done("GET", second["previous"].removeprefix(service.url))

    assert first["next"].startswith(f"{service.url}{V1}/predictions?cursor=")
    assert (first["previous"], second["next"]) == (None, None)
    listed = [found["id"] for page in (first, second) for found in page["results"]]
    assert listed == ids[::-1]
    assert [found["id"] for found in back["results"]] == listed[:100]
    assert back["previous"] is None
    assert back["next"] == first["next"]


async def test_a_list_is_of_a_span_of_time(service: Service) -> None:
    early = await created(service.alice, "early")
    late = await created(service.alice, "late")

    after = await service.alice.done("GET", f"{V1}/predictions?created_after={late['created_at']}")
    before = await service.alice.done("GET", f"{V1}/predictions?created_before={late['created_at']}")

    assert late["id"] in [found["id"] for found in after["results"]]
    assert early["id"] in [found["id"] for found in before["results"]]


@pytest.mark.parametrize("cursor", ["x", "n", "n-1", "p1.5", "n" + "9" * 19])
async def test_a_cursor_that_is_none_is_refused(service: Service, cursor: str) -> None:
    assert (await service.alice.get(f"{V1}/predictions?cursor={cursor}")).status == 400


async def test_logs_have_the_lines_and_the_progress_as_a_bar(service: Service, backend: BackendServer) -> None:
    backend.answer = accept
    prediction = await created(service.alice)
    await service.alice.reaches(prediction["id"], "PROCESSING")
    await wait_until(lambda: backend.calls, "the call")
    report = {"status": "PROCESSING", "progress": 40, "log": "warming up"}
    await put(service, backend, {"metadata": report})

    path = f"{V1}/predictions/{prediction['id']}"
    found = await service.alice.until(path, lambda found: "%" in found["logs"], "the progress")

    assert found["logs"] == "warming up\n 40%|████      | 40/100"
    assert (found["status"], found["output"]) == ("processing", None)


async def test_an_iterators_output_only_grows(service: Service, backend: BackendServer) -> None:
    backend.answer = accept
    answer = await service.alice.post(f"{V1}/models/acme/writer/predictions", {"input": {"prompt": "x"}})
    path = f"{V1}/predictions/{answer['id']}"
    await wait_until(lambda: backend.calls, "the call")

    await put(service, backend, {"metadata": {"status": "PROCESSING", "output": "he"}})
    partial = await service.alice.until(path, lambda found: found["output"], "a part of the output")
    await put(service, backend, {"data": "hello", "metadata": {"status": "FINISHED"}})
    whole = await ended(service.alice, answer.body)

    assert partial["output"] == ["he"]
    assert whole["output"] == ["he", "llo"]


async def test_a_repeated_request_is_one_prediction_if_the_client_says_so(service: Service) -> None:
    repeated = {"Taskstream-Repeats-Within": "60"}

    first = await created(service.alice, headers=repeated)
    again = await created(service.alice, headers=repeated)
    other = await created(service.alice, "a dog", headers=repeated)
    without = await created(service.alice)

    assert first["id"] == again["id"]
    assert len({first["id"], other["id"], without["id"]}) == 3


async def put(service: Service, backend: BackendServer, update: Any) -> None:
    """Report as the backend of its last call."""
    call = backend.calls[-1]
    reporter = service.client("nobody").session
    headers = {"Authorization": f"Bearer {call['callback_token']}"}
    async with reporter.put(call["callback_url"], json=update, headers=headers) as response:
        assert response.status == 200, await response.text()
