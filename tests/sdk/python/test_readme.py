"""The examples of the Python client's README run as printed, against `taskstream up`. Only ports are exchanged."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskstream_client import AsyncClient
from testkit.processes import Process, Processes, environment
from testkit.service import token
from testkit.waiting import free_port, until_open, wait_until

ROOT = Path(__file__).parents[3]
SDK = ROOT / "sdk" / "python"
README = (SDK / "README.md").read_text()
EXAMPLES = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))


class Examples:
    """Programs of the README in a folder, with the ports of the test."""

    def __init__(self, folder: Path, ports: dict[int, int], **env: str) -> None:
        self.folder = folder
        self._env = environment({}) | {"PYTHONPATH": os.pathsep.join([str(SDK / "src"), str(ROOT)])} | env
        self._started: list[Process] = []
        for name, text in EXAMPLES.items():
            (folder / name).write_text(re.sub(r"\b9[01]00\b|\b9001\b", lambda found: str(ports[int(found[0])]), text))

    def start(self, name: str, *arguments: str, **env: str) -> Process:
        """Start a program."""
        command = [sys.executable, *arguments, str(self.folder / name)]
        self._started.append(Process(name, command, self._env | env, self.folder / f"{name}.log"))
        return self._started[-1].start()

    async def output(self, name: str, *arguments: str) -> str:
        """Run a program to its end, which must be a success, and return its output."""
        process = self.start(name, *arguments)
        assert await process.ended() == 0, process.output()
        return process.output()

    def stop(self) -> None:
        for process in self._started:
            process.kill()


@pytest.fixture
def stopped() -> Iterator[list[Examples]]:
    found: list[Examples] = []
    yield found
    for each in found:
        each.stop()


def test_every_program_of_the_readme_runs_in_this_test() -> None:
    assert len(re.findall(r"^```python$", README, re.MULTILINE)) == len(EXAMPLES)
    names = {"backend.py", "register.py", "run.py", "follow.py", "many.py", "receiver.py", "test_shouting.py"}
    assert set(EXAMPLES) == names
    assert len(EXAMPLES["backend.py"].strip().splitlines()) <= 30


async def test_the_examples_of_the_readme_run(processes: Processes, stopped: list[Examples], tmp_path: Path) -> None:
    ports = {9001: free_port(), 9100: free_port()}
    up = await processes.up()
    examples = Examples(tmp_path, ports, TASKSTREAM_URL=up.url, TASKSTREAM_TOKEN=token("root", "admin", "user"))
    stopped.append(examples)
    examples.start("backend.py")
    await until_open(ports[9001])

    await examples.output("register.py")
    await examples.output("test_shouting.py")
    ran = await examples.output("run.py")
    followed = await examples.output("follow.py")
    many = await examples.output("many.py")

    assert "{'shouted': 'HELLO THERE'}" in ran
    assert "shout [########################] 100% finished" in ran
    assert "failed: " in ran
    assert "`text` must be text" in ran
    assert followed.strip() == "ONE WORD AFTER THE OTHER FINISHED"
    assert many.splitlines()[0] == "FINISHED {'shouted': 'NUMBER 0'}"
    assert many.splitlines()[3] == "FINISHED {'shouted': 'THE END'}"
    assert await examples.output("many.py") == many, "the same call again submits nothing"

    async with AsyncClient(up.url, token("alice")) as alice:
        made = await alice.webhooks.create(f"http://127.0.0.1:{ports[9100]}/hooks", events=["task.submitted"])
        receiver = examples.start("receiver.py", WEBHOOK_SECRET=made.secret)
        await until_open(ports[9100])
        task = await alice.submit("shout", {"text": "a"})
        await wait_until(lambda: f"task.submitted {task.id}" in receiver.output(), "the message")
