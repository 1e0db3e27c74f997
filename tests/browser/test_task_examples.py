"""The examples of docs/tasks.md do what they say."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path

from testkit.service import Service
from testkit.waiting import wait_until

DOCUMENT = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()
STRICT = 'set -euo pipefail\ncurl() { command curl --fail-with-body "$@"; echo; }\n'
EXAMPLES = "\n".join(re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL))


async def test_curl_submits_asks_why_and_tries_again(service: Service) -> None:
    async def is_kept() -> bool:
        task_id = await service.bob.submit({"payload": 1, "delay": 60})
        return bool((await service.bob.get(f"/api/task/{task_id}/why"))["keeper"] == "answered")

    await wait_until(is_kept, "a keeper")
    environment = os.environ | {"URL": service.url, "TOKEN": str(service.alice.bearer)}
    shell = await asyncio.create_subprocess_exec(
        "bash", "-c", STRICT + EXAMPLES, env=environment, stdout=asyncio.subprocess.PIPE
    )
    shown, _ = await shell.communicate()

    assert await shell.wait() == 0, shown
    why, letters, cancelled, retried = [json.loads(line) for line in shown.splitlines() if line]
    assert why.keys() == json.loads(_shown_answer()).keys()
    assert [hold["kind"] for hold in why["holds"]] == ["parents"]
    assert why["summary"].endswith("it is cancelled if one of them does not succeed.")
    assert (letters["deadLetters"], cancelled["taskDetails"]["status"]) == ([], "CANCELLED")
    assert retried["taskDetails"]["status"] == "WAITING"


def _shown_answer() -> str:
    found = re.search(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    assert found is not None
    return found[1]
