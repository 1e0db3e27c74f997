"""Clients of several tenants that do what clients do, and put each call into a journal before and after it.

A line `before` is on disk before the call is made, with the whole `body`; a line `after` follows the answer with what
it shows of tasks, or says `lost`. Every payload holds a mark that names its tenant, so that an answer shows whose data
is in it.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

from taskstream.api.auth.authenticator import make_token
from testkit.service import SECRET

from .evidence import ANY_API
from .journal import Journal
from .schedule import MODEL_TYPE

TENANTS = ("alice", "bob", "carol")
CLIENTS_PER_TENANT = 2
PAUSE_SECONDS = 0.35
"""Between two calls of a client, on average."""
BURST_FACTOR = 10
CALL_SECONDS = 8.0
TOKEN_AGES_SECONDS = (0, 600)
"""By a tenant's clients: how old their tokens are. An API whose clock jumps back may take a new one for one of the
future, an old one never."""
TOKEN_LIFETIME_SECONDS = 86_400
MARK = re.compile(r"mk-[a-z]+-[0-9]+-[0-9]+")
LISTED = 20
"""Tasks that a client lists at a time."""
MOST_LISTED = 200
"""The most that a list shows at a time."""
CLOSING_READS = 4

QUICK = ("ok",)
BAD_ANSWERS = (
    ("hang", "ok"),
    ("trickle", "ok"),
    ("lie", "ok"),
    ("garbage", "ok"),
    ("no_json", "ok"),
    ("huge", "ok"),
    ("bomb", "ok"),
    ("die", "die", "ok"),
    ("twice",),
    ("odd",),
    ("fail",),
    ("misaddressed", "ok"),
    ("redirect", "ok"),
    ("busy", "ok"),
    ("unavailable", "busy", "ok"),
    ("error", "error", "ok"),
    ("error",),
    ("reject",),
)
BAD_REPORTS = (
    ("report_first",),
    ("report_twice",),
    ("report_disordered",),
    ("report_late", "ok"),
    ("report_older", "report_older"),
    ("report_forged",),
    ("odd",),
    ("fail",),
)
TYPES = {"": 4, "batch": 2.5, MODEL_TYPE: 4}
"""By type of a task, empty for none: how often it is chosen."""
OPERATIONS = {
    "submit": 10,
    "repeat": 2,
    "conflict": 0.5,
    "cancel": 1.5,
    "retry": 1,
    "read": 3,
    "list": 1,
    "pry": 1,
    "usurp": 0.5,
    "odd": 0.3,
}
ODD_IDS = ("*", "%3E", "x" * 4_000, "0" * 26 + "~*", "0" * 26 + "~%3E", "..%2F..", "0" * 26 + "~" + "=2A")


class Answer(Struct):
    status: int
    """0 if there was none."""
    text: str = ""

    @property
    def body(self) -> Any:
        return msgspec.json.decode(self.text)


class Submitted(Struct):
    """A submission as its client remembers it."""

    key: str | None
    body: dict[str, Any]
    task_id: str | None = None
    """Once it was acknowledged."""


class Client:
    """One client of a tenant: a loop of calls, one at a time."""

    def __init__(
        self, tenant: str, number: int, urls: Sequence[str], session: aiohttp.ClientSession, journal: Journal, seed: int
    ) -> None:
        self.tenant = tenant
        self.number = number
        self.submitted: list[Submitted] = []
        self._urls = urls
        self._session = session
        self._journal = journal
        self._chance = random.Random(f"{seed}/{tenant}/{number}")
        issued_at = time.time() - TOKEN_AGES_SECONDS[number]
        self._bearer = make_token(SECRET, tenant, ["user"], TOKEN_LIFETIME_SECONDS, issued_at)
        self._token = {"issued_at": int(issued_at), "expires_at": int(issued_at) + TOKEN_LIFETIME_SECONDS}
        self._marks = 0
        self._calls = 0

    @property
    def recent(self) -> list[str]:
        """Ids of the tasks that were acknowledged last."""
        return [one.task_id for one in self.submitted[-20:] if one.task_id]

    def new_mark(self) -> str:
        """Return a mark that no other payload has."""
        self._marks += 1
        return f"mk-{self.tenant}-{self.number}-{self._marks - 1}"

    # Operations

    async def operate(self, others: Sequence[str]) -> None:
        """Do something; `others`: ids of other tenants' tasks."""
        operation = self._chance.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
        known = [one for one in self.submitted if one.task_id]
        match operation:
            case "repeat" if self.submitted:
                await self.submit(self._chance.choice(self.submitted[-30:]), "repeat")
            case "conflict" if known and (one := self._chance.choice(known[-30:])).key:
                await self.conflict(one)
            case "cancel" | "retry" | "read" if known:
                # What was submitted lately is likelier to be under way.
                await self.touch(operation, self._chance.choice(known[-8:]).task_id or "")
            case "list":
                await self.list_tasks(LISTED)
            case "pry" if others:
                await self.pry(self._chance.choice(others))
            case "usurp" if others:
                await self.usurp(self._chance.choice(others))
            case "odd":
                await self.call("odd", "GET", f"/api/task/{self._chance.choice(ODD_IDS)}")
            case _:
                await self.submit(self._new())

    def _new(self) -> Submitted:
        chance = self._chance.random()
        orders: Sequence[str] = QUICK
        if chance > 0.7:
            orders = self._chance.choice(BAD_ANSWERS if chance < 0.88 else BAD_REPORTS)
        mark = self.new_mark()
        body: dict[str, Any] = {
            "payload": {"mark": mark, "do": orders, "seconds": round(self._chance.random() ** 3, 2)},
            "timeout": self._chance.choice((3, 4)),
        }
        if task_type := self._chance.choices(list(TYPES), list(TYPES.values()))[0]:
            body["type"] = task_type
        if self._chance.random() < 0.4:
            body["priority"] = self._chance.choice(("high", "low"))
        if self._chance.random() < 0.3:
            body["attempts"] = self._chance.choice((1, 2, 5))
        return Submitted(key=f"key of {mark}" if self._chance.random() < 0.75 else None, body=body)

    async def submit(self, one: Submitted, operation: str = "submit") -> None:
        """Submit, and where the outcome is unknown perhaps again; only with a key may that be done."""
        if operation == "submit":
            self.submitted.append(one)
        elif one.key is None:
            return
        for _ in range(4):
            answer = await self._submit(one, operation)
            if answer.status == 200:
                one.task_id = answer.body["taskId"]
                return
            if one.key is None or self._chance.random() < 0.4:
                return
            operation = "repeat"
            await asyncio.sleep(0.2)

    async def _submit(self, one: Submitted, operation: str) -> Answer:
        headers = {"Idempotency-Key": one.key} if one.key else {}
        facts = {"key": one.key, "mark": one.body["payload"]["mark"]}
        if last := one.body.get("expiresAt", one.body.get("deadline")):
            facts["last_at"] = last / 1000
        return await self.call(operation, "POST", "/api/task", one.body, headers, **facts)

    async def list_tasks(self, limit: int, api: int | None = None) -> None:
        """List the newest tasks."""
        await self.call("list", "GET", f"/api/tasks?limit={limit}", api=api, limit=limit)

    async def close_out(self, others: Sequence[str]) -> None:
        """Make each kind of call that changes nothing, to each API; everything is healed and has ended."""
        known = [one for one in self.submitted if one.task_id]
        for api in range(len(self._urls)):
            await self.list_tasks(MOST_LISTED, api)
            for one in self._chance.sample(known, min(len(known), CLOSING_READS)):
                await self.call("read", "GET", f"/api/task/{one.task_id}", api=api, task=one.task_id)
            if others:
                await self.pry(self._chance.choice(others))
                await self.usurp(self._chance.choice(others))
            if known:  # it has ended: nothing changes
                await self.touch("cancel", self._chance.choice(known).task_id or "")
            if keyed := [one for one in known if one.key]:
                await self.conflict(self._chance.choice(keyed))
            await self.call("odd", "GET", f"/api/task/{self._chance.choice(ODD_IDS)}", api=api)

    async def conflict(self, one: Submitted) -> None:
        """Use a key that stands for a task with another body."""
        mark = self.new_mark()
        body = {"payload": {"mark": mark, "do": ["ok"]}}
        headers = {"Idempotency-Key": one.key or ""}
        await self.call("conflict", "POST", "/api/task", body, headers, key=one.key, mark=mark)

    async def touch(self, operation: str, task_id: str) -> Answer:
        path = f"/api/task/{task_id}"
        if operation == "read":
            return await self.call("read", "GET", path, task=task_id)
        return await self.call(operation, "POST", f"{path}/{operation}", task=task_id)

    async def pry(self, task_id: str) -> None:
        """Try to read another tenant's task."""
        await self.call("pry", "GET", f"/api/task/{task_id}{self._chance.choice(('', '/events'))}", task=task_id)

    async def usurp(self, task_id: str) -> None:
        """Try to end another tenant's task as its backend would."""
        body = {"data": {"mark": "usurped"}, "metadata": {"server_id": "backend-1", "status": "FINISHED"}}
        await self.call("usurp", "PUT", f"/api/task/{task_id}", body, task=task_id)

    async def call(
        self,
        operation: str,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        api: int | None = None,
        **facts: Any,
    ) -> Answer:
        """Make one call, journaled, to one API (None: either); the answer's status is 0 where none came."""
        self._calls += 1
        call = f"{self.tenant}-{self.number}-{self._calls}"
        api = self._chance.randrange(len(self._urls)) if api is None else api
        name = f"api-{api + 1}" if self._urls[api] else ANY_API
        facts |= {"tenant": self.tenant, "api": name, "token": self._token}
        if body is not None:
            facts["body"] = body
        self._journal.write(phase="before", call=call, operation=operation, **facts)
        sent = {"Authorization": f"Bearer {self._bearer}", **(headers or {})}
        try:
            async with self._session.request(method, self._urls[api] + path, json=body, headers=sent) as response:
                answer = Answer(response.status, await response.text())
                retry_after = response.headers.get("Retry-After")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._journal.write(phase="after", call=call, status=0, lost=repr(error)[:200])
            return Answer(0)
        said: dict[str, Any] = {"marks": sorted(set(MARK.findall(answer.text)))}
        if answer.status == 200 and answer.text.startswith('{"taskId"') and "taskDetails" in answer.text:
            details = answer.body["taskDetails"]
            said |= {"task_id": answer.body["taskId"], "shows": details["status"], "details": _shown(details, DETAILS)}
        elif answer.status == 200 and operation == "list":
            said |= {"tasks": [_shown(task, SUMMARY) for task in answer.body["tasks"]]}
        elif answer.status == 200 and answer.text.startswith('{"batchId"') and "taskIds" in answer.text:
            said |= {"task_id": answer.body["batchId"], "task_ids": answer.body["taskIds"]}
        elif answer.status >= 400:
            said |= {"said": answer.text[:300], "retry_after": retry_after}
        self._journal.write(phase="after", call=call, status=answer.status, **said)
        return answer


SUMMARY = ("id", "status", "type", "priority", "owner", "serverId", "attempt", "attempts", "failureKind")
DETAILS = (*SUMMARY, "request", "result", "dependsOn", "onParentFailure")


def _shown(task: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return these fields of a task as an answer shows it; None for one that is missing."""
    return {name: task.get(name) for name in names}


class Load:
    """All clients together; use as an async context manager."""

    def __init__(self, urls: Sequence[str], journal: Journal, seed: int) -> None:
        self.burst = False
        self._urls = urls
        self._journal = journal
        self._seed = seed
        self.clients: list[Client] = []
        self._session: aiohttp.ClientSession | None = None
        self._running: list[asyncio.Task[None]] = []
        self._stopping = False

    async def __aenter__(self) -> Load:
        # No cookies, and a connection of its own for each call: what one client sees is not another's.
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=CALL_SECONDS), cookie_jar=aiohttp.DummyCookieJar()
        )
        self.clients = [
            Client(tenant, number, self._urls, self._session, self._journal, self._seed)
            for tenant in TENANTS
            for number in range(CLIENTS_PER_TENANT)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        assert self._session is not None
        await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """What all clients call with."""
        assert self._session is not None
        return self._session

    @property
    def recent(self) -> list[str]:
        """Ids of the tasks that were acknowledged last."""
        return [task for client in self.clients for task in client.recent]

    def start(self) -> None:
        self._running = [asyncio.create_task(self._run(client)) for client in self.clients]

    async def stop(self) -> None:
        """Let the calls under way end, and make no more."""
        self._stopping = True
        await asyncio.gather(*self._running)

    async def _run(self, client: Client) -> None:
        pause = random.Random(f"{self._seed}/{client.tenant}/{client.number}/pause")
        while not self._stopping:
            await client.operate(self._of_others(client))
            await asyncio.sleep(pause.expovariate(1 / PAUSE_SECONDS) / (BURST_FACTOR if self.burst else 1))

    async def repeat_all(self) -> None:
        """Submit once more whatever was acknowledged under a key: it must be the task it was."""
        for client in self.clients:
            for one in [one for one in client.submitted if one.key and one.task_id][-15:]:
                await client.submit(one, "repeat")

    async def close_out(self) -> None:
        """Have each client make each kind of call that changes nothing, once all is quiet."""
        for client in self.clients:
            await client.close_out(self._of_others(client))

    def _of_others(self, client: Client) -> list[str]:
        return [task for other in self.clients if other.tenant != client.tenant for task in other.recent]
