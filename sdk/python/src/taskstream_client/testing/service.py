"""The fake: a transport of httpx that answers as the service would."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
import msgspec

from ..client import AsyncClient, Client, core_of
from ..core import Core
from ..drivers import Awaited, Blocking
from ..models import encode
from ..retries import Retries
from .tasks import FakeTask, Refusal, Tasks, Work

W = TypeVar("W", bound=Work)

URL = "http://taskstream.fake"
START = 1_767_225_600.0
"""2026-01-01T00:00:00Z: when the clock of every fake begins."""


class FakeTaskstream:
    """A task service in memory.

    A task runs when somebody waits for it, follows it, or calls `run_all`: in that very call, by the function of its
    type. Until then it waits, and can be cancelled. Pauses take no time: they move the clock of the fake, as `advance`
    does.
    """

    def __init__(self) -> None:
        self._now = START
        self._tasks = Tasks(lambda: self._now, self.advance)
        self._answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self._refusals: list[httpx.Response | None] = []
        self._keys = 0
        self.requests: list[tuple[str, str]] = []
        """Method and path of each request so far."""

    def predict(self, *types: str) -> Callable[[W], W]:
        """Register the function that does the work of these types; without types: of all others.

        It is an ordinary function that gets a FakeJob and returns the result. `Reject`, `Failed` and other errors mean
        what they mean to `taskstream_client.server`.
        """

        def register(work: W) -> W:
            for name in types or ("",):
                self._tasks.works[name] = work
            return work

        return register

    def client(self, user: str = "alice") -> Client:
        """Return a client of a user."""
        core = self._core(user)
        http = httpx.Client(transport=httpx.MockTransport(self._handle))
        return Client.over(core, Blocking(core.url, http, sleep=self.advance))

    def async_client(self, user: str = "alice") -> AsyncClient:
        """Return an asynchronous client of a user."""

        async def sleep(seconds: float) -> None:
            self.advance(seconds)

        core = self._core(user)
        http = httpx.AsyncClient(transport=httpx.MockTransport(self._handle))
        return AsyncClient.over(core, Awaited(core.url, http, sleep=sleep))

    def run_all(self) -> None:
        """Run every task that can run now."""
        self._tasks.run_all()

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self._now += max(0.0, seconds)

    def refuse(self, status: int, *, retry_after: float | None = None, times: int = 1) -> None:
        """Answer the next requests with a status, such as 429 or 503."""
        headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
        body = {"status": status, "detail": f"the fake was told to answer {status}"}
        self._refusals += [httpx.Response(status, headers=headers, json=body) for _ in range(times)]

    def cut(self, times: int = 1) -> None:
        """Leave the next requests without an answer. They are carried out: only the answer is lost."""
        self._refusals += [None] * times

    def answer(self, method: str, path: str, body: Any, *, status: int = 200) -> None:
        """Set the answer of a call that the fake does not know."""
        self._answers[method.upper(), path] = (status, body)

    def _core(self, user: str) -> Core:
        def new_key() -> str:
            self._keys += 1
            return f"fake-key-{self._keys}"

        return core_of(
            URL,
            user,
            60.0,
            300.0,
            Retries(chance=lambda: 0.0),
            clock=lambda: self._now,
            now=lambda: self._now,
            new_key=new_key,
        )

    def _handle(self, request: httpx.Request) -> httpx.Response:
        method, path = request.method, request.url.path
        self.requests.append((method, path))
        refusal = self._refusals.pop(0) if self._refusals else _GO_ON
        if isinstance(refusal, httpx.Response) and refusal is not _GO_ON:
            return refusal
        try:
            answer = self._answered(request, method, path)
        except Refusal as error:
            body = {"status": error.status, "detail": error.detail, "error": error.detail}
            answer = httpx.Response(error.status, json=body | ({"path": error.path} if error.path else {}))
        if refusal is None:
            raise httpx.ReadError("the fake was told to cut the connection", request=request)
        return answer

    def _answered(self, request: httpx.Request, method: str, path: str) -> httpx.Response:
        if (method, path) in self._answers:
            status, body = self._answers[method, path]
            return httpx.Response(status, content=encode(body))
        user = request.headers.get("Authorization", "").removeprefix("Bearer ")
        call = _Call(self._tasks, user, request)
        for wanted, pattern, name in _ROUTES:
            if method == wanted and (found := re.fullmatch(pattern, path)):
                answer = getattr(call, name)(*found.groups())
                if isinstance(answer, httpx.Response):
                    return answer
                return httpx.Response(200, content=encode(answer))
        advice = f"set its answer with fake.answer({method!r}, {path!r}, …)"
        raise Refusal(400, f"the fake does not know {method} {path}; {advice}")


_GO_ON = httpx.Response(100)
_ROUTES = [
    ("POST", "/api/task", "submit"),
    ("GET", "/api/task/([^/]+)", "get"),
    ("GET", "/api/task/([^/]+)/stream", "stream"),
    ("GET", "/api/task/([^/]+)/events", "events"),
    ("GET", "/api/task/([^/]+)/result", "result"),
    ("POST", "/api/task/([^/]+)/cancel", "cancel"),
    ("POST", "/api/task/([^/]+)/retry", "retry"),
    ("GET", "/api/tasks", "list"),
    ("GET", "/api/tasks/count", "count"),
    ("POST", "/api/tasks/batch", "batch"),
    ("GET", "/api/batches/([^/]+)", "get_batch"),
    ("GET", "/api/batches/([^/]+)/tasks", "batch_tasks"),
    ("GET", "/api/me", "me"),
]


class _Call:
    """One request of a user."""

    def __init__(self, tasks: Tasks, user: str, request: httpx.Request) -> None:
        self._tasks = tasks
        self._user = user
        self._query = request.url.params
        self._after = request.headers.get("Last-Event-ID", "") or self._query.get("after", "")
        self._key = request.headers.get("Idempotency-Key")
        self._content = request.read()

    def _body(self) -> Any:
        try:
            return msgspec.json.decode(self._content) if self._content else {}
        except msgspec.DecodeError:
            raise Refusal(400, "the body is not JSON") from None

    def _answer(self, task: FakeTask) -> dict[str, Any]:
        return {"taskId": task.id, "taskDetails": task.details(bodies=True)}

    def submit(self) -> Any:
        return self._answer(self._tasks.submit(self._user, self._body(), self._key))

    def get(self, task_id: str) -> Any:
        task = self._tasks.find(self._user, task_id)
        self._tasks.wait(task, float(self._query.get("wait", 0)))
        return self._answer(task)

    def stream(self, task_id: str) -> httpx.Response:
        task = self._tasks.find(self._user, task_id)
        after = self._after.removeprefix("fake-")
        had = int(after) if after.isdigit() else None
        if had is not None and task.ended and had >= task.events[-1].sequence:
            return httpx.Response(204)
        blocks = []
        if had is None:
            had = task.events[-1].sequence
            state = {"type": "state", "taskId": task.id, "sequence": had, "task": task.details(bodies=True)}
            blocks.append(_block(had, state))
        self._tasks.wait(task, 15.0)
        blocks += [_block(event.sequence, event.pushed(task.id)) for event in task.events if event.sequence > had]
        content = b"".join(blocks) or b": heartbeat\n"
        return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=content)

    def events(self, task_id: str) -> Any:
        task = self._tasks.find(self._user, task_id)
        after = int(self._query.get("after") or 0)
        found = [event.recorded() for event in task.events if event.sequence > after]
        return {"taskId": task.id, "events": found, "nextAfter": None, "nextBefore": None, "total": len(task.events)}

    def result(self, task_id: str) -> Any:
        task = self._tasks.find(self._user, task_id)
        if task.result is None:
            raise Refusal(404, f"task {task.id} has no result")
        return task.result

    def cancel(self, task_id: str) -> Any:
        task = self._tasks.find(self._user, task_id)
        self._tasks.cancel(task, str(self._body().get("reason", "")))
        return self._answer(task)

    def retry(self, task_id: str) -> Any:
        task = self._tasks.find(self._user, task_id)
        self._tasks.retry(task)
        return self._answer(task)

    def _selected(self) -> list[FakeTask]:
        known = {"status", "type", "batch", "limit", "cursor"}
        for name in self._query:
            if name not in known:
                raise Refusal(400, f"the fake does not know the filter {name!r}")
        found = [task for task in self._tasks.all.values() if task.owner == self._user]
        for name, of in (("status", "status"), ("type", "type"), ("batch", "batch")):
            wanted = {part for text in self._query.get_list(name) for part in text.split(",")}
            found = [task for task in found if not wanted or getattr(task, of) in wanted]
        return found[::-1]

    def list(self) -> Any:
        return self._page(self._selected(), "tasks", lambda task: task.details(bodies=False))

    def _page(self, found: Any, key: str, shown: Callable[[FakeTask], Any]) -> Any:
        start, size = int(self._query.get("cursor") or 0), int(self._query.get("limit", 50))
        more = start + size < len(found)
        entries = [shown(task) for task in found[start : start + size]]
        return {key: entries, "nextCursor": str(start + size) if more else None}

    def count(self) -> Any:
        return {"count": len(self._selected()), "capped": False, "by": None}

    def batch(self) -> Any:
        return self._tasks.submit_batch(self._user, self._body(), self._key)

    def get_batch(self, batch_id: str) -> Any:
        found = self._tasks.of_batch(self._user, batch_id)
        counts: dict[str, int] = {}
        for task in found:
            counts[task.status] = counts.get(task.status, 0) + 1
        done = all(task.ended for task in found)
        return {"id": batch_id, "size": len(found), "owner": self._user, "counts": counts, "done": done}

    def batch_tasks(self, batch_id: str) -> Any:
        bodies = self._query.get("results") == "true"
        found = self._tasks.of_batch(self._user, batch_id)
        if wanted := self._query.get("status"):
            found = [task for task in found if task.status == wanted]

        def shown(task: FakeTask) -> Any:
            return {**task.details(bodies=False), "index": task.index, "result": task.result if bodies else None}

        return self._page(found, "tasks", shown)

    def me(self) -> Any:
        return {"subject": self._user, "roles": ["user"], "may": {"submit": True}}


def _block(sequence: int, message: dict[str, Any]) -> bytes:
    return b"id: fake-%d\ndata: %b\n\n" % (sequence, encode(message))
