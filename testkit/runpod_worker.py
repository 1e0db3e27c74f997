"""A worker of RunPod's protocol, as far as it is seen: it sends the requests that RunPod's SDK 1.12 sends."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from testkit.service import Client

RECORDED = Path(__file__).parent.parent / "tests" / "backends" / "recorded" / "runpod"
VERSION = "1.12.0"


def recorded_posts(name: str) -> list[tuple[str, str, str]]:
    """Return what a real worker sent about its job: kind (`job-done`, `job-stream`), query and body, in order."""
    requests = json.loads((RECORDED / f"{name}.json").read_text())["requests"]
    return [(each["path"].split("/")[4], each["query"], each["body"]) for each in requests if each["method"] == "POST"]


class RunpodWorker:
    """Works for a pulled server, with a token that it sends without a scheme."""

    def __init__(self, client: Client, name: str = "worker-1", server_id: str = "shouting") -> None:
        self.name = name
        self._session = client.session
        self._url = f"{client.url}/runpod/jobs/{server_id}"
        self._token = client.bearer or ""

    def request(self, method: str, path: str, query: str, body: str = "") -> Any:
        """Return a request, to be used with `async with`."""
        kind = "application/x-www-form-urlencoded" if method == "POST" else "application/json"
        headers = {"Content-Type": kind, "Authorization": self._token, "charset": "utf-8"}
        return self._session.request(
            method, f"{self._url}/{path}?{query}", headers=headers, data=body.encode() if method == "POST" else None
        )

    async def take(self, *, most: int = 1) -> list[dict[str, Any]]:
        """Take jobs, as the SDK does."""
        kind, more = ("job-take-batch", f"&batch_size={most}") if most > 1 else ("job-take", "")
        async with self.request("GET", f"{kind}/{self.name}", f"t=1{more}&job_in_progress=0") as response:
            if response.status == 204:
                return []
            assert response.status == 200
            assert response.content_type == "application/json"
            found = await response.json()
        return found if isinstance(found, list) else [found]

    async def one(self) -> dict[str, Any]:
        """Take a job. Raises AssertionError if there is none."""
        [job] = await self.take()
        return job

    async def send(self, job: str, kind: str, body: Any, *, streams: bool = False) -> None:
        """Send a report on a job."""
        await self.send_as_recorded(job, kind, f"t=1&isStream={str(streams).lower()}", json.dumps(body))

    async def send_as_recorded(self, job: str, kind: str, query: str, body: str) -> None:
        """Send a report with the query and the body that a real worker sent."""
        async with self.request("POST", f"{kind}/{self.name}/{job}", query, body) as response:
            assert response.status == 200, await response.text()

    async def ping(self, *jobs: str, version: str = VERSION) -> None:
        """Ping, as the SDK's other process does."""
        named = f"job_id={','.join(jobs)}&" if jobs else ""
        async with self.request("GET", f"ping/{self.name}", f"{named}runpod_version={version}") as response:
            assert response.status == 200

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[asyncio.Task[list[str]]]:
        """Wait for jobs to stop; yield what will be told once the request is open, and hang up at the end."""
        async with self.request("GET", f"job-stop/{self.name}", "t=1") as response:
            assert response.status == 200
            await response.content.readexactly(1)
            told = asyncio.create_task(_jobs_to_stop(response))
            try:
                yield told
            finally:
                told.cancel()
                response.close()


async def _jobs_to_stop(response: aiohttp.ClientResponse) -> list[str]:
    assert response.content_type == "application/json"
    found: list[str] = json.loads(await response.read())["jobsToStop"]
    return found
