"""The examples of the client's README run as printed, on a real service."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from testkit.backend import BackendServer
from testkit.processes import Process, Processes, clients_of
from testkit.service import token
from testkit.waiting import free_port, until_open

from .conftest import NODE, SDK, passes

README = (SDK / "typescript/README.md").read_text()
EXAMPLES = re.findall(r"^## (.*?)\n\n```ts\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SIGN = """
import { signedMessage } from "@taskstream/client/testing";
const message = { type: "task.succeeded", data: { taskId: "one" } };
const { headers, body } = await signedMessage(process.env.WEBHOOK_SECRET, message);
console.log(JSON.stringify({ headers, body }));
const answer = await fetch(process.env.RECEIVER, { method: "POST", headers, body });
const forged = await fetch(process.env.RECEIVER, { method: "POST", headers, body: `${body} ` });
if (answer.status !== 204 || forged.status !== 401) throw new Error(`${answer.status} ${forged.status}`);
"""


def test_the_readme_has_five_examples() -> None:
    assert len(EXAMPLES) == 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which programs find the built package."""
    assert (SDK / "typescript/dist/.ready").exists(), "the SDK is not built: make sdk-typescript"
    (tmp_path / "node_modules").symlink_to(SDK / "node_modules")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    return tmp_path


async def test_the_examples_of_the_client_run(processes: Processes, folder: Path) -> None:
    up = await processes.up()
    async with clients_of(up.url) as service, BackendServer() as backend:
        await service.admin.register(backend, "one", types=["resize"], maxConcurrent=20)
        outputs = {}
        for title, text in EXAMPLES:
            if "createServer" not in text:
                (folder / "example.mts").write_text(text)
                env = {"TASKSTREAM_URL": up.url, "TASKSTREAM_TOKEN": token("alice")}
                outputs[title] = await passes(folder, str(folder / "example.mts"), **env)

    assert "640" in outputs["Run a task"]
    assert "echo: { width: 640 }" in outputs["Follow a task"]
    assert "1500 of 1500" in outputs["Submit thousands"]


async def test_the_receiver_of_webhooks_takes_what_is_signed(folder: Path) -> None:
    port = free_port()
    (text,) = [text for _, text in EXAMPLES if "createServer" in text]
    (folder / "receiver.mts").write_text(text.replace("9100", str(port)))
    (folder / "sign.mjs").write_text(SIGN)
    secret = {"WEBHOOK_SECRET": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}
    env = {"PATH": os.environ["PATH"], **secret}
    receiver = Process("receiver", [str(NODE), str(folder / "receiver.mts")], env, folder / "log").start()
    try:
        await until_open(port)
        await passes(folder, str(folder / "sign.mjs"), RECEIVER=f"http://127.0.0.1:{port}", **secret)
        assert "task.succeeded one" in receiver.output()
    finally:
        receiver.kill()


async def test_the_examples_have_types(folder: Path) -> None:
    files = []
    for number, (_, text) in enumerate(EXAMPLES):
        files.append(folder / f"example{number}.mts")
        files[-1].write_text(text)
    options = ["--noEmit", "--strict", "--lib", "ES2022,DOM", "--module", "nodenext", "--target", "ES2022"]
    types = ["--types", "node", "--typeRoots", str(SDK / "node_modules/@types"), "--skipLibCheck"]
    await passes(folder, str(SDK / "node_modules/typescript/bin/tsc"), *options, *types, *map(str, files))
