"""Tasks failed within the last hour: found by their error, retried, and seen to pass."""

from __future__ import annotations

import re

from playwright.async_api import expect

from testkit.backend import BackendServer, echo, status
from testkit.processes import Up
from testkit.service import ServiceClients
from tests.operator.conftest import settings_for, taskstream

from .conftest import Console

COUNT = 12


async def broken(service: ServiceClients, backend: BackendServer, kind: str, error: str) -> list[str]:
    """Return tasks of a type of their own that failed with an error, whose cause is gone."""
    await service.admin.register(backend, f"of-{kind}", types=[kind])
    await service.admin.done("PUT", f"/api/types/{kind}", {"attempts": 1})
    ids: list[str] = []
    for answer, count in ((error, COUNT), ("another error", 2)):
        backend.answer = status(400, {"error": answer})
        tasks = [{"type": kind, "payload": number} for number in range(count)]
        ids += (await service.alice.done("POST", "/api/tasks/batch", tasks))["taskIds"]
        await counted(service, kind, "FAILED", len(ids))
    backend.answer = echo
    return ids[:COUNT]


async def counted(service: ServiceClients, kind: str, state: str, count: int) -> None:
    """Wait until so many tasks of a type are in a state."""
    path = f"/api/tasks/count?status={state}&type={kind}"
    await service.alice.until(path, lambda found: found["count"] == count, f"{count} tasks in {state}")


async def test_failures_are_found_by_error_and_retried_in_four_clicks(
    up: Up, service: ServiceClients, console: Console
) -> None:
    async with BackendServer() as backend:
        ids = await broken(service, backend, "posters", "CUDA out of memory")
        page = await console.open(up.url)
        await page.get_by_role("region", name="Top errors").get_by_role("link", name="CUDA out of memory").click()
        await page.get_by_role("button", name=f"Retry all {COUNT} tasks…").click()
        asked = page.get_by_role("dialog")
        await expect(asked).to_contain_text(f"{COUNT} tasks would be retried")
        await asked.get_by_role("button", name=f"Retry {COUNT}").click()
        card = page.locator(".run-card")
        await expect(card).to_contain_text(f"{COUNT} tasks retried")
        await expect(card).to_contain_text("error group")
        await card.get_by_role("link", name="See them").click()

        rows = page.locator("table.data tbody tr")
        await expect(rows.filter(has_text="finished")).to_have_count(COUNT)
        await expect(rows).to_have_count(COUNT)
        await expect(page).to_have_url(re.compile("updatedSince="))
        for each in ids:
            assert (await service.alice.details(each))["status"] == "FINISHED"


async def test_failures_are_found_by_error_and_retried_with_four_commands(up: Up, service: ServiceClients) -> None:
    async with BackendServer() as backend:
        await broken(service, backend, "films", "font missing: Inter")
        env = settings_for(up.url)
        errors = taskstream("errors", "--since", "1h", "--type", "films", env=env)
        assert [line.split()[0] for line in errors.lines[1:]] == [str(COUNT), "2"]
        assert "font missing: Inter" in errors.lines[1]
        chosen = ["tasks", "retry", "--since", "1h", "--error", "font missing"]
        assert taskstream(*chosen, "--dry-run", env=env).out.split() == ["would", "be", "retried", str(COUNT)]
        assert taskstream(*chosen, "--yes", env=env).out.split() == ["retried", str(COUNT)]

        await counted(service, "films", "FINISHED", COUNT)
        passed = taskstream("tasks", "count", "--by", "status", "--type", "films", env=env)
        assert dict(line.split() for line in passed.lines) == {
            "FINISHED": str(COUNT),
            "FAILED": "2",
            "all": str(COUNT + 2),
        }
