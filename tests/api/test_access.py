"""Access to the API and the form of its answers: tokens, headers, problem documents. Routes: test_permissions.py."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any, NamedTuple

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from yarl import URL

from testkit.nats import NatsServer
from testkit.service import SECRET, Answer, Client, Service, running_service, token
from testkit.waiting import wait_until

PUBLIC_KEY = (
    ed25519.Ed25519PrivateKey.generate()
    .public_key()
    .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    .decode()
)


class Route(NamedTuple):
    """An operation of the API's description."""

    method: str
    path: str
    body: Any
    """The first example of its body; None: it has none."""
    streams: bool = False
    """True if it answers server-sent events."""

    def named(self, **values: str) -> str:
        """Return its path with these values for its parameters, `x` for the others."""
        return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], "x"), self.path)


@pytest.fixture
async def routes(api: Service) -> list[Route]:
    """All routes that need a token."""
    return await routes_of(api)


async def routes_of(service: Service) -> list[Route]:
    document = (await service.anonymous.get("/openapi.json")).body
    found = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path.startswith("/api/") and operation["tags"] != ["System"]:
                media = operation.get("requestBody", {}).get("content", {"": {}})
                examples = next(iter(media.values())).get("examples", {"": {"value": None}})
                streams = "text/event-stream" in operation["responses"]["200"].get("content", {})
                found.append(Route(method.upper(), path, next(iter(examples.values()))["value"], streams))
    assert found
    return found


def signed(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    now = int(time.time())
    defaults = {"sub": "alice", "roles": ["user"], "iat": now, "exp": now + 60}
    return jwt.encode({**defaults, **claims}, secret, algorithm)


async def raw(service: Service, method: str, path: str, bearer: str | None = None, **headers: str) -> Answer:
    """Make a request whose path goes out exactly as it is."""
    sent = {"Authorization": f"Bearer {bearer}", **headers} if bearer else headers
    async with service.anonymous.session.request(
        method, URL(service.url + path, encoded=True), headers=sent
    ) as response:
        is_json = "json" in response.headers.get("Content-Type", "")
        return Answer(response.status, response.headers, await (response.json() if is_json else response.text()))


def is_problem(answer: Answer, status: int) -> bool:
    body = answer.body
    return (
        answer.status == status
        and answer.headers["Content-Type"] == "application/problem+json"
        and {"type", "title", "status", "detail", "instance", "error"} <= body.keys()
        and body["status"] == status
        and body["error"] == body["detail"] != ""
    )


async def test_without_a_token_a_401_says_what_to_send(api: Service) -> None:
    answer = await api.anonymous.get("/api/tasks")

    assert is_problem(answer, 401), answer
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert "Authorization: Bearer" in answer["error"]


async def test_a_token_that_proves_nothing_is_a_401(api: Service) -> None:
    now = int(time.time())
    for bearer in (
        signed("another secret, also longer than 32 bytes"),
        signed(iat=now - 120, exp=now - 60),
        jwt.encode({"sub": "alice", "roles": ["admin"], "iat": now, "exp": now + 60}, None, "none"),
        "x",
        "x" * 20_000,
    ):
        answer = await api.bearing(bearer).get("/api/tasks")
        assert is_problem(answer, 401), (bearer[:40], answer)
    basic = await api.anonymous.get("/api/tasks", headers={"Authorization": "Basic YTpi"})
    assert is_problem(basic, 401)


JUNK_HEADERS = [
    b"Bearer", b"Bearer ", b"Bearer  ", b"Bearer x", b"bearer a.b.c", b"Bearer \xff\xfe", b"Bearer " + b"x" * 22,
    b"Bearer " + b"\xe9" * 22, b"Bearer \xc3\xa9.\xe2\x82\xac.z", b"Bearer " + b"a." * 2000, b"Bearer " + b"A" * 9000,
    b"Basic YTpi", b"Bearer e30.e30.", b"Bearer null", b"Bearer [object Object]", b"Token x", b"Bearer\tx", b"\xff",
    b"Bearer \xff.a.b",
]  # fmt: skip


async def test_a_junk_header_is_a_401(api: Service) -> None:
    task_id = await api.alice.submit({"a": 1})
    head = "{} {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\nAuthorization: "

    async def status(method: str, path: str, header: bytes) -> int:
        reader, writer = await asyncio.open_connection(*api.url.removeprefix("http://").split(":"))
        writer.write(head.format(method, path).encode() + header + b"\r\n\r\n")
        answer = await reader.read()
        writer.close()
        assert b"application/problem+json" in answer, answer[:300]
        return int(answer.split(b" ")[1])

    for header in JUNK_HEADERS:
        assert await status("GET", "/api/tasks", header) == 401, header
        assert await status("PUT", f"/api/task/{task_id}", header) == 401, header
    assert (await api.alice.details(task_id))["status"] == "WAITING"


JUNK_TOKENS = ("%FF", "x", "a.b.c", "gAAAAA", "x" * 9000, "%00", "a&token=b", "%F0%9F%98%80")


@pytest.mark.parametrize("keys", ["seal keys", "no seal keys"])
async def test_a_junk_token_in_an_address_is_a_401_on_every_route(nats_url: str, keys: str) -> None:
    """Also where no stream token was ever made, for want of a key to seal it with; a socket is refused likewise."""
    no_keys: dict[str, Any] = {"jwt_secret": None, "jwt_public_key": PUBLIC_KEY}
    async with running_service(nats_url, worker=False, **({} if keys == "seal keys" else no_keys)) as service:
        for route in await routes_of(service):
            for junk in JUNK_TOKENS if route.streams else JUNK_TOKENS[:1]:
                answer = await raw(service, route.method, f"{route.named()}?token={junk}")
                assert is_problem(answer, 401), (route, junk, answer)
        for junk in ("x", "%FF", "a.b.c", "x" * 3000):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await service.anonymous.session.ws_connect(URL(f"{service.url}/ws?token={junk}", encoded=True))
            assert refused.value.status == 403


@pytest.mark.parametrize("header", ["Bearer {}", "Key {}", "Token {}", "key  {}", "X-API-Key"])
async def test_a_token_is_taken_in_each_spelling_on_every_router(api: Service, header: str) -> None:
    bearer = token("root", "admin")
    headers = {"X-API-Key": bearer} if header == "X-API-Key" else {"Authorization": header.format(bearer)}
    for path in ("/api/me", "/api/tasks", "/api/queue/status", "/api/queue/generation-status"):
        assert (await api.anonymous.get(path, headers=headers)).status in (200, 404), path
    task_id = await api.alice.submit({"a": 1})
    stream = f"{api.url}/api/task/{task_id}/stream"
    async with api.anonymous.session.get(stream, headers=headers) as opened:
        assert opened.status == 200
    async with api.anonymous.session.ws_connect(f"{api.url}/ws", headers=headers) as socket:
        await socket.send_json({"type": "ping"})
        assert (await socket.receive_json())["type"] == "pong"
    taken = await api.anonymous.get("/runpod/jobs/none/ping/w-1", headers=headers)
    assert taken.status not in (401, 403), taken


async def test_the_authorization_header_wins_over_x_api_key(api: Service) -> None:
    both = {"Authorization": f"Bearer {token('alice')}", "X-API-Key": token("bob")}

    assert (await api.anonymous.get("/api/me", headers=both))["subject"] == "alice"
    assert (await api.anonymous.get("/api/me", headers={**both, "Authorization": "Bearer x"})).status == 401


async def test_the_scheme_is_read_without_regard_to_case(api: Service) -> None:
    answer = await api.anonymous.get("/api/tasks", headers={"Authorization": f"bearer {signed()}"})

    assert answer.status == 200


async def test_users_admins_and_services_submit(api: Service) -> None:
    for client in (api.alice, api.admin, api.client("backend", "service")):
        assert (await client.post("/api/task", {"a": 1})).status == 200


async def test_an_unknown_address_is_a_problem_that_points_to_the_docs(api: Service) -> None:
    for path in ("/nope", "/api", "/api/nope", "/docs/nope", "/api/task/x/nope", "/openapi.yaml", "/schema"):
        answer = await api.alice.get(path)
        assert is_problem(answer, 404), (path, answer)
        assert answer["instance"] == path


async def test_a_method_an_address_does_not_take_is_a_405_that_names_those_it_takes(api: Service) -> None:
    for method, path, allowed in [
        ("DELETE", "/api/task", "OPTIONS, POST"),
        ("POST", "/api/task/x", "GET, HEAD, OPTIONS, PUT"),
        ("PUT", "/api/servers/x", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("PUT", "/", "GET, HEAD, OPTIONS"),
        ("POST", "/health/ready", "GET, HEAD, OPTIONS"),
    ]:
        answer = await api.admin.call(method, path)
        assert is_problem(answer, 405), (method, path, answer)
        assert answer.headers["Allow"] == allowed
        asked = await api.admin.call("OPTIONS", path)
        assert (asked.status, asked.headers["Allow"]) == (204, allowed), path


async def test_head_is_get_without_the_body(api: Service) -> None:
    for path in ("/", "/health/live", "/docs", "/openapi.json", "/api/tasks"):
        answer = await api.alice.call("HEAD", path)
        assert (answer.status, answer.body) in [(200, ""), (200, None)], path
    assert (await api.anonymous.call("HEAD", "/api/tasks")).status == 401


HOSTILE = [
    "*", ">", "%3E", "%2A", "..", "%2E%2E", ".", "%00", "%0A", "%20", "%FF", "%ED%A0%80", "a.b", "task.%3E",
    "$JS.API.%3E", "%F0%9F%98%80", "x" * 1_500, "00000000000000000000000000~*", "00000000000000000000000000~%3E",
    "00000000000000000000000000~a.b", "00000000000000000000000000~alice.%3E",
    "00000000000000000000000000~" + "a" * 1_500, "'%3B--", "%3Cscript%3E", "%7B%7B7*7%7D%7D",
]  # fmt: skip
TYPE_ROUTES = [("GET", "/api/types/{name}"), ("DELETE", "/api/types/{name}")]


async def test_hostile_ids_in_paths_find_nothing(api: Service, routes: list[Route]) -> None:
    admin = token("root", "admin")
    task_id = await api.alice.submit({"a": 1})
    await api.admin.post(
        "/api/servers", {"id": "s", "name": "s", "provider": "s", "endpoints": {"predict": "http://127.0.0.1:9"}}
    )
    for hostile in HOSTILE:
        for route in routes:
            if "_id}" not in route.path and (route.method, route.path) not in TYPE_ROUTES:
                continue
            answer = await raw(api, route.method, re.sub(r"\{\w+\}", hostile, route.path), admin)
            # A token that belongs to no attempt is answered alike, whatever the id.
            nothing = (401,) if route.path.startswith("/api/attempts/") else (400, 404, 405)
            assert answer.status in nothing, (route, hostile, answer)
            assert is_problem(answer, answer.status)
            assert len(answer["error"]) < 600
        assert (await raw(api, "PUT", f"/api/types/{hostile}", admin)).status in (200, 400, 404, 405)
    assert (await api.alice.details(task_id))["status"] == "WAITING"
    assert len((await api.admin.get("/api/servers"))["servers"]) == 1


async def test_hostile_query_values_find_nothing_and_break_nothing(api: Service) -> None:
    await api.alice.submit({"a": 1})
    admin = token("root", "admin")
    for hostile in ("*", "%3E", "%00", "%ED%A0%80", "%FF", "x" * 1_500):
        for name in ("owner", "type"):
            if (name, hostile) == ("owner", "*"):  # all owners
                continue
            answer = await raw(api, "GET", f"/api/tasks?{name}={hostile}", admin)
            assert (answer.status, answer["tasks"]) == (200, []), (name, hostile)
        for path in ("/api/servers", "/api/types"):
            assert (await raw(api, "GET", f"{path}?cursor={hostile}", admin)).status == 200


async def test_an_owner_called_like_a_wildcard_sees_only_what_is_theirs(api: Service) -> None:
    await api.alice.submit({"a": 1})
    for subject in ("*", ">", "alice.>", "ali*"):
        hostile = api.bearing(signed(sub=subject))
        assert (await hostile.get("/api/tasks"))["tasks"] == []
        own = await hostile.submit({"b": 2})
        assert [task["id"] for task in (await hostile.get("/api/tasks"))["tasks"]] == [own]
        assert (await hostile.details(own))["owner"] == subject


async def test_every_answer_carries_the_security_headers(api: Service) -> None:
    for path in ("/", "/docs", "/openapi.json", "/health/live", "/api/tasks", "/nope"):
        for client in (api.alice, api.anonymous):
            headers = (await client.get(path)).headers
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
            assert "Server" not in headers
            if path.startswith("/api"):
                assert headers["Cache-Control"] == "no-store"


async def test_a_request_keeps_the_id_it_came_with_and_gets_one_otherwise(api: Service) -> None:
    given = await api.alice.get("/api/tasks", headers={"X-Request-Id": "from-the-proxy:1"})
    unusable = await api.alice.get("/api/tasks", headers={"X-Request-Id": 'a b"<'})
    none = [(await api.alice.get("/nope")).headers["X-Request-Id"] for _ in range(2)]

    assert given.headers["X-Request-Id"] == "from-the-proxy:1"
    assert unusable.headers["X-Request-Id"] not in ("", 'a b"<')
    assert none[0] != none[1]


async def test_browsers_of_listed_origins_may_call_and_no_others(nats_url: str) -> None:
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
    }
    async with running_service(nats_url, worker=False, cors_origins=("https://app.example",)) as service:
        anonymous = service.anonymous
        listed = await anonymous.call("OPTIONS", "/api/task", headers={**preflight, "Origin": "https://app.example"})
        other = await anonymous.call("OPTIONS", "/api/task", headers={**preflight, "Origin": "https://evil.example"})
        answered = await service.alice.get("/api/tasks", headers={"Origin": "https://app.example"})
        refused = await anonymous.get("/api/tasks", headers={"Origin": "https://app.example"})
        to_others = await service.alice.get("/api/tasks", headers={"Origin": "https://evil.example"})

    assert listed.status == 204
    assert listed.headers["Access-Control-Allow-Credentials"] == "true"
    assert listed.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert "POST" in listed.headers["Access-Control-Allow-Methods"]
    assert "idempotency-key" in listed.headers["Access-Control-Allow-Headers"].lower()
    assert "Access-Control-Allow-Origin" not in other.headers
    assert answered.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert refused.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert "Access-Control-Allow-Origin" not in to_others.headers
    assert answered.headers["Access-Control-Allow-Credentials"] == "true"


async def test_by_default_browsers_of_other_origins_may_not_call(api: Service) -> None:
    answer = await api.alice.get("/api/tasks", headers={"Origin": "https://app.example"})

    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_without_the_store_a_request_is_a_503_that_says_when_to_come_back(nats: NatsServer) -> None:
    async with running_service(nats.url, worker=False) as service:
        nats.kill()

        answer = await service.alice.post("/api/task", {"a": 1})

        assert is_problem(answer, 503)
        assert int(answer.headers["Retry-After"]) > 0
        assert "nothing was lost" in answer["error"]
        assert str(nats.port) not in answer["error"]
        nats.start()


async def test_an_internal_error_reveals_no_details(api: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret at 10.0.0.7:4222")

    monkeypatch.setattr(api.container.lists, "page", fail)

    answer = await api.alice.get("/api/tasks")

    assert is_problem(answer, 500)
    assert "secret" not in repr(answer)
    assert "Traceback" not in repr(answer)
    assert "request id" in answer["error"]


async def test_a_client_that_disconnects_within_its_body_is_not_a_500(api: Service) -> None:
    async def answered(status: int) -> float:
        sample = f'taskstream_http_requests_total{{method="POST",route="/api/task",status="{status}"}} '
        page = str((await api.anonymous.get("/metrics")).body)
        return next((float(line.split(" ")[1]) for line in page.splitlines() if line.startswith(sample)), 0)

    before = await answered(400), await answered(500)
    host, port = api.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /api/task HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {signed()}\r\nContent-Length: 100\r\n\r\n"
    writer.write(head.encode() + b'{"a":')
    await writer.drain()
    writer.close()

    async def counted() -> bool:
        return await answered(400) + await answered(500) == sum(before) + 1

    await wait_until(counted, "the request to be over")
    assert await answered(500) == before[1]


# Tokens in addresses


async def test_an_admins_stream_token_changes_nothing_and_reads_no_list(api: Service, routes: list[Route]) -> None:
    """Names that look like the path of a stream are names: a type and a server called `stream` stay."""
    server = {"id": "stream", "name": "s", "provider": "s", "endpoints": {"predict": "http://127.0.0.1:9"}}
    await api.admin.done("PUT", "/api/types/stream", {"priority": "high"})
    await api.admin.done("POST", "/api/servers", server)
    stream_token = (await api.admin.post("/api/stream-tokens"))["token"]
    streams = {route.path for route in routes if route.streams} | OLDER_STREAMS
    for given in (stream_token, token("root", "admin")):
        for route in routes:
            if route.path in streams:
                continue
            for name in ("stream", "x/../stream", "x%2Fstream"):
                path = re.sub(r"\{\w+\}", name, route.path)
                answer = await raw(api, route.method, f"{path}?token={given}")
                assert answer.status in (400, 401, 404, 405), (route, name, answer)
                assert answer.status == 401 or "/../" in path or "%2F" in path, (route, answer)
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
            answer = await raw(api, method, f"/api/tasks/stream?token={given}")
            assert answer.status in (204, 401, 405), (method, answer)
    assert (await api.admin.done("GET", "/api/types/stream"))["priority"] == "high"
    assert (await api.admin.done("GET", "/api/servers/stream"))["id"] == "stream"


async def test_each_stream_takes_a_stream_token_and_ends_when_its_token_expires(nats_url: str) -> None:
    """Also one that was opened with a stream token: it ends with the JWT that asked for it."""
    async with running_service(nats_url, worker=False, jwt_leeway=0) as service:
        named = {
            "task_id": await service.alice.submit({"a": 1}),
            "batch_id": (await service.alice.done("POST", "/api/tasks/batch", [{"a": 1}]))["batchId"],
        }
        streams = [route for route in await routes_of(service) if route.streams and route.method == "GET"]
        queries = {"/api/live": "topic=stats&"}
        paths = [
            f"{route.named(**named)}?{queries.get(route.path, '')}"
            for route in streams
            if route.path not in OLDER_STREAMS
        ]
        assert len(paths) >= 3

        async def last_of(client: Client, path: str) -> Any:
            """Return the last message of a stream; None if the token expired before the stream began."""
            async with client.session.get(service.url + path, headers=bearer_of(client)) as response:
                assert response.status in (200, 401)
                text = await response.text()
            return json.loads(text.strip().rpartition("data: ")[2]) if response.status == 200 else None

        for seconds in (2, 8, 32):  # the machine may be busy
            short = service.bearing(token(lifetime_seconds=seconds))
            given = await short.done("POST", "/api/stream-tokens")
            assert given["streamsEndAt"] == given["expiresAt"] <= (time.time() + seconds) * 1000
            in_address = [last_of(service.anonymous, f"{path}token={given['token']}") for path in paths]
            found = await asyncio.gather(*in_address, *[last_of(short, path) for path in paths])
            assert (await service.anonymous.get(f"{paths[0]}token={given['token']}")).status == 401
            if None not in found:
                break
        assert [(last["type"], "expired" in last["error"]) for last in found] == [("expired", True)] * len(found)
        assert service.container.open_streams.of("alice") == 0


def bearer_of(client: Client) -> dict[str, str]:
    return {"Authorization": f"Bearer {client.bearer}"} if client.bearer else {}


async def test_a_wait_for_a_task_ends_when_its_token_expires(nats_url: str) -> None:
    async with running_service(nats_url, worker=False, jwt_leeway=0) as service:
        task_id = await service.alice.submit({"a": 1})
        short = token(lifetime_seconds=4)

        answer = await service.bearing(short).get(f"/api/task/{task_id}?wait=60")

        assert answer["taskDetails"]["status"] == "WAITING"
        assert (await service.bearing(short).get(f"/api/task/{task_id}")).status == 401


OLDER_STREAMS = {"/api/active-tasks", "/api/events"}
"""Streams of older clients, which put a JWT in the address."""


async def test_only_streams_of_older_clients_take_a_jwt_in_the_address(api: Service) -> None:
    assert (await raw(api, "GET", f"/api/tasks/stream?token={token('root', 'admin')}")).status == 401
