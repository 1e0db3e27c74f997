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
