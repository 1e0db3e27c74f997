"""Record what the stock `runpod` worker sends: `python -m tests.ecosystem.record_runpod`.

Each scenario gives one job to a worker, from a small server that has RunPod's addresses, and writes
`tests/backends/recorded/runpod/<scenario>.json`: each request (method, path, query, headers, body) and its answer.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from aiohttp import web

from testkit.waiting import NotInTime, free_port, wait_until

from .programs import PYTHON, Program, Running

RECORDED = Path(__file__).parents[1] / "backends" / "recorded" / "runpod"
KEPT_HEADERS = {"authorization", "content-type", "x-request-id", "accept", "user-agent", "charset"}
HOLD_SECONDS = 3.0


class Endpoint:
    """The addresses of a RunPod endpoint: hands out one job, holds the polls, keeps what comes."""

    def __init__(self, jobs: list[dict[str, Any]], stop: bool = False) -> None:
        self.seen: list[dict[str, Any]] = []
        self.jobs = jobs
        self.to_stop: list[str] = []
        self.done = False
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        self.runner = web.AppRunner(app, handler_cancellation=True)
        self.port = free_port()

    async def __aenter__(self) -> Endpoint:
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port, shutdown_timeout=0.1).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.runner.cleanup()

    async def answer(self, request: web.Request) -> web.Response:
        kept: dict[str, Any] = {
            "method": request.method,
            "path": request.path,
            "query": request.query_string,
            "headers": {k.lower(): v for k, v in request.headers.items() if k.lower() in KEPT_HEADERS},
            "body": (await request.read()).decode(),
        }
        self.seen.append(kept)
        try:
            status, body = await self.decide(request.path, request.method)
        except asyncio.CancelledError:
            kept["answer"] = "none: the worker closed the connection"
            raise
        kept["answer"] = {"status": status} | ({"json": body} if body is not None else {})
        return web.json_response(body, status=status) if body is not None else web.Response(status=status)

    async def decide(self, path: str, method: str) -> tuple[int, Any]:
        if "/job-take" in path:
            if self.jobs:
                return 200, self.jobs.pop(0)
            await asyncio.sleep(HOLD_SECONDS)
            return 204, None
        if "/job-stop/" in path:
            for _ in range(int(HOLD_SECONDS * 20)):
                if self.to_stop:
                    ids, self.to_stop = self.to_stop, []
                    return 200, {"jobsToStop": ids}
                await asyncio.sleep(0.05)
            return 204, None
        return 200, {}

    def environment(self) -> dict[str, str]:
        base = f"http://127.0.0.1:{self.port}/runpod/jobs/shouting"
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?t=1",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?t=1",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?t=1",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
            "RUNPOD_POD_ID": "worker-1",
            "RUNPOD_ENDPOINT_ID": "shouting",
            "RUNPOD_AI_API_KEY": "key-of-the-worker",
            "RUNPOD_PING_INTERVAL": "1000",
            "RUNPOD_SKIP_GPU_CHECK": "true",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        }

    def has(self, part: str, body: str = "") -> bool:
        return any(part in each["path"] and re.search(body, each["body"]) for each in self.seen)


def worker(script: str) -> Program:
    return Program(name="runpod", package="runpod", environment="ecosystem", command=(PYTHON, script), ready="/")


SCENARIOS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "plain": ("runpod_plain.py", {"text": "hello world"}, {}),
    "plain-failed": ("runpod_plain.py", {"text": "hello world", "mode": "fail"}, {}),
    "plain-error-key": ("runpod_plain.py", {"text": "hello world", "mode": "error"}, {}),
    "plain-refresh": ("runpod_plain.py", {"text": "hello world", "mode": "refresh"}, {}),
    "plain-stopped": ("runpod_plain.py", {"text": "hello world", "mode": "slow"}, {}),
    "plain-blocking-stopped": ("runpod_plain.py", {"text": "hello world", "mode": "blocking"}, {}),
    "plain-killed": ("runpod_plain.py", {"text": "hello world", "mode": "slow"}, {}),
    "plain-terminated": ("runpod_plain.py", {"text": "hello world", "mode": "slow"}, {}),
    "stream": ("runpod_stream.py", {"text": "hello world"}, {}),
    "stream-aggregate": ("runpod_stream.py", {"text": "hello world"}, {"AGGREGATE": "1"}),
    "stream-failed": ("runpod_stream.py", {"text": "hello world", "mode": "fail"}, {}),
    "stream-stopped": ("runpod_stream.py", {"text": "hello world", "mode": "slow"}, {}),
}


async def record(name: str) -> None:  # noqa: PLR0915
    script, asked, env = SCENARIOS[name]
    folder = Path(tempfile.mkdtemp())
    async with Endpoint([{"id": "attempt-1", "input": asked}]) as endpoint:
        running = Running(worker(script), folder, **endpoint.environment(), **env)
        running.start()
        notes: list[str] = []
        try:
            if name.endswith(("stopped", "killed", "terminated")):
                await wait_until(lambda: "step" in running.trace(), "the handler to run", 60)
                await wait_until(lambda: endpoint.has("/ping/"), "a ping", 30)
                pings = sum("/ping/" in each["path"] for each in endpoint.seen)
                await wait_until(
                    lambda: sum("/ping/" in each["path"] for each in endpoint.seen) >= pings + 2, "two pings", 30
                )
            if name.endswith("stopped"):
                endpoint.to_stop = ["attempt-1"]
                if "blocking" in name:
                    await wait_until(lambda: not endpoint.to_stop, "the stop to be read", 30)
                    steps = running.trace().count("step")
                    await wait_until(lambda: running.trace().count("step") > steps + 10, "more steps", 30)
                    notes.append("a handler that blocks the loop goes on after the stop; then released:")
                    running.hold("release")
                    await wait_until(lambda: "end" in running.trace(), "its end", 30)
                else:
                    await wait_until(lambda: "stopped" in running.trace(), "the handler to stop", 30)
                takes = sum("/job-take" in each["path"] for each in endpoint.seen)
                try:
                    await wait_until(
                        lambda: sum("/job-take" in each["path"] for each in endpoint.seen) > takes, "the next take", 15
                    )
                except NotInTime:
                    notes.append("no further job-take within 15 s")
                notes.append(f"job-done sent: {endpoint.has('/job-done/', '^(?!.*IN_PROGRESS)')}")
            elif name.endswith("killed"):
                running.kill()
                await wait_until(
                    lambda: any("none" in each.get("answer", "") for each in endpoint.seen), "a closed poll", 30
                )
                notes.append("after the kill: the open polls' connections close")
            elif name.endswith("terminated"):
                running.terminate()
                await asyncio.sleep(1)
                notes.append(f"1 s after SIGTERM: runs {running.alive()}; trace ends {running.trace()[-1]}")
                running.hold("release")
                await wait_until(lambda: endpoint.has("/job-done/", "^(?!.*IN_PROGRESS)"), "the result", 30)
                notes.append("SIGTERM lets the job end; its result is sent")
            else:
                await wait_until(lambda: endpoint.has("/job-done/", "^(?!.*IN_PROGRESS)"), "the result", 60)
                try:
                    await wait_until(lambda: not running.alive(), "its end", 5)
                    notes.append("the worker ended")
                except NotInTime:
                    notes.append("the worker goes on")
        finally:
            running.kill()
            (RECORDED / f"{name}.log").write_text(running.tail()) if "-v" in sys.argv else None
        write(name, endpoint.seen, notes, running.program.version)
    shutil.rmtree(folder)


def write(name: str, seen: list[dict[str, Any]], notes: list[str], version: str) -> None:
    """Write the requests, without what differs from run to run, and without repeated equal polls."""
    text = json.dumps(seen).replace(str(Path(__file__).parents[2]), "/app")
    text = re.sub(r" \(Linux [^\"]*\"", '"', text)
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8080", text)
    kept: list[dict[str, Any]] = []
    for each in json.loads(text):
        if each not in kept:
            kept.append(each)
    RECORDED.mkdir(parents=True, exist_ok=True)
    document = {"program": "runpod", "version": version, "notes": notes, "requests": kept}
    (RECORDED / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    print(name, notes, [f"{each['method']} {each['path']}?{each['query']}" for each in kept], flush=True)


async def main() -> None:
    for name in [each for each in sys.argv[1:] if each in SCENARIOS] or SCENARIOS:
        try:
            await record(name)
        except AssertionError as error:
            print(name, "FAILED", error, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
