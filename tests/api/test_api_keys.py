"""API keys: what they prove, what they are limited to, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from taskstream.api.auth.access import ATTEMPT_TOKENS_IN_ADDRESS
from taskstream.api.auth.api_keys import RequestBucket, new_key
from taskstream.api.routes import keys as routes_of_keys
from taskstream.events.ids import KeyRef
from testkit.link import Link
from testkit.nats import NatsServer
from testkit.routes import all_routes
from testkit.service import Answer, Client, Service, running_service
from testkit.waiting import wait_until

from .test_access import is_problem

USER = {"name": "a program", "roles": ["user"]}


class Made(NamedTuple):
    """A key that was made."""

    id: str
    text: str
    client: Client


async def make(api: Service, maker: Client, **more: Any) -> Made:
    made = await maker.done("POST", "/api/keys", {**USER, **more})
    return Made(made["details"]["id"], made["key"], api.bearing(made["key"]))


@pytest.fixture
async def two(nats_url: str) -> AsyncIterator[tuple[Service, Service]]:
    """Two API processes on one NATS, as far as keys can see."""
    async with running_service(nats_url, worker=False) as first, running_service(nats_url, worker=False) as second:
        yield first, second


# Making, showing and listing keys


async def test_a_key_is_accepted_in_each_spelling_as_its_owner(api: Service) -> None:
    key = await make(api, api.alice)
    for headers in (
        {"Authorization": f"Bearer {key.text}"},
        {"Authorization": f"Key {key.text}"},
        {"Authorization": f"Token {key.text}"},
        {"X-API-Key": key.text},
    ):
        me = await api.anonymous.done("GET", "/api/me", headers=headers)
        assert (me["subject"], me["roles"]) == ("alice", ["user"])


async def test_a_key_is_shown_once_and_neither_the_log_nor_a_list_has_it(api: Service) -> None:
    key = await make(api, api.alice)
    secret = key.text.rsplit("_", 1)[1]

    shown = [
        (await api.alice.get("/api/keys")).body,
        (await api.alice.get(f"/api/keys/{key.id}")).body,
        (await api.admin.get("/api/log?log=keys")).body,
    ]

    assert secret not in json.dumps(shown)
    assert shown[0]["keys"][0]["name"] == "a program"
    stored = await api.container.commands.keys.history(KeyRef(*reversed(key.id.split("~"))))
    assert secret not in repr(stored)


async def test_an_event_names_the_key_that_was_used(api: Service) -> None:
    key = await make(api, api.alice)

    task_id = await key.client.submit({"a": 1})
    await api.alice.done("POST", f"/api/task/{task_id}/cancel")

    by = [entry["by"] for entry in await api.alice.recorded(task_id)]
    assert by == [{"kind": "user", "id": "alice", "key": key.id}, {"kind": "user", "id": "alice"}]
    entries = (await api.admin.done("GET", f"/api/log?subject=task:{task_id}"))["entries"]
    assert key.id in [entry["by"].get("key") for entry in entries]


async def test_users_see_and_revoke_their_own_keys_and_admins_all(api: Service) -> None:
    of_alice, of_bob = await make(api, api.alice), await make(api, api.bob)

    assert [key["id"] for key in await api.alice.listed("/api/keys", "keys")] == [of_alice.id]
    everybodys = [key["id"] for key in await api.admin.listed("/api/keys", "keys", "limit=1")]
    assert everybodys == sorted([of_alice.id, of_bob.id], reverse=True)
    assert [key["id"] for key in await api.auditor.listed("/api/keys", "keys", "owner=bob")] == [of_bob.id]
    assert (await api.alice.get("/api/keys?owner=bob")).status == 403
    for method in ("GET", "DELETE"):
        assert (await api.alice.call(method, f"/api/keys/{of_bob.id}")).status == 404
    assert (await api.auditor.delete(f"/api/keys/{of_bob.id}")).status == 403
    assert (await of_bob.client.get("/api/me")).status == 200
    assert (await api.admin.delete(f"/api/keys/{of_bob.id}")).status == 200
    assert (await of_bob.client.get("/api/me")).status == 401
    assert (await api.admin.get(f"/api/keys/{of_bob.id}"))["revokedBy"] == {"kind": "user", "id": "root"}


async def test_a_repeated_request_neither_makes_nor_shows_a_second_key(api: Service) -> None:
    headers = {"Idempotency-Key": "the first"}
    made = await api.alice.done("POST", "/api/keys", USER, headers=headers)

    again = await api.alice.post("/api/keys", USER, headers=headers)

    assert is_problem(again, 409)
    assert made["details"]["id"] in again["detail"]
    assert "tsk_" not in json.dumps(again.body)
    assert len(await api.alice.listed("/api/keys", "keys")) == 1


async def test_an_owner_has_so_many_keys_and_no_race_makes_one_more(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes_of_keys, "MOST_PER_OWNER", 3)

    answers = await asyncio.gather(*(api.alice.post("/api/keys", USER) for _ in range(8)))

    assert sorted(answer.status for answer in answers) == [200] * 3 + [409] * 5
    first = (await api.alice.listed("/api/keys", "keys"))[0]["id"]
    await api.alice.done("DELETE", f"/api/keys/{first}")
    assert (await api.alice.post("/api/keys", USER)).status == 200
    monkeypatch.setattr(routes_of_keys, "MOST_EVER", 4)
    await api.alice.done("DELETE", f"/api/keys/{(await api.alice.listed('/api/keys', 'keys'))[0]['id']}")
    assert (await api.alice.post("/api/keys", USER)).status == 409


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"name": ""}, "$.name"),
        ({"name": " x"}, "$.name"),
        ({"name": "a\nb"}, "$.name"),
        ({"name": "\u2028"}, "$.name"),
        ({"name": "x" * 101}, "$.name"),
        ({"roles": []}, "$.roles"),
        ({"roles": ["root"]}, "$.roles[0]"),
        ({"rate": 0}, "$.rate"),
        ({"rate": 5e-324}, "$.rate"),
        ({"expiresAt": 1}, "$.expiresAt"),
        ({"servers": ["gpu-1"]}, "$.servers"),
        ({"types": ["a b"]}, "$.types[0]"),
    ],
)
async def test_a_malformed_key_is_refused_with_the_place(api: Service, body: dict[str, Any], path: str) -> None:
    assert await api.alice.refusal("POST", "/api/keys", {**USER, **body}) == (400, path)


# No escalation


@pytest.mark.parametrize(
    "body", [{"roles": ["admin"]}, {"roles": ["user", "service"]}, {"roles": ["auditor"]}, {"owner": "bob"}]
)
async def test_nobody_makes_a_key_that_may_more_than_they(api: Service, body: dict[str, Any]) -> None:
    assert (await api.alice.post("/api/keys", {**USER, **body})).status == 403


async def test_an_admin_who_reads_no_payloads_makes_no_key_that_does(nats_url: str) -> None:
    async with running_service(nats_url, worker=False, payload_access="granted") as service:
        assert (await service.admin.post("/api/keys", {**USER, "roles": ["admin"], "payloads": True})).status == 403
        assert (await service.admin.post("/api/keys", {**USER, "owner": "alice"})).status == 403
        key = await make(service, service.admin, roles=["admin"])
        assert (await key.client.get("/api/me"))["may"]["readPayloads"] is False


async def test_a_key_makes_no_key_that_exceeds_or_outlives_it(api: Service) -> None:
    ends = int((time.time() + 3600) * 1000)
    service = api.client("backend", "service", "user")
    parent = await make(api, service, roles=["service"], servers=["gpu-1"], expiresAt=ends, rate=500.0, payloads=False)

    def body(**more: Any) -> dict[str, Any]:
        return {"name": "a child", "roles": ["service"], **more}

    for more in (
        {"roles": ["user"]},
        {"servers": ["gpu-1", "gpu-2"]},
        {"expiresAt": ends + 1000},
        {"rate": 600},
        {"payloads": True},
    ):
        answer = await parent.client.post("/api/keys", body(**more))
        assert answer.status == 403, (more, answer)
        assert f"$.{next(iter(more))}" in answer["detail"]
    child = (await parent.client.done("POST", "/api/keys", body()))["details"]
    assert (child["servers"], child["expiresAt"], child["rate"], child["payloads"]) == (["gpu-1"], ends, 500.0, False)
    assert child["createdBy"] == {"kind": "user", "id": "backend", "key": parent.id}


async def test_keys_make_keys_over_few_generations(api: Service) -> None:
    client = api.alice
    for _ in range(4):
        client = (await make(api, client)).client

    assert (await client.post("/api/keys", USER)).status == 403


async def test_a_key_ends_with_the_key_that_made_it(api: Service) -> None:
    parent = await make(api, api.alice)
    child = await make(api, parent.client)
    grandchild = await make(api, child.client)

    await api.alice.done("DELETE", f"/api/keys/{parent.id}")

    for key in (parent, child, grandchild):
        assert (await key.client.get("/api/me")).status == 401
    assert (await api.alice.get(f"/api/keys/{grandchild.id}"))["status"] == "orphaned"


# Guesses


async def test_a_guess_is_a_401_that_repeats_nothing_and_leaves_nothing_behind(api: Service) -> None:
    key = await make(api, api.alice)
    other = new_key(KeyRef("alice", key.id.partition("~")[0]))
    guesses = [key.text[:-1], key.text + "0", key.text.lower(), "tsk_", "tsk_" + "x" * 9000, "tsk_\xff", other]
    guesses += [new_key(KeyRef("alice", "0" * 26)) for _ in range(20)]

    before = {name: len(value) for name, value in vars(api.container.key_ring).items() if hasattr(value, "__len__")}
    for guess in guesses:
        answer = await api.anonymous.get("/api/tasks", headers={"X-API-Key": guess})
        assert is_problem(answer, 401), guess
        assert guess not in json.dumps(answer.body)
    after = {name: len(value) for name, value in vars(api.container.key_ring).items() if hasattr(value, "__len__")}
    assert after == before


async def test_no_request_with_a_key_asks_nats(api: Service) -> None:
    key = await make(api, api.alice)
    await key.client.done("GET", "/api/me")
    asked: list[str] = []
    for connection in (api.container.reading, api.container.appending, api.container.consuming):
        publish = connection.publish

        async def counted(subject: str, *rest: Any, publish: Any = publish, **more: Any) -> None:
            asked.append(subject)
            await publish(subject, *rest, **more)

        connection.publish = counted  # type: ignore[method-assign]
    for _ in range(50):
        await key.client.done("GET", "/api/me")

    # What background services ask goes on; none of it is once per request.
    assert len([subject for subject in asked if "KEYS" in subject]) < 25


# Ends


async def test_an_expired_key_is_a_401_and_its_stream_ends(api: Service) -> None:
    key = await make(api, api.alice, expiresAt=int((time.time() + 2) * 1000))
    task_id = await api.alice.submit({"a": 1})

    headers = {"X-API-Key": key.text}
    async with api.anonymous.session.get(f"{api.url}/api/task/{task_id}/stream", headers=headers) as stream:
        assert stream.status == 200
        text = await asyncio.wait_for(stream.text(), 30)

    assert '"type":"expired"' in text
    assert "expired" in (await key.client.get("/api/me"))["detail"]


async def streams_of(api: Service, key: Made, task_id: str) -> list[asyncio.Task[Any]]:
    """Open everything that stays open with a key; each task ends with what ended it."""
    headers = {"X-API-Key": key.text}
    session = api.anonymous.session
    is_open = [asyncio.Event() for _ in range(7)]
    stream_token = (await key.client.done("POST", "/api/stream-tokens"))["token"]

    async def read(number: int, path: str, sent: dict[str, str]) -> int:
        async with session.get(api.url + path, headers=sent) as stream:
            assert stream.status == 200, await stream.text()
            async for _ in stream.content:
                is_open[number].set()
        return 200

    async def wait(number: int) -> int:
        is_open[number].set()
        return (await key.client.get(f"/api/task/{task_id}?wait=60")).status

    async def listen(number: int, query: str, sent: dict[str, str]) -> int | None:
        async with session.ws_connect(f"{api.url}/ws{query}", headers=sent) as socket:
            await socket.send_json({"type": "ping"})
            async for _ in socket:
                is_open[number].set()
            return socket.close_code

    topics = f"/api/live?topic=task:{task_id.replace('~', '%7E')}"
    opened = [
        asyncio.create_task(each)
        for each in (
            read(0, f"/api/task/{task_id}/stream", headers),
            read(1, "/api/tasks/stream", headers),
            read(2, topics, headers),
            read(3, f"/api/task/{task_id}/stream?token={stream_token}", {}),
            wait(4),
            listen(5, "", headers),
            listen(6, f"?token={stream_token}", {}),
        )
    ]
    for event in is_open:
        await asyncio.wait_for(event.wait(), 30)
    await wait_until(lambda: len(api.container.open_streams) >= 7, "everything to be open")
    return opened


async def test_everything_open_with_a_key_ends_when_it_is_revoked_anywhere(two: tuple[Service, Service]) -> None:
    first, second = two
    key = await make(first, first.alice)
    task_id = await first.alice.submit({"a": 1})
    opened = await streams_of(second, key._replace(client=second.bearing(key.text)), task_id)

    revoked = await first.alice.done("DELETE", f"/api/keys/{key.id}")

    assert revoked["confirmed"] is True
    ends = await asyncio.wait_for(asyncio.gather(*opened), 30)
    assert ends == [200, 200, 200, 200, 401, 4401, 4401]


async def test_a_revoked_key_is_refused_everywhere_once_the_answer_has_come(two: tuple[Service, Service]) -> None:
    first, second = two
    for _ in range(20):
        key = await make(first, first.alice)
        elsewhere = second.bearing(key.text)
        assert (await elsewhere.get("/api/me")).status == 200  # a new key works everywhere, too
        await first.alice.done("DELETE", f"/api/keys/{key.id}")
        assert (await elsewhere.get("/api/me")).status == 401
        assert (await key.client.get("/api/me")).status == 401


async def test_a_process_without_nats_refuses_keys_soon_and_jwts_not(nats: NatsServer) -> None:
    async with running_service(nats.url, worker=False) as service:
        key = await make(service, service.alice)
        assert (await key.client.get("/api/me")).status == 200
        nats.kill()

        async def refuses() -> bool:
            return (await key.client.get("/api/me")).status == 503

        await wait_until(refuses, "keys to be refused")
        assert (await service.alice.get("/api/me")).status == 200
        nats.start()

        async def accepts() -> bool:
            return (await key.client.get("/api/me")).status == 200

        await wait_until(accepts, "keys to be accepted again")


async def test_revoking_again_changes_nothing(api: Service) -> None:
    key = await make(api, api.alice)

    first = await api.alice.done("DELETE", f"/api/keys/{key.id}", {"reason": "stolen"})
    again = await api.alice.done("DELETE", f"/api/keys/{key.id}", {"reason": "another"})

    assert again["revokedAt"] == first["revokedAt"]
    assert (await api.alice.get(f"/api/keys/{key.id}"))["reason"] == "stolen"


async def test_keys_survive_a_restart_of_the_api(nats_url: str) -> None:
    async with running_service(nats_url, worker=False) as service:
        live, dead = await make(service, service.alice), await make(service, service.alice)
        await service.alice.done("DELETE", f"/api/keys/{dead.id}")
    async with running_service(nats_url, worker=False) as service:
        assert (await service.bearing(live.text).get("/api/me")).status == 200
        assert (await service.bearing(dead.text).get("/api/me")).status == 401


async def test_a_key_tells_when_it_was_last_used(api: Service) -> None:
    key, unused = await make(api, api.alice), await make(api, api.alice)
    await key.client.done("GET", "/api/me")

    async def used_at() -> Any:
        return (await api.alice.get(f"/api/keys/{key.id}"))["lastUsedAt"]

    at = await wait_until(used_at, "the last use to be written")
    assert abs(at / 1000 - time.time()) < 600
    assert (await api.alice.get(f"/api/keys/{unused.id}"))["lastUsedAt"] is None


# Rates


async def test_a_key_over_its_rate_is_a_429_with_retry_after(api: Service) -> None:
    key = await make(api, api.alice, rate=0.01)

    assert (await key.client.get("/api/me")).status == 200
    refused = await key.client.get("/api/me")

    assert is_problem(refused, 429)
    assert 1 <= int(refused.headers["Retry-After"]) <= 100
    assert refused["violated-policies"] == ["rate"]
    assert (await api.alice.get("/api/me")).status == 200


async def test_keys_that_a_key_makes_share_its_rate(api: Service) -> None:
    parent = await make(api, api.alice, rate=0.001)
    answer = await parent.client.post("/api/keys", USER)  # the one request that it has
    child = api.bearing(answer["key"])

    assert (await child.get("/api/me")).status == 429


def test_a_rate_lets_so_many_pass_in_the_long_run() -> None:
    bucket, passed = RequestBucket(0.0), 0
    for tick in range(1000):
        bucket.refill(2.5, tick / 10)
        if not bucket.wait_seconds():
            bucket.take()
            passed += 1

    assert 250 <= passed <= 253


# Narrow keys


@pytest.fixture
async def typed(api: Service) -> Service:
    for name in ("resize", "secret"):
        await api.admin.done("PUT", f"/api/types/{name}", {})
    return api


async def test_a_narrow_key_reaches_only_tasks_of_its_types(typed: Service) -> None:
    key = await make(typed, typed.alice, types=["resize"])
    other = await typed.alice.submit({"type": "secret", "payload": {"a": 1}})

    own = await key.client.submit({"type": "resize", "payload": {"a": 2}})

    assert (await key.client.post("/api/task", {"type": "secret", "payload": {}})).status == 403
    batch = [{"type": "resize", "payload": {}}, {"type": "secret", "payload": {}}]
    assert (await key.client.post("/api/tasks/batch", batch)).status == 403
    assert len(await typed.alice.tasks()) == 2
    assert [task["id"] for task in await key.client.tasks()] == [own]
    assert (await key.client.done("GET", "/api/tasks/count"))["count"] == 1
    assert (await key.client.get("/api/tasks?type=secret")).status == 403
    for path in ("", "/events", "/why", "/payload", "/stream"):
        assert (await key.client.get(f"/api/task/{other}{path}")).status == 404, path
    for action in ("cancel", "retry"):
        assert (await key.client.post(f"/api/task/{other}/{action}")).status == 404
    assert (await key.client.get(f"/api/task/{own}")).status == 200
    assert (await key.client.post(f"/api/task/{own}/cancel")).status == 200
    assert (await typed.alice.details(other))["status"] == "WAITING"


async def test_a_narrow_key_takes_no_result_of_another_type_by_depending_on_it(typed: Service) -> None:
    key = await make(typed, typed.alice, types=["resize"])
    other = await typed.alice.submit({"type": "secret", "payload": {}})
    own = await key.client.submit({"type": "resize", "payload": {}})

    def child(parent: str) -> dict[str, Any]:
        return {"type": "resize", "payload": {}, "dependsOn": [parent]}

    assert await key.client.refusal("POST", "/api/task", child(other)) == (400, "$.dependsOn[0]")
    assert (await key.client.post("/api/tasks/batch", [child(other)])).status == 400
    assert (await key.client.post("/api/task", child(own))).status == 200


async def test_a_narrow_key_reads_the_batches_of_its_types_alone(typed: Service) -> None:
    key = await make(typed, typed.alice, types=["resize"])
    mixed = [{"type": "resize", "payload": {}}, {"type": "secret", "payload": {}}]
    other = (await typed.alice.done("POST", "/api/tasks/batch", mixed))["batchId"]
    own = (await key.client.done("POST", "/api/tasks/batch", [{"type": "resize", "payload": {}}] * 2))["batchId"]

    assert (await key.client.get(f"/api/batches/{own}")).status == 200
    assert (await key.client.post(f"/api/batches/{own}/cancel")).status == 200
    for method, path in (("GET", ""), ("GET", "/tasks"), ("GET", "/stream"), ("POST", "/cancel"), ("DELETE", "")):
        assert (await key.client.call(method, f"/api/batches/{other}{path}")).status == 404, path


async def test_the_streams_of_a_narrow_key_have_only_its_types(typed: Service) -> None:
    key = await make(typed, typed.alice, types=["resize"])
    other = await typed.alice.submit({"type": "secret", "payload": {}})

    async def ids(client: Client, path: str) -> AsyncIterator[str]:
        async with client.session.get(typed.url + path, headers={"X-API-Key": key.text}) as stream:
            assert stream.status == 200
            async for line in stream.content:
                if line.startswith(b"data:"):
                    yield line.decode()

    async def until_own(path: str) -> list[str]:
        seen = []
        async with contextlib.aclosing(ids(typed.anonymous, path)) as lines:
            async for line in lines:
                seen.append(line)
                if len(seen) == 1:
                    await typed.alice.submit({"type": "secret", "payload": {}})
                    await typed.alice.submit({"type": "resize", "payload": {}})
                if "TaskSubmitted" in line or '"resize"' in line:
                    return seen
        return seen

    seen = await asyncio.wait_for(until_own("/api/tasks/stream"), 30)
    assert '"secret"' not in "".join(seen)
    async with typed.anonymous.session.ws_connect(f"{typed.url}/ws", headers={"X-API-Key": key.text}) as socket:
        await socket.send_json({"type": "subscribe", "task": other})
        assert (await socket.receive_json())["type"] == "error"
        await socket.send_json({"type": "subscribe", "all": True})
        own = await typed.alice.submit({"type": "resize", "payload": {}})
        while own not in (text := await asyncio.wait_for(socket.receive_str(), 30)):
            assert other not in text
    refused = {"stats": 403, "alarms": 403, "log:": 403, f"task:{other}": 404, "tasks:type=secret": 403}
    for topic, status in refused.items():
        answer = await key.client.get(f"/api/live?topic={topic.replace('~', '%7E').replace('=', '%3D')}")
        assert answer.status == status, (topic, answer)


async def test_every_route_without_a_mark_refuses_a_narrow_key(typed: Service) -> None:
    """So a new route does, until it is marked with the way in which it narrows."""
    key = await make(typed, typed.admin, roles=["admin", "service"], types=["resize"])
    other = await typed.alice.submit({"type": "secret", "payload": {}})
    names = {"task_id": other, "batch_id": f"{'0' * 26}~alice"}
    for route in all_routes():
        if (
            not route.path.startswith("/api/")
            or route.path == "/api/health"
            or route.takes == ATTEMPT_TOKENS_IN_ADDRESS
        ):
            continue
        path = re.sub(r"\{(\w+)\}", lambda found: names.get(found[1], "x"), route.path)
        answer = await opened(typed, route.method, path, key.text)
        if route.narrows is None:
            assert is_problem(answer, 403), (route, answer)
            assert "reaches only tasks of the types resize" in answer["detail"], route
        else:
            assert answer.status in (200, 400, 404), (route, answer)


async def opened(service: Service, method: str, path: str, bearer: str) -> Answer:
    """Make a request; of an answer other than an error nothing is read: it may be a stream."""
    headers = {"Authorization": f"Bearer {bearer}"}
    async with service.anonymous.session.request(method, service.url + path, headers=headers) as response:
        return Answer(response.status, response.headers, await response.json() if response.status >= 400 else None)


async def test_a_process_cut_off_from_nats_refuses_a_key_once_its_revocation_is_answered(nats: NatsServer) -> None:
    """It hears of nothing, and is waited for until it accepts no keys."""
    async with (
        Link(nats.port) as link,
        running_service(nats.url, worker=False) as first,
        running_service(link.url, worker=False) as second,
    ):
        key = await make(first, first.alice)
        elsewhere = second.bearing(key.text)
        assert (await elsewhere.get("/api/me")).status == 200
        link.mode = "half_open"

        revoked = await first.alice.done("DELETE", f"/api/keys/{key.id}")

        assert revoked["confirmed"] is False
        assert (await elsewhere.get("/api/me")).status == 503
        assert (await second.alice.get("/api/me")).status == 200
        link.mode = "pass"


async def test_processes_share_the_rate_of_a_key(two: tuple[Service, Service]) -> None:
    first, _ = two
    key = await make(first, first.alice, rate=0.02)
    await key.client.get("/api/me")

    async def waits_for_a_share() -> bool:
        refused = await key.client.get("/api/me")
        return refused.status == 429 and int(refused.headers["Retry-After"]) > 60  # alone: 50 s at most

    await wait_until(waits_for_a_share, "the rate to be shared by two")


async def test_older_streams_take_a_key_in_their_address(api: Service) -> None:
    key = await make(api, api.alice)

    async with api.anonymous.session.get(f"{api.url}/api/events?token={key.text}") as stream:
        assert stream.status == 200
    async with api.anonymous.session.get(f"{api.url}/api/tasks/stream?token={key.text}") as stream:
        assert stream.status == 401  # only a stream token: addresses get into logs of proxies


async def test_no_key_gets_into_the_log_of_the_process(api: Service, capfd: pytest.CaptureFixture[str]) -> None:
    key = await make(api, api.alice)
    for text in (key.text, key.text[:-1], key.text + "x"):
        for headers in ({"X-API-Key": text}, {"Authorization": f"Key {text}"}):
            await api.anonymous.get("/api/tasks", headers=headers)
        await api.anonymous.get(f"/api/events?x={text}&token={text[:-2]}")
        await api.anonymous.get(f"/api/task/{text}", headers={"X-API-Key": key.text})
    await key.client.post("/api/task", {"type": "a b"})
    await api.alice.done("DELETE", f"/api/keys/{key.id}")

    out, err = capfd.readouterr()
    assert key.text[:-3] not in out + err


async def test_the_tasks_of_an_operation_name_the_key_that_started_it(api: Service) -> None:
    key = await make(api, api.alice)
    task_id = await api.alice.submit({"a": 1})

    started = await key.client.done("POST", "/api/operations", {"action": "cancel", "ids": [task_id]})
    await api.alice.until(f"/api/operations/{started['id']}", lambda it: it["state"] == "done", "the operation")

    last = (await api.alice.recorded(task_id))[-1]
    assert (last["event"]["type"], last["by"].get("key")) == ("TaskCancelled", key.id)


async def test_a_key_knows_what_it_is(api: Service) -> None:
    key = await make(api, api.alice, types=["default"])

    me = await key.client.done("GET", "/api/me")

    assert (me["key"], me["types"]) == (key.id, ["default"])
    plain = await api.alice.done("GET", "/api/me")
    assert (plain["key"], plain["types"]) == (None, None)
