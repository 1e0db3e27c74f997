"""Every example of the manual runs as printed. Only ports, and hosts of others, are exchanged for those of the test."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from testkit.backend import BackendServer
from testkit.processes import Process, environment
from testkit.receiver import settled
from testkit.service import SECRET, Service, running_service, token
from testkit.waiting import free_port, wait_until

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "deploy/README.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")))
PROGRAMS = {"bash", "sh", "python", "javascript", "js", "typescript"}
BIN = Path(sys.executable).parent


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    language: str
    text: str

    @property
    def first_line(self) -> str:
        return self.text.partition("\n")[0]


def blocks(page: str) -> list[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return [Block(page, language, text) for language, text in found if language in PROGRAMS]


BLOCKS = [block for page in PAGES for block in blocks(page)]
RUN_IN_BASH = sorted({block.page for block in BLOCKS if block.language == "bash"} - {"README.md"})
"""Pages whose blocks of bash run one after the other in one shell, with a service that runs already."""
ELSEWHERE = {
    ("docs/backends.md", "python"): "tests/docs/test_backends_doc.py",
    ("docs/backends.md", "javascript"): "tests/docs/test_backends_doc.py",
    ("docs/pull.md", "python"): "tests/docs/test_pull_doc.py",
    ("docs/pull.md", "javascript"): "tests/docs/test_pull_doc.py",
    ("docs/replicate.md", "python"): "tests/ecosystem/clients/test_replicate.py",
    ("docs/replicate.md", "javascript"): "tests/ecosystem/clients/test_replicate.py",
    ("docs/openai.md", "python"): "tests/ecosystem/clients/test_openai.py",
    ("docs/push.md", "javascript"): "needs a browser's EventSource: tests/browser follows streams in the same way",
}
HERE = {("docs/push.md", "python"), ("docs/webhooks.md", "python"), ("README.md", "bash")}


def test_every_program_of_the_manual_runs_in_a_test_or_says_why_not() -> None:
    run = HERE | {(page, "bash") for page in RUN_IN_BASH}

    assert {(block.page, block.language) for block in BLOCKS} == run | ELSEWHERE.keys()
    assert not run & ELSEWHERE.keys()


@pytest.mark.parametrize("page", RUN_IN_BASH)
def test_a_page_sets_the_variables_of_its_examples_and_shows_failures(page: str) -> None:
    text = "".join(block.text for block in BLOCKS if block.page == page and block.language == "bash")
    set_here = set(re.findall(r"^\s*(?:export )?([A-Z_]+)=", text, re.MULTILINE))

    assert set(re.findall(r"\$\{?([A-Z_]+)\b", text)) <= set_here
    for call in re.findall(r"\bcurl .*", text):
        assert re.match(r"curl -sSN? --fail-with-body ", call), call


def test_no_example_listens_on_other_addresses_than_loopback() -> None:
    for block in BLOCKS:
        assert "0.0.0.0" not in block.text
        for call in re.findall(r"run_app\(.*|\.listen\(.*", block.text):
            assert "127.0.0.1" in call, (block.page, call)


def in_test(text: str, ports: Mapping[int, int]) -> str:
    """Return a text with the ports of the test."""
    for printed, port in ports.items():
        text = text.replace(f"127.0.0.1:{printed}", f"127.0.0.1:{port}").replace(f"port={printed}", f"port={port}")
    return text


async def run(text: str, folder: Path, **env: str) -> str:
    """Run a script of bash to its end, which must be a success; return its output."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    env = environment({"JWT_SECRET": SECRET}) | {"PATH": path} | env
    script = ["bash", "-euo", "pipefail", "-c", text]
    process = Process("bash", script, env, folder / "bash.log")
    process.start()
    try:
        status = await process.ended()
    finally:
        process.kill()
    assert status == 0, process.output()
    return process.output()


async def test_the_examples_of_all_pages_run_in_bash(nats_url: str, backend: BackendServer, tmp_path: Path) -> None:
    async with running_service(nats_url) as service:
        await service.admin.register(backend, "any", labels={"gpu": "a100"})
        ports = {8080: service.container.settings.port, 9001: int(backend.url.rpartition(":")[2])}
        for page in RUN_IN_BASH:
            text = "".join(block.text for block in BLOCKS if block.page == page and block.language == "bash")
            text = in_test(text, ports).replace("https://example.org/hooks/tasks", "https://8.8.8.8/hooks/tasks")
            await run(text, tmp_path, TASKSTREAM_URL=service.url)


async def test_the_tour_of_the_readme_runs(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    ports = {8080: free_port(), 9001: free_port()}
    tour = "".join(block.text for block in blocks("README.md")).replace("make setup\n", "")
    tour = in_test(tour, ports).replace("echo_backend.py 9001", f"echo_backend.py {ports[9001]}")
    first = f"cd {tmp_path}\ntrap 'kill %1 %2; wait' EXIT\nset -m\n"

    output = await run(first + tour, tmp_path, TASKSTREAM_PORT=str(ports[8080]))

    assert '"echo":{"prompt":"a second one"}' in output.replace('": ', '":')
    assert "TaskSucceeded" in output
    assert (tmp_path / "data").is_dir()


async def test_the_follower_in_python_prints_events(service: Service, tmp_path: Path) -> None:
    (block,) = [block for block in BLOCKS if block.page == "docs/push.md" and block.language == "python"]
    (tmp_path / "follow.py").write_text(in_test(block.text, {8080: service.container.settings.port}))
    env = environment({}) | {"TOKEN": token("alice")}
    follower = Process("follower", [sys.executable, str(tmp_path / "follow.py")], env, tmp_path / "log").start()
    try:
        task_id = await service.alice.submit({})
        await wait_until(lambda: task_id in follower.output(), "the task to be printed")
    finally:
        follower.kill()


async def test_the_receiver_in_python_accepts_what_is_signed(nats_url: str, tmp_path: Path) -> None:
    (block,) = [block for block in BLOCKS if block.page == "docs/webhooks.md" and block.language == "python"]
    port = free_port()
    (tmp_path / "receiver.py").write_text(in_test(block.text, {9100: port}))
    quick = {"webhook_retry_base": 0.05, "webhook_retry_cap": 0.2, "webhook_attempts": 50}
    async with running_service(nats_url, **quick) as service:
        body = {"url": f"http://127.0.0.1:{port}/hooks/tasks", "events": ["task.submitted"]}
        made = await service.alice.done("POST", "/api/webhooks", body)
        env = environment({}) | {"WEBHOOK_SECRET": made["secret"]}
        receiver = Process("receiver", [sys.executable, str(tmp_path / "receiver.py")], env, tmp_path / "log").start()
        try:
            task_id = await service.alice.submit({})
            await settled(service.alice, made["webhook"]["id"], "delivered")
            await wait_until(lambda: f"task.submitted {task_id}" in receiver.output(), "the event to be printed")
        finally:
            receiver.kill()
