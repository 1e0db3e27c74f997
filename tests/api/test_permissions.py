"""The permission matrix: every route of the application, called by every kind of caller.

What is expected follows from the marks of a route and from the parameters of its path. A route that these do not
describe fails here until it is in one of the tables below.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from io import BytesIO
from typing import Any, NamedTuple
from urllib.parse import unquote, urlencode

import aiohttp
import jwt
import msgspec
import pytest

from taskstream.api.auth.access import (
    ATTEMPT_TOKENS,
    ATTEMPT_TOKENS_IN_ADDRESS,
    FILE_LINK_TOKENS,
    LINK_TOKENS,
    READERS_OF_ALL,
    TakesStreamTokens,
)
from taskstream.api.auth.narrowing import CALLER, MODEL, SUBMIT
from taskstream.api.auth.roles import ROLES
from taskstream.api.runpod import refusals
from taskstream.api.runpod import routes as runpod
from taskstream.clock import utc_now
from taskstream.events.ids import parse_file_id, parse_task_id
from taskstream.facades.model_versions import prefix_of
from taskstream.streams.jetstream.messages import last_sequence, stream_info
from taskstream.streams.topology.definitions import DERIVED, SERVERS, streams
from testkit.puller import register_pulled
from testkit.routes import WEBSOCKET, AnyRoute, all_routes, examples, first_example
from testkit.service import SECRET, Client, Service
from testkit.things import ATTEMPT_TOKEN, KINDS, MARK, OWNER, PROJECT, SERVER, TYPES, Things

OPEN = {
    "/", "/health/live", "/health/ready", "/api/health", "/metrics", "/openapi.json",
    "/docs", "/docs/start.js", "/docs/icon.svg", "/docs/{name}",
    "/console", "/console/assets/{name}", "/console/{name}",
}  # fmt: skip
"""Routes without a token: they show nothing of anybody's."""
OTHER_SERVER = "gpu-2"
OTHER_TYPES = ("others",)
NAMES = {
    "server_id": SERVER,
    "server": SERVER,
    "worker": "w",
    "job": "none",
    "name": PROJECT,
    "owner": OWNER,
    "number": "0",
    "model_owner": "acme",
    "model_name": PROJECT,
    "version": f"{prefix_of(PROJECT):0<64}",
}
"""Values of parameters that name nothing a user owns."""
OF_FACADES = frozenset({"prediction_id", "replicate_file_id", "response_id", "openai_file_id", "openai_batch_id"})
QUEUE_SURFACE = re.compile(r"/api/queue/|/api/projects/|/api/tasks/\{task_id\}/cancel")
"""Its clients know a 403: the id of a task names its owner, so it does not show whether there is such a task."""
BY_SERVERS = {
    "GET /api/task/{task_id}",
    "PUT /api/task/{task_id}",
    "POST /api/task/{task_id}/files",
    "GET /api/task/{task_id}/payload",
    "GET /api/task/{task_id}/result",
    "GET /api/task/{task_id}/result/file",
    "GET /api/task/{task_id}/result/file/{number}",
}
"""Routes by which a `service` token reaches the tasks of its servers."""
BODIES: Mapping[str, Any] = {
    "POST /api/attempts/take": {"server": SERVER, "wait": 0},
    "POST /api/attempts/cancelled": {"server": SERVER, "attempts": ["none"], "wait": 0},
    "POST /replicate/v1/models/{model_owner}/{model_name}/predictions": {"input": {}},
    "POST /replicate/v1/deployments/{model_owner}/{model_name}/predictions": {"input": {}},
}
"""Bodies that name a server, or are needed to get as far as the access."""
OF_PROCESSES = {"KV_leases", "TIMERS", "RETRIES"}
"""Streams that the service writes on its own."""
QUERIES = {"/api/live": "?topic=tasks:"}
"""Queries without which a route is a 400."""


class Caller(NamedTuple):
    """A caller with a token in the header."""

    name: str
    roles: frozenset[str]
    bearer: str | None
    refused: int = 0
    """The status of every answer; 0: it depends on the route."""
    acts_for: str = ""
    """The server of a `service` token."""
    is_alice: bool = False
    types: tuple[str, ...] = ()
    """Types of tasks that the API key reaches; empty: all."""


def signed(secret: str = SECRET, lifetime: int = 3600, **claims: Any) -> str:
    now = int(time.time())
    return jwt.encode({"iat": now - 7200, "exp": now + lifetime, **claims}, secret, "HS256")


def caller(name: str, role: str, acts_for: str = "") -> Caller:
    return Caller(name, frozenset({role}), signed(sub=acts_for or name, roles=[role]), acts_for=acts_for)


WITHOUT_ACCESS = [
    Caller("no token", frozenset(), None, 401),
    Caller("garbage", frozenset(), "garbage", 401),
    Caller("expired", frozenset(), signed(lifetime=-3600, sub=OWNER, roles=list(ROLES)), 401),
    Caller("forged", frozenset(), signed("x" * 40, sub=OWNER, roles=list(ROLES)), 401),
    Caller("no role", frozenset(), signed(sub=OWNER, roles=["other"]), 403),
]
ALICE = caller(OWNER, "user")._replace(is_alice=True)
BOB = caller("bob", "user")
CALLERS = [
    ALICE,
    BOB,
    caller("root", "admin"),
    caller("eve", "auditor"),
    caller("its server", "service", SERVER),
    caller("another server", "service", OTHER_SERVER),
]


async def api_keys(service: Service) -> list[Caller]:
    """Return alice's API keys: one with all that she may, for the types of her tasks, for others, and a revoked one."""

    async def key(name: str, types: tuple[str, ...] = ()) -> tuple[Caller, str]:
        body = {"name": name, "roles": ["user"], "types": list(types)}
        made = await service.alice.done("POST", "/api/keys", body)
        return Caller(name, frozenset({"user"}), made["key"], is_alice=True, types=types), made["details"]["id"]

    revoked, key_id = await key("revoked key")
    await service.alice.done("DELETE", f"/api/keys/{key_id}")
    working = [await key("key"), await key("key for her types", TYPES), await key("key for other types", OTHER_TYPES)]
    return [*(made for made, _ in working), revoked._replace(refused=401)]


class Reply(NamedTuple):
    """An answer; `body` is empty for one that was not refused and may have no end."""

    status: int
    media_type: str
    body: str


def is_problem(reply: Reply) -> bool:
    """Return True for a problem document (RFC 9457)."""
    if reply.media_type != "application/problem+json":
        return False
    body = json.loads(reply.body)
    is_whole = {"type", "title", "status", "detail", "instance", "error"} <= body.keys()
    return is_whole and body["status"] == reply.status and body["error"] == body["detail"] != ""


def is_replicate_problem(reply: Reply) -> bool:
    """Return True for a problem document of Replicate's API."""
    if reply.media_type != "application/problem+json":
        return False
    body = json.loads(reply.body)
    return {"type", "title", "status", "detail"} <= body.keys() and body["status"] == reply.status


def is_openai_error(reply: Reply) -> bool:
    """Return True for an error of OpenAI's API."""
    if reply.media_type != "application/json":
        return False
    error = json.loads(reply.body).get("error")
    return isinstance(error, dict) and error.keys() == {"message", "type", "param", "code"} and error["message"] != ""


FORMS: Mapping[str, Callable[[Reply], bool]] = {
    "/openai/": is_openai_error,
    "/api/": is_problem,
    "/runpod/jobs/": is_problem,
    "/replicate/": is_replicate_problem,
}
"""The form of refusals, by the beginning of the path."""


def form_of(route: AnyRoute) -> Callable[[Reply], bool]:
    return next(form for prefix, form in FORMS.items() if route.path.startswith(prefix))


def owned_kind(route: AnyRoute) -> str | None:
    """Return the parameter that names a thing of a user, None without one. Raises KeyError for an unknown one."""
    unknown = set(route.parameters) - KINDS.keys() - NAMES.keys()
    if unknown:
        raise KeyError(f"{route}: is {', '.join(unknown)} a user's? Add it to testkit/things.py or to NAMES")
    return next((name for name in route.parameters if name in KINDS), None)


def names_type(route: AnyRoute) -> bool:
    """Return True if a path names a model of Replicate's, which is the type PROJECT."""
    return not {"model_name", "version"}.isdisjoint(route.parameters)


def refusal(route: AnyRoute, by: Caller) -> int:
    """Return the status with which a call is refused for want of access, 0 if it is not."""
    if by.refused:
        return by.refused
    if not by.roles & route.roles or (by.types and route.narrows is None):
        return 403
    kind = owned_kind(route)
    if by.types == OTHER_TYPES and (kind or names_type(route)):
        return 404
    if kind == "attempt_id":
        return 401  # reports need the token of the attempt
    if kind in OF_FACADES:  # they show owners their own things alone
        return 0 if by.is_alice else 404
    if kind is None:
        is_anothers = "owner" in route.parameters and not by.is_alice and not by.roles & {*READERS_OF_ALL}
        is_other_server = by.acts_for == OTHER_SERVER and (
            {"server", "server_id"} & {*route.parameters} or "server" in BODIES.get(str(route), ())
        )
        return 403 if is_anothers or is_other_server else 0
    if str(route) == "POST /api/task/{task_id}/cog":  # with the token of an attempt only
        return 404 if by.name == "bob" else 403
    if by.is_alice or "admin" in by.roles:
        return 0
    if "auditor" in by.roles:
        return 0 if route.method == "GET" else 403
    if str(route) in BY_SERVERS and by.acts_for == SERVER:
        return 0
    return 403 if QUEUE_SURFACE.match(route.path) else 404


class Matrix:
    """Calls routes of a service, with things of alice in their paths."""

    def __init__(self, service: Service, document: dict[str, Any]) -> None:
        self.service = service
        self.things = Things(service, service.alice)
        self.document = document
        self.keys: list[Caller] = []
        container = service.container
        self._reading = container.reading
        self._streams = [
            each["name"] for each in streams(container.settings) if each["name"] not in {*DERIVED, *OF_PROCESSES}
        ]

    async def stored(self) -> dict[str, int]:
        """Return the sequence that each stream has reached that callers change: logs, secrets, results, deliveries."""
        return {name: int((await stream_info(self._reading, name))["state"]["last_seq"]) for name in self._streams}

    async def restore(self) -> None:
        """Have again what a call may have changed or removed."""
        self.things.forget()
        await self.service.admin.done("PUT", f"/api/types/{PROJECT}", {})
        for server in (SERVER, OTHER_SERVER):
            if (await self.service.admin.get(f"/api/servers/{server}")).status == 404:
                await register_pulled(self.service.admin, server)

    async def path(self, route: AnyRoute, *, is_absent: bool = False) -> str:
        """Return the path of a route with things of alice; `is_absent`: with ids like theirs, of nothing."""
        values = dict(NAMES)
        for name in route.parameters:
            kind = "ended_task_id" if name == "task_id" and "/result" in route.path else name
            if kind in KINDS:
                found = await self.things.find(kind)
                values[name] = self.things.absent(found) if is_absent else found
        return route.path.format(**values) + QUERIES.get(route.path, "")

    async def of_alice(self) -> dict[str, int]:
        """Return the sequences of the last events of alice's things, by the log."""
        logs = [each for each in streams(self.service.container.settings) if each.get("deny_purge")]
        return {
            each["name"]: await last_sequence(self._reading, each["name"], f"{subject.partition('.')[0]}.{OWNER}.>")
            for each in logs
            for subject in each["subjects"]
            if each["name"] != SERVERS and subject.endswith(".>")
        }

    async def call(self, route: AnyRoute, path: str, bearer: str | None, content: bytes | None = None) -> Reply:
        """Call a route, by default with an example of its body; read the body only of a refusal or a list."""
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        url = self.service.url + path
        session = self.service.anonymous.session
        if route.method == WEBSOCKET:
            try:
                async with session.ws_connect(url, headers=headers):
                    return Reply(101, "", "")
            except aiohttp.WSServerHandshakeError as refused:
                return Reply(refused.status, "", "")
        body = BODIES.get(str(route)) or (first_example(self.document, route) if owned_kind(route) else {})
        sent: dict[str, Any] = {} if route.method == "GET" else {"json": body}
        if content is not None:
            sent = {"data": BytesIO(content)}
        async with session.request(route.method, url, headers=headers, allow_redirects=False, **sent) as response:
            is_endless = response.status < 400 and "json" not in response.content_type
            return Reply(response.status, response.content_type, "" if is_endless else await response.text())


@pytest.fixture
async def matrix(api: Service, monkeypatch: pytest.MonkeyPatch) -> Matrix:
    monkeypatch.setattr(refusals, "HELD_SECONDS", 0.0)
    for held in ("WAIT_SECONDS", "KEEP_OPEN_SECONDS", "IDLE_SECONDS"):
        monkeypatch.setattr(runpod, held, 0.0)
    made = Matrix(api, await api.anonymous.done("GET", "/openapi.json"))
    await made.restore()
    made.keys = await api_keys(api)
    return made


def guarded() -> list[AnyRoute]:
    """Return the HTTP routes that need a token."""
    return [route for route in all_routes() if route.path not in OPEN and route.method != WEBSOCKET]


def refusals_of(route: AnyRoute, callers: list[Caller]) -> list[tuple[Caller, int]]:
    return [(by, status) for by in callers if (status := refusal(route, by))]


async def test_whoever_may_not_call_a_route_is_refused_in_its_form_without_effect(matrix: Matrix) -> None:
    wrong = []
    for route in guarded():
        path = await matrix.path(route)
        absent = await matrix.path(route, is_absent=True)
        before = await matrix.stored()
        for by, status in refusals_of(route, [*WITHOUT_ACCESS, *CALLERS, *matrix.keys]):
            reply = await matrix.call(route, path, by.bearer)
            if reply.status != status or not form_of(route)(reply):
                wrong.append(f"{route} by {by.name}: {reply.status}, not {status}: {reply.body[:200]}")
            elif MARK in reply.body:
                wrong.append(f"{route} by {by.name}: shows what is alice's")
            elif owned_kind(route) and not _is_alike(reply, path, await matrix.call(route, absent, by.bearer), absent):
                wrong.append(f"{route} by {by.name}: shows whether the thing exists")
        if added := dict((await matrix.stored()).items() - before.items()):
            wrong.append(f"{route}: a refused call stored something in {', '.join(added)}")
    assert not wrong, "\n".join(wrong)


def _is_alike(reply: Reply, path: str, other: Reply, other_path: str) -> bool:
    """Return True if two answers differ in nothing but the ids of their paths."""

    def without_ids(text: str, path: str) -> str:
        for part in path.partition("?")[0].split("/"):
            text = text.replace(part, "…") if len(part) >= 26 else text
        return text

    return (reply.status, without_ids(reply.body, path)) == (other.status, without_ids(other.body, other_path))


async def test_whoever_may_call_a_route_reaches_it_and_sees_only_what_is_theirs(matrix: Matrix) -> None:
    wrong = []
    for route in guarded():
        for by in [*CALLERS, *matrix.keys]:
            if refusal(route, by):
                continue
            reply = await matrix.call(route, await matrix.path(route), by.bearer)
            if route.method != "GET":
                await matrix.restore()
            if by.types == OTHER_TYPES and (route.narrows, reply.status) in ((SUBMIT, 403), (MODEL, 404)):
                continue  # it submits tasks of its types only, and finds no other models
            if reply.status in (401, 403, 404, 405, 500):
                wrong.append(f"{route} by {by.name}: {reply.status}: {reply.body[:200]}")
            is_stranger = by.name == "bob" or by.acts_for == OTHER_SERVER or by.types == OTHER_TYPES
            is_stranger &= by.types != OTHER_TYPES or route.narrows != CALLER  # which shows her key to itself
            if is_stranger and (MARK in reply.body or f"~{OWNER}" in reply.body):
                wrong.append(f"{route} by {by.name}: shows what is alice's")
    assert not wrong, "\n".join(wrong)


class Opener(NamedTuple):
    """A token that is no JWT."""

    name: str
    token: str
    opens: Callable[[AnyRoute], bool]
    """Returns True for a route that takes such tokens."""
    refused: int = 0
    """The status on routes that take such tokens; 0: it opens them."""
    refused_others: int = 0
    """Likewise, on those that name a thing of alice."""
    is_in_address: bool = True


def takes_attempt_tokens(route: AnyRoute) -> bool:
    return bool(route.takes == ATTEMPT_TOKENS)


def takes_attempt_tokens_in_address(route: AnyRoute) -> bool:
    return bool(route.takes == ATTEMPT_TOKENS_IN_ADDRESS)


def takes_links(route: AnyRoute) -> bool:
    return bool(route.takes == LINK_TOKENS)


def takes_stream_links(route: AnyRoute) -> bool:
    return isinstance(route.takes, TakesStreamTokens) and route.takes.links is not None


def takes_file_links(route: AnyRoute) -> bool:
    return bool(route.takes == FILE_LINK_TOKENS)


def takes_stream_tokens(route: AnyRoute) -> bool:
    return isinstance(route.takes, TakesStreamTokens) and route.takes.links is None


def link_of(matrix: Matrix, task_id: str) -> str:
    """Return the token of a link to the result of a task."""
    sequence, until = matrix.things.result_sequence, utc_now() + timedelta(hours=1)
    link = matrix.service.container.links.result(parse_task_id(task_id), sequence, 10, until)
    return str(link["$ref"]).rpartition("token=")[2]


def file_link_of(matrix: Matrix, file_id: str) -> str:
    """Return the token of a link to a file."""
    url = matrix.service.container.files.links.url(parse_file_id(file_id), utc_now() + timedelta(hours=1))
    return url.rpartition("token=")[2]


async def openers(matrix: Matrix) -> list[Opener]:
    async def stream_token(client: Client) -> str:
        return str((await client.done("POST", "/api/stream-tokens"))["token"])

    async def stream_link(client: Client) -> str:
        prediction = await client.done("GET", f"/replicate/v1/predictions/{await matrix.things.find('prediction_id')}")
        return str(prediction["urls"]["stream"]).rpartition("token=")[2]

    ended = await matrix.things.find("ended_task_id")
    file = await matrix.things.find("file_id")
    service, strange, made_up = matrix.service, link_of(matrix, Things.absent(ended)), "z" * len(ATTEMPT_TOKEN)
    return [
        Opener("attempt token", ATTEMPT_TOKEN, takes_attempt_tokens, is_in_address=False),
        Opener("made-up attempt token", made_up, takes_attempt_tokens, 401, is_in_address=False),
        Opener("attempt token in the address", ATTEMPT_TOKEN, takes_attempt_tokens_in_address),
        Opener("made-up attempt token in the address", made_up, takes_attempt_tokens_in_address, 401),
        Opener("link", link_of(matrix, ended), takes_links),
        Opener("link to another task", strange, takes_links, 403),
        Opener("link to a file", file_link_of(matrix, file), takes_file_links),
        Opener("link to another file", file_link_of(matrix, Things.absent(file)), takes_file_links, 403),
        Opener("link to a stream", await stream_link(service.alice), takes_stream_links),
        Opener("garbage in the address", "garbage", lambda _: False),
        Opener("stream token of alice", await stream_token(service.alice), takes_stream_tokens),
        Opener("stream token of bob", await stream_token(service.bob), takes_stream_tokens, refused_others=404),
    ]


async def test_a_token_that_is_no_jwt_opens_what_it_was_made_for(matrix: Matrix) -> None:
    wrong = []
    for route in guarded():
        path = await matrix.path(route)
        callers = await openers(matrix)
        before = await matrix.stored()
        has_opened = False
        for by in callers:
            only_with = getattr(route.takes, "only_with", "")
            asked = f"{path}{'&' if '?' in path else '?'}{only_with and f'{only_with}&'}token={by.token}"
            reply = await matrix.call(
                route, asked if by.is_in_address else path, None if by.is_in_address else by.token
            )
            status = (by.refused_others if owned_kind(route) else 0) or by.refused if by.opens(route) else 401
            has_opened = has_opened or not status
            if status and (reply.status != status or not form_of(route)(reply)):
                wrong.append(f"{route} by {by.name}: {reply.status}, not {status}: {reply.body[:200]}")
            if not status and reply.status in (401, 403, 404, 500):
                wrong.append(f"{route} by {by.name}: {reply.status}: {reply.body[:200]}")
        if not has_opened and (added := dict((await matrix.stored()).items() - before.items())):
            wrong.append(f"{route}: a refused call stored something in {', '.join(added)}")
        if has_opened:
            await matrix.restore()
    assert not wrong, "\n".join(wrong)


REFERRING: Mapping[str, list[Any]] = {
    "POST /api/task": [{"payload": {"image": {"$file": "x"}}}, {"payload": 1, "dependsOn": ["x"]}],
    "POST /api/tasks/batch": [[{"payload": {"image": {"$file": "x"}}}], [{"payload": 1, "dependsOn": ["x"]}]],
    "POST /api/schedules": [{"cron": "@yearly", "task": {"payload": {"image": {"$file": "x"}}, "dependsOn": ["x"]}}],
    "POST /api/operations": [{"action": "cancel", "ids": ["x"]}, {"action": "delete", "filter": {"batch": "x"}}],
    "POST /replicate/v1/predictions": [
        {"version": NAMES["version"], "input": {"text": "x", "image": {"$file": "x"}}},
        {"version": NAMES["version"], "input": {"url": "x"}, "webhook": "x"},
    ],
}
"""Bodies with all that may refer to something else, beside the examples of the API's description."""


IDS_OF_ALICE = re.compile(rf"[0-9A-Z]{{26}}~{OWNER}")


def with_each_text(body: Any, text: str) -> Iterator[Any]:
    """Yield copies of a body, each with one of its texts replaced."""
    if isinstance(body, str):
        yield text
    for key, value in body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ():
        for changed in with_each_text(value, text):
            copied = body.copy()
            copied[key] = changed
            yield copied


def of_bob() -> list[AnyRoute]:
    """Return the routes that bob may call and that name nothing of a user."""
    return [route for route in guarded() if not refusal(route, BOB) and owned_kind(route) is None]


async def test_an_id_of_anothers_in_a_query_or_a_body_opens_and_changes_nothing(matrix: Matrix) -> None:
    ids = [await matrix.things.find(kind) for kind in KINDS]
    before = await matrix.of_alice()
    wrong = []
    for route in of_bob():
        path = await matrix.path(route)
        bodies = [*examples(matrix.document, route), *REFERRING.get(str(route), [])]
        asked: set[tuple[str, bytes]] = set()
        for thing in [*ids, OWNER]:
            for name in route.query:
                values = [f"task:{thing}", f"tasks:batch={thing}"] if name == "topic" else [thing]
                asked |= {(f"{path.partition('?')[0]}?{urlencode({name: value})}", b"") for value in values}
            asked |= {(path, msgspec.json.encode(each)) for body in bodies for each in with_each_text(body, thing)}
        for where, body in sorted(asked):
            reply = await matrix.call(route, where, BOB.bearer, body or None)
            said = unquote(where) + body.decode()
            has_shown = MARK in reply.body or any(each not in said for each in IDS_OF_ALICE.findall(reply.body))
            if reply.status >= 500 or has_shown:
                wrong.append(f"{route} with {where} {body!r}: {reply.status} {reply.body[:200]}")
    assert not wrong, "\n".join(wrong)
    assert await matrix.of_alice() == before


async def test_routes_without_a_token_are_listed_and_take_none(matrix: Matrix) -> None:
    found = set()
    for route in all_routes():
        reply = await matrix.call(route, await matrix.path(route), None)
        if reply.status not in (401, 403):
            found.add(route.path)
            assert route.method == "GET"
            assert MARK not in reply.body
    assert found == OPEN


async def test_a_websocket_opens_with_a_valid_token_only(matrix: Matrix) -> None:
    sockets = [route for route in all_routes() if route.method == WEBSOCKET]
    assert sockets
    for route in sockets:
        for by in [*WITHOUT_ACCESS, *CALLERS, *matrix.keys]:
            reply = await matrix.call(route, route.path, by.bearer)
            assert reply.status == (403 if by.refused else 101), (route, by.name)
