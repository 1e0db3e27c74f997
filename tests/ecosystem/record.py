"""Record real programs' answers into `tests/backends/recorded/<program>/<case>.json`.

`python -m tests.ecosystem.record litserve` records one program, without arguments all.

An exchange is `{"request", "status", "headers", "body" or "parts"}`; times, ids and paths of the machine are replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from testkit.waiting import wait_until

from .programs import PROGRAMS, ROOT, Running

RECORDED = ROOT / "tests" / "backends" / "recorded"
KEPT_HEADERS = {
    "content-type",
    "retry-after",
    "transfer-encoding",
    "connection",
    "server",
    "x-request-id",
    "location",
    "allow",
}
PROBES = (
    "/", "/v2", "/info", "/api/version", "/api/tags", "/system_stats", "/config", "/sdapi/v1/cmd-flags", "/v1/models",
    "/health", "/health-check", "/healthz", "/readyz", "/v2/health/ready", "/gradio_api/info",
)  # fmt: skip
MOST_BODY = 4000
SCRUBBED = (
    (re.escape(str(ROOT)), "/app"),
    (r"/tmp/[a-z0-9_]+/[a-z]+", "/run"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:8000"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?", "2026-11-30T12:00:00"),
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "00000000-0000-4000-8000-000000000000"),
    (r'"app_id":\d+', '"app_id":1'),
    (r"chatcmpl-[0-9a-f-]+", "chatcmpl-1"),
    (r'"created": ?\d+', '"created":1764504000'),
    (r'"(process_time|predict_time|total_time)": ?[0-9.e-]+', r'"\1": 0.1'),
)


def scrubbed(text: str) -> str:
    """Return a text without what differs from run to run."""
    for pattern, replacement in SCRUBBED:
        text = re.sub(pattern, replacement, text)
    return text


class Recorder:
    """Sends requests to a running program and keeps the exchanges by case."""

    def __init__(self, running: Running, http: aiohttp.ClientSession) -> None:
        self.running = running
        self.http = http
        self.kept: dict[str, list[dict[str, Any]]] = {}
        self.notes: dict[str, str] = {}

    async def ask(
        self,
        case: str,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        parts: bool = False,
    ) -> dict[str, Any]:
        """Send one request and keep the exchange. A stream's parts are kept as they come."""
        request: dict[str, Any] = {"method": method, "path": path}
        sent: dict[str, Any] = {"headers": headers or {}}
        if headers:
            request["headers"] = headers
        if body is not None:
            request["body"] = body
            sent |= {"data": body} if isinstance(body, str) else {"json": body}
        exchange: dict[str, Any] = {"request": request}
        self.kept.setdefault(case, []).append(exchange)
        try:
            async with self.http.request(method, self.running.url + path, **sent) as answer:
                exchange["status"] = answer.status
                exchange["headers"] = {k.lower(): v for k, v in answer.headers.items() if k.lower() in KEPT_HEADERS}
                if parts:
                    exchange["parts"] = [chunk.decode() async for chunk, _ in answer.content.iter_chunks()]
                else:
                    text = (await answer.read()).decode(errors="replace")
                    short = scrubbed(text)
                    exchange["body"] = short if len(short) <= MOST_BODY else short[:MOST_BODY] + "…"
                    exchange["json"] = _json(text)
        except (aiohttp.ClientError, OSError) as error:
            exchange["broken"] = type(error).__name__
        return exchange

    @contextlib.asynccontextmanager
    async def in_flight(self, case: str, *args: Any, **kwargs: Any) -> AsyncIterator[asyncio.Task[Any]]:
        """Have a slow call run; it is let go at the end."""
        self.running.let_go("release")
        steps = self.running.trace().count("step")
        task = asyncio.create_task(self.ask(case, *args, **kwargs))
        await wait_until(lambda: self.running.trace().count("step") > steps, "a slow call to run", 30)
        try:
            yield task
        finally:
            self.running.hold("release")
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def close_early(self, case: str, *args: Any, **kwargs: Any) -> None:
        """Close the connection while a slow call runs, and note what the model does."""
        self.kept.setdefault(case, [])
        async with self.in_flight(case, *args, **kwargs) as task:
            task.cancel()
            before = len(self.running.trace())

            def seen() -> str:
                since = self.running.trace()[before:]
                return "stopped" if "stopped" in since else "went on" if since.count("step") > 60 else ""

            self.notes[case] = (
                f"after the connection was closed, the model {await wait_until(seen, 'its reaction', 20)}"
            )
        await asyncio.sleep(1)  # a generator whose reader has gone may neither end nor be closed

    async def killed(self, case: str, *args: Any, **kwargs: Any) -> None:
        """Kill the program while a slow call runs."""
        self.running.let_go("release")
        steps = self.running.trace().count("step")
        task = asyncio.create_task(self.ask(case, *args, **kwargs))
        await wait_until(lambda: self.running.trace().count("step") > steps, "a slow call to run", 30)
        self.running.kill()
        await task

    async def probes(self, case: str = "probes") -> None:
        """Ask what detection may ask."""
        for path in PROBES:
            exchange = await self.ask(case, "GET", path)
            text = exchange.get("body", "")
            exchange["body"] = text[:600] + ("…" if len(text) > 600 else "")
            exchange.pop("json", None)

    def write(self) -> None:
        """Write each case into a file."""
        folder = RECORDED / self.running.program.name
        folder.mkdir(parents=True, exist_ok=True)
        for case, exchanges in self.kept.items():
            for each in exchanges:
                each.pop("json", None)
                if "parts" in each:
                    each["parts"] = [scrubbed(part) for part in each["parts"]]
            note = {"note": self.notes[case]} if case in self.notes else {}
            document = {"program": self.running.program.name, "version": self.running.program.version, **note}
            text = json.dumps(document | {"exchanges": exchanges}, indent=2, ensure_ascii=False)
            (folder / f"{case}.json").write_text(text + "\n")


def _json(text: str) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return None


QUICK = {"text": "hello world"}
SLOW = QUICK | {"mode": "slow"}
FAIL = QUICK | {"mode": "fail"}
WRONG = {"text": 5}


async def record_fastapi(to: Recorder) -> None:
    await to.probes()
    await to.ask("quick", "POST", "/shout", QUICK)
    await to.ask("text", "POST", "/text", QUICK)
    await to.ask("stream", "POST", "/stream", QUICK, parts=True)
    await to.ask("failed", "POST", "/shout", FAIL)
    await to.ask("stream-failed", "POST", "/stream", FAIL, parts=True)
    await to.ask("wrong-input", "POST", "/shout", WRONG)
    await to.ask("wrong-input", "POST", "/shout", "{", {"Content-Type": "application/json"})
    async with to.in_flight("slow", "POST", "/shout", SLOW):
        await to.ask("busy", "POST", "/shout", QUICK)
        await to.ask("busy", "GET", "/health")
    await to.close_early("closed", "POST", "/shout", SLOW)
    await to.close_early("closed-stream", "POST", "/stream", SLOW, parts=True)
    await to.killed("killed", "POST", "/shout", SLOW)


async def record_litserve(to: Recorder) -> None:
    await to.probes()
    await to.ask("quick", "POST", "/predict", QUICK)
    await to.ask("stream", "POST", "/stream", QUICK, parts=True)
    await to.ask("failed", "POST", "/predict", FAIL)
    await to.ask("stream-failed", "POST", "/stream", FAIL, parts=True)
    await to.ask("wrong-input", "POST", "/predict", WRONG)
    await to.ask("wrong-input", "POST", "/predict", "{", {"Content-Type": "application/json"})
    async with to.in_flight("slow", "POST", "/predict", SLOW):
        waiting = asyncio.create_task(to.ask("busy", "POST", "/predict", QUICK))
        await to.ask("busy", "GET", "/health")
        await asyncio.wait({waiting}, timeout=2)
        to.notes["busy"] = f"a second call is {'answered' if waiting.done() else 'queued until the first has ended'}"
    await waiting
    await to.close_early("closed", "POST", "/predict", SLOW)
    await to.close_early("closed-stream", "POST", "/stream", SLOW, parts=True)
    await to.killed("killed", "POST", "/predict", SLOW)


async def record_bentoml(to: Recorder) -> None:
    await to.probes()
    await to.ask("quick", "POST", "/shout", QUICK)
    await to.ask("stream", "POST", "/stream", QUICK, parts=True)
    await to.ask("failed", "POST", "/shout", FAIL)
    await to.ask("stream-failed", "POST", "/stream", FAIL, parts=True)
    await to.ask("wrong-input", "POST", "/shout", WRONG)
    await to.ask("wrong-input", "POST", "/shout", {"txt": "hello"})
    async with to.in_flight("slow", "POST", "/shout", SLOW):
        await to.ask("busy", "POST", "/shout", QUICK)
        await to.ask("busy", "GET", "/paint/status?task_id=nothing")
        await to.ask("busy", "GET", "/readyz")
        await to.ask("busy", "GET", "/healthz")
    await to.close_early("closed", "POST", "/shout", SLOW)
    await to.close_early("closed-stream", "POST", "/stream", SLOW, parts=True)
    await to.killed("killed", "POST", "/shout", SLOW)


async def record_bentoml_task(to: Recorder) -> None:
    async def task(case: str, body: Any, until: tuple[str, ...]) -> str:
        submitted = await to.ask(case, "POST", "/paint/submit", body)
        task_id = str(submitted["json"]["task_id"])
        last = ""
        for _ in range(200):
            answer = await to.ask(case, "GET", f"/paint/status?task_id={task_id}")
            state = (answer["json"] or {}).get("status", str(answer["status"]))
            if state == last:
                to.kept[case].pop()
            last = state
            if state in until:
                return task_id
            await asyncio.sleep(0.05)
        raise AssertionError(f"{case}: {last}")

    def named(case: str, task_id: str) -> None:
        to.kept[case] = json.loads(json.dumps(to.kept[case]).replace(task_id, "task-1"))

    done = await task("task", QUICK, ("completed",))
    await to.ask("task", "GET", f"/paint/get?task_id={done}")
    named("task", done)
    failed = await task("task-failed", FAIL, ("failed",))
    await to.ask("task-failed", "GET", f"/paint/get?task_id={failed}")
    named("task-failed", failed)
    await to.ask("task-unknown", "GET", "/paint/status?task_id=nothing")
    await to.ask("task-unknown", "GET", "/paint/get?task_id=nothing")
    await to.ask("task-unknown", "PUT", "/paint/cancel?task_id=nothing")
    to.running.let_go("release")
    running = await task("task-cancel", SLOW, ("in_progress",))
    await wait_until(lambda: to.running.trace()[-1] == "step", "the task to run", 20)
    await to.ask("task-cancel", "GET", f"/paint/get?task_id={running}")
    await to.ask("task-second", "POST", "/paint/submit", QUICK)
    await to.ask("task-cancel", "PUT", f"/paint/cancel?task_id={running}")
    await to.ask("task-cancel", "GET", f"/paint/status?task_id={running}")
    steps = to.running.trace().count("step")
    await asyncio.sleep(1)  # there is no sign that a model has stopped, only that it goes on
    on = to.running.trace().count("step") > steps
    to.notes["task-cancel"] = f"one second after the cancel the model {'goes on' if on else 'has stopped'}"
    to.running.hold("release")
    await wait_until(lambda: to.running.trace()[-1] in ("end", "stopped"), "the task's end", 20)
    await asyncio.sleep(1)  # the program stores the end after the model has ended, and its status may not change
    await to.ask("task-cancel", "GET", f"/paint/status?task_id={running}")
    named("task-cancel", running)
    wrong = await task("task-wrong-input", WRONG, ("completed", "failed"))
    await to.ask("task-wrong-input", "GET", f"/paint/get?task_id={wrong}")
    named("task-wrong-input", wrong)


async def record_kserve(to: Recorder) -> None:
    await to.probes()
    v1 = "/v1/models/shouter:predict"
    await to.ask("v1", "GET", "/v1/models/shouter")
    await to.ask("v1", "POST", v1, {"instances": [QUICK]})
    await to.ask("v1-failed", "POST", v1, {"instances": [FAIL]})
    await to.ask("v1-wrong-input", "POST", v1, {"instances": [WRONG]})
    await to.ask("v1-wrong-input", "POST", v1, {"instances": 5})
    await to.ask("v1-wrong-input", "POST", "/v1/models/nobody:predict", {"instances": [QUICK]})
    await record_oip(to)
    await to.close_early("closed", "POST", v1, {"instances": [SLOW]})
    await to.killed("killed", "POST", v1, {"instances": [SLOW]})


def tensors(ask: dict[str, Any]) -> dict[str, Any]:
    """Return an inference request."""
    return {"inputs": [{"name": k, "shape": [1], "datatype": "BYTES", "data": [v]} for k, v in ask.items()]}


async def record_oip(to: Recorder) -> None:
    infer = "/v2/models/shouter/infer"
    for path in (
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/shouter",
        "/v2/models/shouter/ready",
        "/v2/models/nobody/ready",
    ):
        await to.ask("v2", "GET", path)
    await to.ask("v2-quick", "POST", infer, tensors(QUICK) | {"id": "attempt-1"})
    await to.ask("v2-failed", "POST", infer, tensors(FAIL))
    await to.ask("v2-wrong-input", "POST", infer, {"inputs": 5})
    await to.ask("v2-wrong-input", "POST", infer, tensors({"mode": "quick"}))
    await to.ask("v2-wrong-input", "POST", "/v2/models/nobody/infer", tensors(QUICK))
    await to.ask("v2-stream", "POST", "/v2/models/shouter/infer_stream", tensors(QUICK), parts=True)
    async with to.in_flight("v2-slow", "POST", infer, tensors(SLOW)):
        await to.ask("v2-second-call", "POST", infer, tensors(QUICK))
        await to.ask("v2-second-call", "GET", "/v2/models/shouter/ready")


async def record_mlserver(to: Recorder) -> None:
    await to.probes()
    await record_oip(to)
    await to.close_early("closed", "POST", "/v2/models/shouter/infer", tensors(SLOW))
    await to.killed("killed", "POST", "/v2/models/shouter/infer", tensors(SLOW))


async def record_gradio(to: Recorder) -> None:
    await to.probes()

    async def call(case: str, name: str, *data: Any) -> None:
        posted = await to.ask(case, "POST", f"/gradio_api/call/{name}", {"data": list(data)})
        event = (posted["json"] or {}).get("event_id")
        if event:
            await to.ask(case, "GET", f"/gradio_api/call/{name}/{event}", parts=True)
            to.kept[case] = json.loads(json.dumps(to.kept[case]).replace(event, "event-1"))

    await call("quick", "shout", "hello world", "quick")
    await call("stream", "stream", "hello world", "quick")
    await call("failed", "shout", "hello world", "fail")
    await call("stream-failed", "stream", "hello world", "fail")
    await call("wrong-input", "shout", 5, "quick")
    await call("wrong-input", "shout")
    await call("wrong-input", "nobody", "hello world", "quick")
    await to.ask("wrong-input", "GET", "/gradio_api/call/shout/nothing", parts=True)
    to.running.let_go("release")
    first = await to.ask("busy", "POST", "/gradio_api/call/shout", {"data": ["hello world", "slow"]})
    await wait_until(lambda: to.running.trace()[-1] == "step", "the slow call", 30)
    for _ in range(4):
        await to.ask("busy", "POST", "/gradio_api/call/shout", {"data": ["hello world", "quick"]})
    await to.ask("busy", "GET", "/gradio_api/queue/status")
    to.running.hold("release")
    await to.ask("busy", "GET", f"/gradio_api/call/shout/{first['json']['event_id']}", parts=True)
    to.kept["busy"] = json.loads(re.sub(r"[0-9a-f]{32}", "event-1", json.dumps(to.kept["busy"])))
    for case, name in (("closed", "shout"), ("closed-stream", "stream")):
        await asyncio.sleep(1)
        to.running.let_go("release")
        steps = to.running.trace().count("step")
        posted = await to.ask(case, "POST", f"/gradio_api/call/{name}", {"data": ["hello world", "slow"]})
        await wait_until(lambda s=steps: to.running.trace().count("step") > s, "the slow call", 30)
        event = posted["json"]["event_id"]
        task = asyncio.create_task(to.ask(case, "GET", f"/gradio_api/call/{name}/{event}", parts=True))
        await asyncio.wait({task}, timeout=1)
        task.cancel()
        before = len(to.running.trace())

        def seen(before: int = before) -> str:
            since = to.running.trace()[before:]
            return "stopped" if "stopped" in since else "went on" if since.count("step") > 60 else ""

        to.notes[case] = f"after the connection was closed, the model {await wait_until(seen, 'its reaction', 20)}"
        await to.ask(case, "GET", f"/gradio_api/call/{name}/{event}", parts=True)
        to.running.hold("release")
        await wait_until(lambda: to.running.trace()[-1] in ("end", "stopped"), "idle", 20)
        to.kept[case] = json.loads(json.dumps(to.kept[case]).replace(event, "event-1"))


async def record_litellm(to: Recorder) -> None:
    key = {"Authorization": "Bearer sk-ecosystem-0123456789abcdef"}
    path = "/v1/chat/completions"

    def chat(model: str, stream: bool = False) -> dict[str, Any]:
        asked = {"model": model, "messages": [{"role": "user", "content": "hello world"}]}
        return asked | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})

    await to.probes()
    await to.ask("health", "GET", "/health/liveliness")
    await to.ask("health", "GET", "/health/readiness")
    await to.ask("models", "GET", "/v1/models", headers=key)
    await to.ask("models", "GET", "/v1/models")
    await to.ask("quick", "POST", path, chat("mock"), key)
    await to.ask("quick", "POST", path, chat("quick"), key)
    await to.ask("stream", "POST", path, chat("quick", stream=True), key, parts=True)
    await to.ask("stream-mock", "POST", path, chat("mock", stream=True), key, parts=True)
    await to.ask("failed", "POST", path, chat("broken"), key)
    await to.ask("failed", "POST", path, chat("fail"), key)
    await to.ask("stream-failed", "POST", path, chat("fail", stream=True), key, parts=True)
    await to.ask("busy", "POST", path, chat("limited"), key)
    await to.ask("busy", "POST", path, chat("limited", stream=True), key)
    await to.ask("wrong-input", "POST", path, {"model": "mock"}, key)
    await to.ask("wrong-input", "POST", path, chat("nobody"), key)
    await to.ask("wrong-input", "POST", path, "{", key | {"Content-Type": "application/json"})
    await to.ask("no-key", "POST", path, chat("mock"))
    await to.close_early("closed", "POST", path, chat("slow"), key)
    await to.close_early("closed-stream", "POST", path, chat("slow", stream=True), key, parts=True)
    await to.killed("killed", "POST", path, chat("slow", stream=True), key, parts=True)


RECORDINGS = {
    "fastapi": record_fastapi, "litserve": record_litserve, "bentoml": record_bentoml,
    "bentoml-task": record_bentoml_task,
    "kserve": record_kserve, "mlserver": record_mlserver, "gradio": record_gradio, "litellm": record_litellm,
}  # fmt: skip


async def record(name: str) -> None:
    """Start a program, record it, end it."""
    folder = Path(tempfile.mkdtemp()) / name
    running = Running(PROGRAMS[name], folder)
    running.start()
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=60), connector=aiohttp.TCPConnector(force_close=True)
    ) as http:
        to = Recorder(running, http)
        try:
            await running.ready()
            await RECORDINGS[name](to)
        except BaseException:
            print(running.tail()[-3000:], running.trace()[-5:])
            raise
        finally:
            running.kill()
            to.write()
    print(name, to.notes, flush=True)
    shutil.rmtree(folder, ignore_errors=True)


async def main() -> None:
    for name in sys.argv[1:] or RECORDINGS:
        try:
            await record(name)
        except Exception as error:  # the others are recorded all the same
            print(name, "FAILED", repr(error), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
