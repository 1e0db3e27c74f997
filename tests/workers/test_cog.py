"""Tasks on a Cog server, as it is: `dialect: cog`."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from testkit.cog_server import CogServer, data_uri
from testkit.service import Client, Service
from testkit.waiting import wait_until

PICTURES = [b"\x89PNG first", b"\x89PNG second" * 50_000]


async def output_of(client: Client, task_id: str) -> str:
    return "".join(event.get("output", "") for event in await client.history(task_id))


async def reported(client: Client, task_id: str, field: str) -> list[Any]:
    return [
        event[field]
        for event in await client.history(task_id)
        if event["type"] == "ProgressReported" and field in event
    ]


async def content(client: Client, path: str) -> tuple[int, str, bytes]:
    headers = {"Authorization": f"Bearer {client.bearer}"}
    async with client.session.get(client.url + path, headers=headers) as response:
        return response.status, response.headers["Content-Type"], await response.read()


async def test_a_model_answers_with_its_output_its_log_and_its_metrics(service: Service) -> None:
    async with CogServer() as cog:
        await service.admin.register(cog, "cog")

        task_id = await service.alice.submit({"payload": {"text": "hi there"}})
        details = await service.alice.ended(task_id)

        assert details["result"]["data"] == "HI THERE"
        assert details["result"]["metadata"]["custom_data"]["words"] == 2
        assert await reported(service.alice, task_id, "lines") == [["heard hi there"]]
        assert len(cog.runs) == 1
        assert "alice" not in cog.runs[0]


async def test_a_model_that_streams_shows_its_output_as_it_comes(service: Service) -> None:
    async with CogServer(streams=True) as cog:
        await service.admin.register(cog, "cog")

        task_id = await service.alice.submit({"payload": {"text": "it was dark"}})
        details = await service.alice.ended(task_id)

        assert details["result"]["data"] == "it was dark "
        assert await output_of(service.alice, task_id) == "it was dark "
        assert await reported(service.alice, task_id, "lines") == [["heard it was dark"]]


@pytest.mark.parametrize("streams", [False, True])
async def test_a_prediction_that_failed_ends_its_task(service: Service, streams: bool) -> None:
    async with CogServer(streams=streams) as cog:
        await service.admin.register(cog, "cog")

        details = await service.alice.ended(await service.alice.submit({"payload": {"text": "hi", "fail": True}}))

        assert (details["status"], details["error"]) == ("FAILED", "ValueError: no such voice")
        assert len(cog.runs) == 1


async def test_an_input_that_the_schema_refuses_ends_its_task_with_path_and_rule(service: Service) -> None:
    async with CogServer() as cog:
        await service.admin.register(cog, "cog")

        details = await service.alice.ended(await service.alice.submit({"payload": {"seconds": -1}}))

        assert details["status"] == "FAILED"
        assert "body.input.seconds: -1 is less than the minimum of 0" in details["error"]
        assert "body.input.text: Field required" in details["error"]
        assert cog.runs == []


async def test_a_server_at_capacity_is_busy_and_another_takes_the_task(service: Service) -> None:
    async with CogServer() as full, CogServer() as free:
        full.slots = 0
        await service.admin.register(full, "full", maxConcurrent=1, weight=100)
        await service.admin.register(free, "free")

        details = [
            await service.alice.ended(await service.alice.submit({"payload": {"text": f"hi {number}"}}))
            for number in range(4)
        ]

        assert {each["status"] for each in details} == {"FINISHED"}
        assert len(free.runs) == 4
        assert any(request.method == "PUT" for request in full.received)


@pytest.mark.parametrize("streams", [False, True])
async def test_a_cancellation_stops_the_prediction(service: Service, streams: bool) -> None:
    async with CogServer(streams=streams) as cog:
        await service.admin.register(cog, "cog")
        task_id = await service.alice.submit({"payload": {"text": "hi", "seconds": 600}})
        await wait_until(lambda: cog.runs, "the prediction to run")

        await service.alice.done("POST", f"/api/task/{task_id}/cancel", {})

        await wait_until(lambda: cog.ends, "the prediction to stop")
        assert cog.ends == [(cog.runs[0], "canceled")]


async def test_a_stream_that_breaks_goes_on_without_a_second_run_and_without_repeats(service: Service) -> None:
    async with CogServer(streams=True) as cog:
        cog.cuts = [4, 5]
        await service.admin.register(cog, "cog")

        task_id = await service.alice.submit({"payload": {"text": "it was a dark night", "seconds": 1}})
        details = await service.alice.ended(task_id)

        assert (details["status"], details["attempt"]) == ("FINISHED", 1)
        assert await output_of(service.alice, task_id) == "it was a dark night "
        assert len(cog.runs) == 1


async def test_a_server_that_dies_while_it_works_loses_the_task_to_another(service: Service) -> None:
    async with CogServer() as dying, CogServer() as other:
        await service.admin.register(dying, "dying")
        task_id = await service.alice.submit({"payload": {"text": "hi", "seconds": 600}})
        await wait_until(lambda: dying.runs, "the prediction to run")
        other.output, other.run_seconds = (lambda text: f"other: {text}"), 0.0
        await service.admin.register(other, "other")

        await dying.stop()
        details = await service.alice.ended(task_id)

        assert (details["status"], details["result"]["data"]) == ("FINISHED", "other: hi")
        assert len(other.runs) == 1
        assert other.runs != dying.runs


@pytest.mark.parametrize(
    ("output", "data"),
    [
        (lambda _: data_uri(PICTURES[0]), "file"),
        (lambda _: [data_uri(each) for each in PICTURES], ["0", "1"]),
        (lambda _: {"caption": "x", "images": [data_uri(PICTURES[1])]}, {"caption": "x", "images": ["0"]}),
    ],
)
async def test_files_of_an_output_are_stored_and_served(service: Service, output: Any, data: Any) -> None:
    async with CogServer(output=output) as cog:
        await service.admin.register(cog, "cog")

        task_id = await service.alice.submit({"payload": {"text": "hi"}})
        details = await service.alice.ended(task_id)

        paths: list[str] = []

        def shown(part: Any) -> Any:
            if isinstance(part, dict) and "$ref" in part:
                paths.append(part["$ref"])
                return part["$ref"].rpartition("/")[2]
            if isinstance(part, list):
                return [shown(each) for each in part]
            return {name: shown(each) for name, each in part.items()} if isinstance(part, dict) else part

        assert shown(details["result"]["data"]) == data
        contents = [await content(service.alice, path) for path in paths]
        assert {code for code, *_ in contents} == {200}
        assert {media_type for _, media_type, _ in contents} == {"image/png"}
        assert [body for *_, body in contents] == [each for each in PICTURES if each in [body for *_, body in contents]]
        assert (await service.bob.get(paths[0])).status == 404
        assert (await service.alice.get(f"/api/task/{task_id}/result/file/7")).status == 404
        assert base64.b64encode(PICTURES[0]).decode() not in str(details)


async def test_a_server_is_online_once_its_setup_has_succeeded(service: Service) -> None:
    async with CogServer() as cog:
        cog.status, cog.setup_log = "STARTING", "loading shard 1 of 8\nloading shard 2 of 8\n"
        await service.admin.register(cog, "cog", online=False)
        await service.admin.until(
            "/api/servers/cog",
            lambda server: server["statusReason"] == "setting up: loading shard 1 of 8 | loading shard 2 of 8",
            "the reason to have the end of the setup's log",
        )
        assert (await service.admin.done("GET", "/api/servers/cog"))["status"] == "offline"

        cog.status = "READY"
        await service.admin.server_is("cog", "online")

        cog.status, cog.setup_log = "SETUP_FAILED", "weights.bin: no such file"
        await service.admin.until(
            "/api/servers/cog",
            lambda server: server["statusReason"] == "the setup failed: weights.bin: no such file",
            "the reason to be the setup's failure",
        )


# Registered with `callback`: a model that does not stream reports its end by webhook


async def test_a_model_reports_its_end_by_webhook(service: Service) -> None:
    async with CogServer() as cog:
        await service.admin.register(cog, "cog", callback=True)

        task_id = await service.alice.submit({"payload": {"text": "hi there"}})
        details = await service.alice.ended(task_id)

        assert (details["status"], details["result"]["data"]) == ("FINISHED", "HI THERE")
        assert details["result"]["metadata"]["custom_data"]["words"] == 2
        assert await reported(service.alice, task_id, "lines") == [["heard hi there"]]
        by = {entry["event"]["type"]: entry["by"] for entry in await service.alice.recorded(task_id)}
        assert by["TaskSucceeded"] == {"kind": "server", "id": "cog"}
        assert len(cog.runs) == 1
        assert [request.path for request in cog.received if request.path.endswith("/cancel")] == []


async def test_slots_are_free_again_after_webhooks(service: Service) -> None:
    async with CogServer() as cog:
        await service.admin.register(cog, "cog", callback=True, maxConcurrent=1)

        tasks = [await service.alice.submit({"payload": {"text": f"hi {number}"}}) for number in range(5)]

        assert [(await service.alice.ended(each))["status"] for each in tasks] == ["FINISHED"] * 5
        assert len(cog.runs) == 5


async def test_a_prediction_without_a_connection_shows_its_progress(service: Service) -> None:
    async with CogServer() as cog:
        await service.admin.register(cog, "cog", callback=True)

        task_id = await service.alice.submit({"payload": {"text": "hi there", "seconds": 600}})

        await service.alice.until(
            f"/api/task/{task_id}",
            lambda task: task["taskDetails"]["message"] == "heard hi there",
            "the last line of the log to be shown",
        )
        await service.alice.done("POST", f"/api/task/{task_id}/cancel", {})
        await wait_until(lambda: cog.ends, "the prediction to stop")
        assert cog.ends == [(cog.runs[0], "canceled")]


async def test_a_failure_comes_by_webhook_with_its_log(service: Service) -> None:
    async with CogServer() as cog:
        await service.admin.register(cog, "cog", callback=True)

        task_id = await service.alice.submit({"payload": {"text": "hi", "fail": True}})
        details = await service.alice.ended(task_id)

        assert (details["status"], details["error"]) == ("FAILED", "ValueError: no such voice")
        assert await reported(service.alice, task_id, "lines") == [["heard hi"]]


async def test_a_webhook_that_never_comes_fails_the_attempt(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskstream.backends.dialects.cog.PAUSES_OF_WEBHOOK", (0.1,))
    async with CogServer() as cog:
        cog.delivers = False
        await service.admin.register(cog, "cog", callback=True)
        await service.admin.done("PUT", "/api/types/once", {"attempts": 1})

        details = await service.alice.ended(await service.alice.submit({"type": "once", "payload": {"text": "hi"}}))

        assert details["status"] == "FAILED"
        assert "its webhook has not come" in details["error"]


async def webhook_of(cog: CogServer) -> str:
    """Wait for a prediction that reports by webhook, and return its URL."""
    await wait_until(lambda: cog.runs, "the prediction to run")
    return str(cog.predictions[cog.runs[0]].webhook)


async def test_a_webhook_ends_its_attempt_once_and_nothing_else(service: Service) -> None:
    async with CogServer() as cog:
        await service.admin.register(cog, "cog", callback=True)
        task_id = await service.alice.submit({"payload": {"text": "hi", "seconds": 600}})
        url = await webhook_of(cog)
        client = service.bearing("another program's token")
        path, query = url.removeprefix(service.url).split("?")
        done = {"id": cog.runs[0], "status": "succeeded", "output": "done", "logs": "one\ntwo\n", "metrics": {}}

        assert (await client.post(path, done)).status == 401
        assert (await client.post(f"{path}?token={'A' * 22}", done)).status == 401
        assert (await client.post(f"{path}?{query}", {**done, "id": "another"})).status == 400
        assert (await client.post(f"{path}?{query}", {**done, "status": "won"})).status == 400
        assert (await client.post(f"{path}?{query}", b"{")).status == 400
        for state in ("processing", "canceled"):
            assert (await client.post(f"{path}?{query}", {**done, "status": state})).status == 200
        assert (await service.alice.details(task_id))["status"] == "PROCESSING"
        answers = [await client.post(f"{path}?{query}", body) for body in (done, done, {**done, "output": "other"})]
        details = await service.alice.ended(task_id)

        assert [answer.status for answer in answers] == [200, 200, 200]
        assert details["result"]["data"] == "done"
        assert await reported(service.alice, task_id, "lines") == [["one", "two"]]
        types = [event["type"] for event in await service.alice.history(task_id)]
        assert types.count("TaskSucceeded") == 1
