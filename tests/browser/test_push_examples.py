"""The examples of docs/push.md do what they say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

from testkit.browser import Page, chromium
from testkit.nats import NatsServer
from testkit.processes import Processes, clients_of
from testkit.service import Service

DOCUMENT = (Path(__file__).parents[2] / "docs" / "push.md").read_text()


def example(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    assert found is not None
    return found[1]


async def test_curl_shows_a_task_to_its_end(api: Service) -> None:
    task_id = await api.alice.submit({"payload": 1})
    environment = os.environ | {"URL": api.url, "TOKEN": str(api.alice.bearer), "TASK": task_id}
    curl = await asyncio.create_subprocess_shell(example("sh"), env=environment, stdout=asyncio.subprocess.PIPE)
    assert curl.stdout is not None
    shown = await curl.stdout.readuntil(b'"status":"WAITING"')
    await api.alice.post(f"/api/task/{task_id}/cancel")
    shown += await curl.stdout.read()

    assert await curl.wait() == 0
    assert re.findall(rb'"type":"(state|Task\w+)","taskId"', shown) == [b"state", b"TaskCancelled"]


async def test_python_goes_on_where_the_service_was_killed(processes: Processes, nats: NatsServer) -> None:
    names: dict[str, Any] = {}
    exec(example("python"), names)
    api = processes.start("api", "--port", "0", "--nats-url", nats.url)
    url = (await api.logged("ready"))["url"]
    async with clients_of(url) as service:
        task_id = await service.alice.submit({"payload": 1})
        async with contextlib.aclosing(names["follow"](url, service.alice.bearer)) as events:
            _, state = await anext(events)
            api.kill()
            api = processes.start("api", "--port", url.rpartition(":")[2], "--nats-url", nats.url)
            await api.logged("ready")
            await service.alice.post(f"/api/task/{task_id}/cancel")
            _, cancelled = await anext(events)

    assert (state["type"], cancelled["type"]) == ("state", "TaskCancelled")


async def test_a_page_gets_itself_another_token(processes: Processes, nats: NatsServer, tmp_path: Path) -> None:
    html = """<script>
      const { url, bearer } = JSON.parse(decodeURIComponent(location.hash.slice(1)));
      const show = (event) => fetch("/note", { method: "POST", body: JSON.stringify(event) });
      const Real = EventSource;
      EventSource = function (address) { return new Real(address.replace(/token=/, opened++ ? "token=" : "token=x")); };
      EventSource.CLOSED = Real.CLOSED;
      let opened = 0;
    """
    async with Page(f"{html}{example('js')}</script>") as shown:
        api = processes.start("api", "--port", "0", "--nats-url", nats.url, CORS_ORIGINS=shown.url)
        url = (await api.logged("ready"))["url"]
        async with clients_of(url) as service:
            task_id = await service.alice.submit({"payload": 1})
            about = json.dumps({"url": url, "bearer": service.alice.bearer})
            with chromium(tmp_path, f"{shown.url}/#{about.replace(' ', '').replace(chr(34), '%22')}"):
                await shown.notes_that(1, type="state")
                await service.alice.post(f"/api/task/{task_id}/cancel")
                await shown.notes_that(1, type="TaskCancelled")

    assert [note["type"] for note in shown.notes] == ["state", "TaskCancelled"]
