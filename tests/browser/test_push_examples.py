"""The examples of docs/push.md do what they say."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from testkit.browser import Page, chromium
from testkit.nats import NatsServer
from testkit.processes import Processes, clients_of

DOCUMENT = (Path(__file__).parents[2] / "docs" / "push.md").read_text()


def example(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    assert found is not None
    return found[1]


async def test_python_goes_on_where_the_service_was_killed(processes: Processes, nats: NatsServer) -> None:
    names: dict[str, Any] = {}
    exec(example("python").replace("asyncio.run(main())", ""), names)
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
      const Real = EventSource;
      EventSource = function (address) { return new Real(address.replace(/token=/, opened++ ? "token=" : "token=x")); };
      EventSource.CLOSED = Real.CLOSED;
      let opened = 0;
    """
    script = (
        example("javascript")
        .replace('"http://127.0.0.1:8080"', 'new URLSearchParams(location.hash.slice(1)).get("url")')
        .replace("console.log(event)", 'fetch("/note", { method: "POST", body: JSON.stringify(event) })')
    )
    async with Page(f"{html}{script}</script>") as shown:
        api = processes.start("api", "--port", "0", "--nats-url", nats.url, CORS_ORIGINS=shown.url)
        url = (await api.logged("ready"))["url"]
        async with clients_of(url) as service:
            task_id = await service.alice.submit({"payload": 1})
            with chromium(tmp_path, f"{shown.url}/#url={url}&token={service.alice.bearer}"):
                await shown.notes_that(1, type="state")
                await service.alice.post(f"/api/task/{task_id}/cancel")
                await shown.notes_that(1, type="TaskCancelled")

    assert [note["type"] for note in shown.notes] == ["state", "TaskCancelled"]
