"""The contract of the task surface, line by line: each test is named after the promise it checks.

One service serves all tests, with one server that reports by callback and one that answers at once.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import jwt
import pytest
import pytest_asyncio

from testkit.backend import BackendServer, accept, status
from testkit.nats import running_nats
from testkit.service import SECRET, Answer, Client, Service, running_service
from testkit.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

ORIGIN = "https://app.example"
OLD_BODY = {"mimeType": "video/mp4", "model": "m", "video_quality": "high", "video_url": "x", "enable_upscale": True}
SHOWN = {
    "id", "status", "request", "serverId", "result", "error", "createdAt", "updatedAt", "callbackUrl",
}  # fmt: skip
PROBLEM = {"type", "title", "status", "detail", "instance", "error"}
users = itertools.count(1)


class World(NamedTuple):
    service: Service
    later: BackendServer
    """Serves the type `later` and reports by callback."""
    once: BackendServer
    """Serves the type `once` and answers at once."""

    @property
    def user(self) -> Client:
        """A new user."""
        return self.service.client(f"user-{next(users)}")

    async def called(self, task_id: str) -> dict[str, Any]:
        def call() -> dict[str, Any] | None:
            return next((call for call in self.later.calls if call["task_id"] == task_id), None)

        return await wait_until(call, f"the call for {task_id}")

    async def running(self) -> tuple[Client, dict[str, Any]]:
        """Return a user with a task that its server has accepted, and the server's call."""
        user = self.user
        call = await self.called(await user.submit({"type": "later", "payload": 1}))
        return user, call


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    with running_nats(tmp_path_factory.mktemp("nats")) as nats:
        async with (
            BackendServer(accept) as later,
            BackendServer() as once,
            running_service(nats.url, cors_origins=(ORIGIN,)) as service,
        ):
            await service.admin.register(later, "later", types=["later"], callback=True, **{"async": True})
            await service.admin.register(once, "once", types=["once"])
            yield World(service, later, once)


def is_problem(answer: Answer, code: int) -> bool:
    return (
        answer.status == code
        and answer.headers["Content-Type"] == "application/problem+json"
        and answer.body.keys() >= PROBLEM
        and answer["error"] == answer["detail"]
    )


async def test_no_token_bad_signature_wrong_algorithm_expired_401(world: World) -> None:
    now = int(time.time())
    claims = {"sub": "a", "roles": ["user"], "exp": now + 60}
    tokens = [
        jwt.encode(claims, "another secret of more than 32 bytes"),
        jwt.encode(claims, SECRET + SECRET, "HS512"),
        jwt.encode(claims, None, "none"),
        jwt.encode({**claims, "exp": now - 60}, SECRET),
        "junk",
    ]
    for answer in [await world.service.anonymous.get("/api/tasks")] + [
        await world.service.bearing(bearer).get("/api/tasks") for bearer in tokens
    ]:
        assert is_problem(answer, 401)


async def test_tokens_may_lack_iat_exp_and_sub_stay_required(world: World) -> None:
    claims: dict[str, Any] = {"sub": "a", "roles": ["user"], "exp": int(time.time()) + 60}

    async def answered(**changes: Any) -> int:
        kept = {name: value for name, value in {**claims, **changes}.items() if value is not None}
        return (await world.service.bearing(jwt.encode(kept, SECRET)).get("/api/tasks")).status

    assert [await answered(), await answered(exp=None), await answered(sub=None)] == [200, 401, 401]


async def test_missing_role_403_unknown_thing_404_bad_body_400(world: World) -> None:
    user, other = world.user, world.user
    task_id = await user.submit({"a": 1})

    assert is_problem(await user.get("/api/servers"), 403)
    assert is_problem(await user.get("/api/nothing"), 404)
    assert is_problem(await user.post("/api/task", b"{"), 400)
    assert is_problem(await other.get(f"/api/task/{task_id}"), 404), "another user's task"
    assert is_problem(await other.put(f"/api/task/{task_id}", {"metadata": {"status": "FINISHED"}}), 404)


async def test_post_get_and_put_of_a_task_answer_task_id_and_details(world: World) -> None:
    user = world.user
    posted = await user.post("/api/task", {"type": "nobody-serves-it", "payload": {"a": 1}})
    path = f"/api/task/{posted['taskId']}"
    put = await user.put(path, {"metadata": {"status": "PROCESSING"}})

    for answer in (posted, await user.get(path), put):
        assert answer.status == 200
        assert answer.body.keys() == {"taskId", "taskDetails"}
        assert answer["taskDetails"].keys() >= SHOWN
        assert answer["taskDetails"]["request"] == {"a": 1}


async def test_while_processing_result_is_the_last_report_null_only_before_it(world: World) -> None:
    user, call = await world.running()
    assert (await user.details(call["task_id"]))["result"] is None

    _, answer = await world.later.report(call, "PROCESSING", progress=42, message="half", custom_data={"n": 1})

    metadata = answer["taskDetails"]["result"]["metadata"]
    assert (metadata["progress"], metadata["message"], metadata["custom_data"]) == (42, "half", {"n": 1})
    assert (await user.details(call["task_id"]))["result"]["metadata"] == metadata
    await world.later.report(call, "PROCESSING", data=[1], progress=50)
    assert (await user.details(call["task_id"]))["result"]["data"] == [1]


async def test_short_form_is_taken_whole_as_the_payload_of_type_default(world: World) -> None:
    details = (await world.user.post("/api/task", OLD_BODY))["taskDetails"]

    assert (details["request"], details["type"]) == (OLD_BODY, "default")


async def test_a_body_with_an_option_but_no_payload_is_a_400_that_says_so(world: World) -> None:
    answer = await world.user.post("/api/task", {"priority": "high", "url": "x"})

    assert is_problem(answer, 400)
    assert "payload" in answer["error"]
    assert "priority" in answer["error"]


async def test_a_payload_that_breaks_its_schema_is_a_400_with_path_and_rule(world: World) -> None:
    schema = {"properties": {"width": {"maximum": 9}}}
    await world.service.admin.done("PUT", "/api/types/sized", {"schema": schema})

    answer = await world.user.post("/api/task", {"type": "sized", "payload": {"width": 10}})

    assert (answer.status, answer["path"]) == (400, "$.payload.width")
    assert "rule `maximum`" in answer["error"]


@pytest.mark.parametrize("final", ["FINISHED", "FAILED"])
async def test_the_same_final_update_twice_is_a_200_otherwise_409(world: World, final: str) -> None:
    user, call = await world.running()
    first = await world.later.report(call, final, data={"a": 1}, processing_time=5, message="one")
    before = await user.recorded(call["task_id"])

    again = await world.later.report(call, final, data={"a": 1}, processing_time=6, message="two")
    other = await world.later.report(call, final, data={"a": 2})
    reverse = await world.later.report(call, "FAILED" if final == "FINISHED" else "FINISHED", data={"a": 1})

    assert [first[0], again[0], other[0], reverse[0]] == [200, 200, 409, 409]
    assert again[1]["taskDetails"]["status"] == final
    assert await user.recorded(call["task_id"]) == before


async def test_a_callback_server_has_60_minutes_a_synchronous_call_300_s(world: World) -> None:
    user, call = await world.running()

    assert abs(call["deadline"] / 1000 - time.time() - 3600) < 60
    world.once.calls.clear()
    await user.ended(await user.submit({"type": "once", "payload": 1}))
    assert abs(world.once.calls[0]["deadline"] / 1000 - time.time() - 300) < 60
    call = await world.called(await user.submit({"type": "later", "payload": 1, "timeout": 90}))
    assert abs(call["deadline"] / 1000 - time.time() - 90) < 60


async def test_predict_has_the_contracts_fields(world: World) -> None:
    _, call = await world.running()

    assert call.keys() >= {"task_id", "request", "async", "callback_url", "attempt", "callback_token", "deadline"}
    assert call["callback_url"].endswith(f"/api/task/{call['task_id']}")


async def test_a_200_in_another_shape_is_kept_whole_as_data(world: World) -> None:
    world.once.answer = status(200, {"anything": [1]})
    user = world.user

    details = await user.ended(await user.submit({"type": "once", "payload": 1}))

    assert (details["status"], details["result"]["data"]) == ("FINISHED", {"anything": [1]})


async def test_a_4xx_fails_the_task_at_once_and_names_no_host(world: World) -> None:
    world.once.answer = status(400, {"error": "bad input"})
    user = world.user
    world.once.calls.clear()

    details = await user.ended(await user.submit({"type": "once", "payload": 1}))

    assert (details["status"], len(world.once.calls)) == ("FAILED", 1)
    assert "bad input" in details["error"]
    assert "127.0.0.1" not in details["error"]


async def test_408_425_429_and_5xx_are_tried_again(world: World) -> None:
    user = world.user
    for code in (408, 425, 500, 503):
        world.once.answer = status(code)
        world.once.calls.clear()
        task_id = await user.submit({"type": "once", "payload": 1})
        await wait_until(lambda: len(world.once.calls) > 1, f"a second try after {code}")
        await user.post(f"/api/task/{task_id}/cancel")


async def test_the_pages_without_a_token(world: World) -> None:
    docs, document, front = [await world.service.anonymous.get(path) for path in ("/docs", "/openapi.json", "/")]

    assert (docs.status, document.status, front.status) == (200, 200, 200)
    assert docs.headers["Content-Type"].startswith("text/html")


async def test_cors_echoes_the_origin_allows_credentials_and_preflight_is_204(world: World) -> None:
    asked = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization,x-anything"}
    preflight = await world.service.anonymous.call("OPTIONS", "/api/task/x", headers={"Origin": ORIGIN, **asked})
    assert preflight.status == 204
    assert "x-anything" in preflight.headers["Access-Control-Allow-Headers"].lower()

    user = world.user
    answers = [
        (204, preflight),
        (200, await user.get("/api/tasks", headers={"Origin": ORIGIN})),
        (401, await world.service.anonymous.get("/api/tasks", headers={"Origin": ORIGIN})),
        (404, await user.get("/api/nothing", headers={"Origin": ORIGIN})),
        (405, await user.delete("/api/task", headers={"Origin": ORIGIN})),
        (413, await user.post("/api/task", b"x" * 1_100_000, headers={"Origin": ORIGIN})),
    ]
    for code, answer in answers:
        assert answer.status == code
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN, code
        assert answer.headers["Access-Control-Allow-Credentials"] == "true", code
    task_id = await user.submit({"a": 1})
    headers = {"Origin": ORIGIN, "Authorization": f"Bearer {user.bearer}"}
    async with user.session.get(f"{user.url}/api/task/{task_id}/stream", headers=headers) as stream:
        assert stream.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert stream.headers["Access-Control-Allow-Credentials"] == "true"
    stranger = await user.get("/api/tasks", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in stranger.headers


async def test_cors_star_is_a_legal_setting_then_without_credentials(nats_url: str) -> None:
    async with running_service(nats_url, worker=False, cors_origins=("*",)) as service:
        for answer in (
            await service.alice.get("/api/tasks", headers={"Origin": ORIGIN}),
            await service.anonymous.get("/api/tasks", headers={"Origin": ORIGIN}),
        ):
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert "Access-Control-Allow-Credentials" not in answer.headers
