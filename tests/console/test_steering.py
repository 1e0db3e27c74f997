"""The pages that steer work: pools and types, limits, dead letters."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from testkit.backend import BackendServer, echo, status
from testkit.service import Service

from .conftest import Console, check_accessible, settled
from .test_fleet import dialog, row

PAGES = (
    "/fleet", "/fleet?view=heat", "/fleet/gpu-1", "/fleet/new", "/fleet/gpu-1/edit", "/pools", "/types", "/types/echo",
    "/limits", "/dead-letters", "/dead-letters?by=type", "/dead-letters?by=list",
)  # fmt: skip


async def test_a_pool_is_paused_with_a_reason_that_everybody_reads_and_resumed(
    service: Service, console: Console
) -> None:
    await service.admin.done("PUT", "/api/types/ocr", {})
    await service.alice.submit({"type": "ocr", "payload": 1})
    await service.admin.until(
        "/api/pools/ocr", lambda pool: sum(pool["waiting"].values()) == 1, "the task to be counted"
    )
    page = await console.open(service, "/pools")
    pools = page.get_by_role("region", name="Pools")
    ocr = pools.get_by_role("row").filter(has_text="ocr").last
    await ocr.get_by_role("button", name="Pause…").click()
    await expect(dialog(page)).to_contain_text("1 tasks wait here")
    await dialog(page).get_by_label("Reason").fill("licence expired")
    await dialog(page).get_by_role("button", name="Pause").click()

    await expect(ocr).to_contain_text("paused")
    await expect(ocr).to_contain_text("licence expired")
    pause = (await service.admin.done("GET", "/api/pools/ocr"))["pause"]
    assert (pause["by"], pause["reason"]) == ("root", "licence expired")

    await page.keyboard.press("j")
    await page.keyboard.press("j")
    await page.keyboard.press("p")
    await dialog(page).get_by_role("button", name="Resume").click()
    await expect(ocr).to_contain_text("open")
    assert (await service.admin.done("GET", "/api/pools/ocr"))["pause"] is None


async def test_editing_a_type_pins_no_default_and_sends_the_schema_as_written(api: Service, console: Console) -> None:
    await api.admin.done("PUT", "/api/types/ocr", {"timeout": 60, "description": "scans"})
    console.allow("400")
    page = await console.open(api, "/types/ocr")
    await expect(page.get_by_label("Timeout, seconds")).to_have_value("60")
    await expect(page.get_by_label("Attempts", exact=True)).to_have_value("")
    await page.get_by_label("Running at once").fill("4")
    await page.get_by_label("Payloads are checked").select_option("own")
    await page.get_by_label("JSON Schema").fill('{"type": "objekt"}')
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("alert")).to_contain_text("not a valid JSON Schema")
    await page.get_by_label("JSON Schema").fill('{"type": "object", "required": ["url"]}')
    await page.keyboard.press("Control+Enter")

    await expect(page.get_by_text("The type ocr is saved.")).to_be_visible()
    read = await api.admin.done("GET", "/api/types/ocr")
    assert read["own"] == {"pool": "ocr", "timeout": 60, "description": "scans", "concurrency": 4}
    assert read["schema"] == {"type": "object", "required": ["url"]}


async def test_a_type_is_created_paused_and_deleted(api: Service, console: Console) -> None:
    page = await console.open(api, "/pools")
    await page.get_by_role("link", name="New type").click()
    await page.get_by_label("Name (required)").fill("a b")
    await expect(page.get_by_text("must be 1 to 64 letters")).to_be_visible()
    await page.get_by_label("Name (required)").fill("ocr")
    await page.get_by_role("button", name="Create").click()
    await expect(page.get_by_role("heading", name="ocr")).to_be_visible()
    await page.get_by_role("button", name="Pause…").click()
    await dialog(page).get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("button", name="Resume…")).to_be_visible()
    assert (await api.alice.done("GET", "/api/types/ocr"))["pause"]["by"] == "root"
    await page.get_by_role("button", name="More actions").click()
    await page.get_by_role("menuitem", name="Delete the type…").click()
    await dialog(page).get_by_role("button", name="Delete").click()
    await expect(page.get_by_role("heading", name="Pools and types")).to_be_visible()
    assert (await api.alice.get("/api/types/ocr")).status == 404


async def test_limits_of_an_owner_are_previewed_set_and_removed(service: Service, console: Console) -> None:
    await service.alice.submit({"payload": 1})
    await service.alice.until("/api/tasks/count", lambda found: found["count"] == 1, "the task in the index")
    page = await console.open(service, "/limits")
    await expect(row(page, "alice")).to_contain_text("the service's")
    await row(page, "alice").get_by_role("button", name="Edit…").click()
    await dialog(page).get_by_label("Running tasks").select_option("own")
    await dialog(page).get_by_label("Running tasks, number").fill("1.5")
    await expect(dialog(page).get_by_text("must be a whole number")).to_be_visible()
    await dialog(page).get_by_label("Running tasks, number").fill("5")
    await dialog(page).get_by_label("Stored bytes").select_option("own")
    await dialog(page).get_by_label("Stored bytes, number").fill("2 GB")
    await expect(dialog(page).get_by_text("Now it would hold 0 more, release 0")).to_be_visible()
    await check_accessible(page)
    await dialog(page).get_by_role("button", name="Save").click()

    await expect(row(page, "alice")).to_contain_text("5 at once · 2.0 GB stored")
    assert (await service.alice.get("/api/owners/alice/limits"))["own"] == {"concurrency": 5, "stored": 2_000_000_000}

    await row(page, "alice").get_by_role("button", name="Remove…").click()
    await dialog(page).get_by_role("button", name="Remove").click()
    await expect(row(page, "alice")).to_contain_text("the service's")
    assert (await service.alice.get("/api/owners/alice/limits"))["own"] is None


async def test_a_group_of_dead_letters_is_retried_after_a_dry_run_and_another_discarded(
    service: Service, backend: BackendServer, console: Console
) -> None:
    await service.admin.register(backend, "gpu-1")
    for reason, owner in (("no <b>", service.alice), ("no <b>", service.bob), ("out of memory", service.alice)):
        backend.answer = status(400, {"error": reason})
        task = await owner.submit({"payload": reason, "attempts": 1})
        await owner.reaches(task, "FAILED")
    backend.answer = echo
    await service.admin.until("/api/dead-letters/groups", lambda found: found["count"] == 3, "3 dead letters")
    page = await console.open(service, "/dead-letters")
    groups = page.get_by_role("region", name="Dead letters by error")
    await expect(page.get_by_text("3 tasks failed for good")).to_be_visible()
    await groups.get_by_role("button", name="Retry 2…").click()
    await expect(dialog(page)).to_contain_text("2 of 2 would be queued again")
    assert (await service.admin.done("GET", "/api/dead-letters/groups"))["count"] == 3
    await dialog(page).get_by_role("button", name="Retry 2").click()

    await expect(page.get_by_text("2 dead letters queued again.")).to_be_visible()
    await expect(groups.get_by_role("button", name="Retry 1…")).to_be_visible()
    for client in (service.alice, service.bob):
        await client.until("/api/tasks/count?status=FINISHED", lambda found: found["count"] == 1, "it to finish")

    await page.keyboard.press("j")
    await page.keyboard.press("Shift+D")
    await dialog(page).get_by_role("button", name="Discard 1").click()
    await expect(page.get_by_text("No dead letter", exact=True)).to_be_visible()
    assert (await service.admin.done("GET", "/api/dead-letters"))["deadLetters"] == []


async def test_selected_dead_letters_are_retried_and_a_refusal_is_named(
    service: Service, backend: BackendServer, console: Console
) -> None:
    await service.admin.register(backend, "gpu-1")
    backend.answer = status(400)
    ids = [await service.alice.submit({"payload": n, "attempts": 1}) for n in range(2)]
    for each in ids:
        await service.alice.reaches(each, "FAILED")
    page = await console.open(service, "/dead-letters?by=list", subject="alice", roles=("user",))
    for each in ids:
        await page.get_by_label(f"Select {each}").check()
    await service.alice.done("POST", "/api/dead-letters/discard", {"ids": ids[:1]})
    backend.answer = echo
    await page.get_by_role("toolbar").get_by_role("button", name="Retry…").click()

    await expect(dialog(page)).to_contain_text("1 of 2 would be queued again")
    await expect(dialog(page)).to_contain_text("1 refused")
    await dialog(page).get_by_role("button", name="Retry 1").click()
    await service.alice.reaches(ids[1], "FINISHED")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_pages_have_no_serious_finding_of_accessibility(
    stocked: Service, console: Console, scheme: str
) -> None:
    page = await console.open(stocked, PAGES[0])
    await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    for path in PAGES if scheme == "light" else PAGES[::2]:
        await page.evaluate("path => { location.hash = path }", path)
        await expect(page.locator("main h1")).to_be_visible()
        await settled(page)
        await check_accessible(page)


async def test_the_pages_fit_a_phone_without_sideways_scroll(stocked: Service, console: Console) -> None:
    page = await console.open(stocked, PAGES[0])
    for width, paths in ((390, PAGES), (320, PAGES[::3])):
        await page.set_viewport_size({"width": width, "height": 800})
        for path in paths:
            await page.evaluate("path => { location.hash = path }", path)
            await expect(page.locator("main h1")).to_be_visible()
            await settled(page)
            over = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert over <= 0, f"{path} is {over} px too wide for {width}"
