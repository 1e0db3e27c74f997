"""Servers: one is added by its address alone; one dies at night, and is brought back in the morning."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import aiohttp
from playwright.async_api import expect

from testkit.backend import BackendServer
from testkit.processes import Up
from testkit.program import Program
from testkit.service import ServiceClients
from tests.deploy.test_monitoring import ALERTS, kind_of
from tests.operator.conftest import Ran, settings_for, taskstream

from .conftest import Console

REMOVED_AFTER_SECONDS = 4
"""As the three minutes of the default, and long enough to start the server after its restoration."""


async def command(*arguments: str, env: dict[str, str]) -> Ran:
    """Run a command while servers of this process answer."""
    return await asyncio.to_thread(lambda: taskstream(*arguments, env=env))


async def alarmed(service: ServiceClients, kind: str, server: str) -> dict[str, Any]:
    """Wait for an alarm about a server."""

    def of_server(found: dict[str, Any]) -> list[dict[str, Any]]:
        return [each for each in found["alarms"] if (each["kind"], (each["subject"] or {}).get("id")) == (kind, server)]

    alarm: dict[str, Any] = of_server(await service.admin.until("/api/alarms", of_server, f"{kind} of {server}"))[0]
    return alarm


async def test_a_server_that_died_at_night_is_found_and_restored_by_the_console(
    up: Up, service: ServiceClients, console: Console
) -> None:
    console.allow(r"404 .*/api/servers/gpu-7$")
    async with BackendServer() as backend, aiohttp.ClientSession() as scraper:
        await service.admin.register(backend, "gpu-7", removeAfter=REMOVED_AFTER_SECONDS, types=["night"])
        await backend.stop()
        alarm = await alarmed(service, "server-offline", "gpu-7")
        assert (alarm["severity"], alarm["link"]) == ("warning", "#/fleet/gpu-7")
        async with scraper.get(f"{up.url}/metrics") as metrics:
            assert re.search(r'^taskstream_server_online{.*"gpu-7".*} 0', await metrics.text(), re.MULTILINE)
        (alert,) = [each for each in ALERTS if kind_of(each["alert"]) == "server-offline"]
        assert "taskstream_server_online" in alert["expr"]

        waiting = await service.alice.submit({"type": "night", "payload": 1})
        page = await console.open(up.url)
        await page.locator("main .alarm").get_by_role("link", name="gpu-7 was removed").click()
        await expect(page.locator(".standing")).to_contain_text("could not be reached")
        await expect(page.locator(".history")).to_contain_text("offline: the server could not be reached")
        await page.get_by_role("button", name="Restore…").click()
        await page.get_by_role("dialog").get_by_role("button", name="Restore").click()
        await expect(page.get_by_role("button", name="Drain…")).to_be_visible()
        await backend.start()

        await expect(page.locator(".standing")).to_contain_text("online")
        await service.alice.reaches(waiting, "FINISHED")
        await page.get_by_role("link", name="Overview").click()
        await expect(page.locator("main .alarm").filter(has_text="gpu-7")).to_have_count(0)
        await service.admin.done("DELETE", "/api/servers/gpu-7")


async def test_a_server_that_died_at_night_is_found_and_restored_with_two_commands(
    up: Up, service: ServiceClients
) -> None:
    env = settings_for(up.url)
    async with BackendServer() as backend:
        await service.admin.register(backend, "gpu-8", removeAfter=REMOVED_AFTER_SECONDS, types=["night"])
        await backend.stop()
        await alarmed(service, "server-removed", "gpu-8")
        doctor = taskstream("doctor", "--quiet", "--api-only", env=env)
        assert doctor.status == 1
        (said,) = [line for line in doctor.lines if "gpu-8 was removed" in line]
        assert "the server could not be reached" in said
        (fix,) = [line.partition("fix: ")[2] for line in doctor.lines if "restore gpu-8" in line]
        restored = taskstream(*fix.split()[1:], env=env)
        assert (restored.status, restored.out) == (0, "restored gpu-8\n")
        await backend.start()

        await service.admin.server_is("gpu-8", "online")
        alarms = await service.admin.done("GET", "/api/alarms")
        assert not [each for each in alarms["alarms"] if (each["subject"] or {}).get("id") == "gpu-8"]
        await service.admin.done("DELETE", "/api/servers/gpu-8")


async def test_a_server_is_added_by_its_address_and_tried_with_two_commands(up: Up, service: ServiceClients) -> None:
    env = settings_for(up.url)
    answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}]}
    async with Program() as program:
        program.answers["/v1/models"] = {"object": "list", "data": [{"id": "llama"}]}
        program.answers["/v1/chat/completions"] = answer
        added = await command(
            "servers", "register", "llm-1", f"{program.base_url}/v1", "--dialect", "auto", "--type", "chat", env=env
        )
        assert (added.status, added.lines) == (0, ["registered llm-1", "it speaks openai"])
        tried = await command("servers", "try", "llm-1", '{"messages": []}', env=env)
        assert (tried.status, tried.lines[0].split()) == (0, ["outcome", "completed"])
        await service.admin.server_is("llm-1", "online")
        await service.admin.done("DELETE", "/api/servers/llm-1")


async def test_a_server_that_was_not_recognized_says_how_to_register_it(up: Up, service: ServiceClients) -> None:
    env = settings_for(up.url)
    async with Program() as program:
        added = await command("servers", "register", "own-1", program.base_url, "--dialect", "auto", env=env)
        assert added.lines[0] == "registered own-1"
        assert "register its /predict without" in added.lines[1]
        await service.admin.done("DELETE", "/api/servers/own-1")
