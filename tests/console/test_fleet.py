"""The pages of servers: the fleet, one server, and the form that brings one in."""

from __future__ import annotations

import json

from playwright.async_api import Page, Request, expect

from testkit.backend import BackendServer, status
from testkit.program import Program
from testkit.service import Service

from .conftest import Console, check_accessible, settled

KEY = "key-of-the-server-0123456789"
MARKUP = '<img src=x onerror="alert(1)"> \u202e'


def row(page: Page, name: str):  # type: ignore[no-untyped-def]
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))


def dialog(page: Page):  # type: ignore[no-untyped-def]
    return page.get_by_role("dialog")


async def test_a_server_is_registered_by_its_address_alone_as_auto_finds_its_dialect(
    service: Service, console: Console
) -> None:
    async with Program() as program:
        program.answers["/v1/models"] = {"object": "list", "data": [{"id": "llama"}]}
        page = await console.open(service, "/fleet/new")
        await page.get_by_label("Address for tasks").fill(f"{program.base_url}/v1")
        await page.keyboard.press("Tab")
        await expect(page.get_by_text("speaks openai")).to_be_visible()
        await expect(page.get_by_text("answers", exact=True)).to_be_visible()
        await page.get_by_label("Id (required)").fill("llama-1")
        await page.keyboard.press("Control+Enter")

        await expect(page.get_by_role("heading", name="llama-1")).to_be_visible()
        await expect(page.locator(".standing")).to_contain_text("online")
        assert (await service.admin.done("GET", "/api/servers/llama-1"))["dialectDetected"]["dialect"] == "openai"
        assert {asked.method for asked in program.asked} == {"GET"}


async def test_the_form_says_what_is_wrong_while_one_types_in_the_services_words(
    api: Service, console: Console
) -> None:
    console.allow("400")
    page = await console.open(api, "/fleet/new?program=bare")
    await page.get_by_label("Program").select_option("bare")
    await page.get_by_label("Address for tasks").fill("gpu-1:8000")
    await expect(page.get_by_text("must begin with http:// or https://")).to_be_visible()
    await page.get_by_label("Address for tasks").fill("http://127.0.0.1:9/predict")
    await page.get_by_label("Tasks at once").fill("0")
    await expect(page.get_by_text("must be between 1 and 10,000")).to_be_visible()
    await page.get_by_label("Tasks at once").fill("4")
    await page.get_by_label("Id (required)").fill("jobs-1")
    await page.locator("summary", has_text="More").click()
    await page.get_by_label("Exchange").fill('{"result": "$.a..b..c"}')

    wrong = page.locator(".field-wrong")
    await expect(wrong).to_have_count(1)
    await expect(wrong).to_contain_text("Exchange")
    refused = await api.admin.post(
        "/api/servers", {"id": "jobs-1", "name": "x", "provider": "x", "dialect": "bare",
                         "endpoints": {"predict": "http://127.0.0.1:9/predict"}, "exchange": {"result": "$.a..b..c"}}
    )  # fmt: skip
    await expect(wrong).to_contain_text(refused["detail"].removeprefix("$.exchange.result: "))
    assert (await api.admin.get("/api/servers/jobs-1")).status == 404


async def test_a_preset_fills_the_form_and_the_request_is_shown_without_the_key(api: Service, console: Console) -> None:
    page = await console.open(api, "/fleet/new")
    await page.get_by_label("Program").select_option("preset:comfyui")
    await page.get_by_label("API key").fill(KEY)

    await expect(page.get_by_label("Address for tasks")).to_have_value("http://10.0.0.12:8188/api/prompt")
    shown = json.loads(await page.locator(".preview .code").inner_text())
    assert (shown["preset"], shown["id"], shown["apiKey"]) == ("comfyui", "comfy-1", "…")
    assert KEY not in await page.content()


async def test_editing_a_server_sends_what_changed_and_keeps_its_key(
    service: Service, backend: BackendServer, console: Console
) -> None:
    await service.admin.register(backend, "gpu-1", apiKey=KEY, labels={"gpu": "a100"})
    page = await console.open(service, "/fleet/gpu-1")
    sent: list[str] = []

    def note(request: Request) -> None:
        if request.method == "PATCH":
            sent.append(request.post_data or "")

    page.on("request", note)
    await page.get_by_role("link", name="Edit").click()
    await expect(page.get_by_text("It stays unless you type another one.")).to_be_visible()
    await page.get_by_label("Labels").fill("gpu=h100")
    await page.get_by_role("button", name="Save").first.click()

    await expect(page.get_by_text("gpu=h100")).to_be_visible()
    assert [json.loads(body) for body in sent] == [{"labels": {"gpu": "h100"}}]
    server = await service.admin.done("GET", "/api/servers/gpu-1")
    assert (server["hasApiKey"], server["labels"]) == (True, {"gpu": "h100"})


async def test_an_edit_does_not_overwrite_what_somebody_else_changed_meanwhile(
    service: Service, backend: BackendServer, console: Console
) -> None:
    await service.admin.register(backend, "gpu-1")
    console.allow("412")
    page = await console.open(service, "/fleet/gpu-1/edit")
    await page.get_by_label("Weight").fill("7")
    await service.admin.done("PATCH", "/api/servers/gpu-1", {"weight": 3})
    await page.get_by_role("button", name="Save").first.click()

    await expect(page.get_by_role("alert")).to_contain_text("Somebody else changed it since you read it.")
    assert (await service.admin.done("GET", "/api/servers/gpu-1"))["weight"] == 3


async def test_selected_servers_are_drained_with_a_reason_and_one_is_resumed(
    service: Service, backend: BackendServer, console: Console
) -> None:
    for name in ("gpu-1", "gpu-2", "gpu-3"):
        await service.admin.register(backend, name)
    page = await console.open(service, "/fleet")
    await page.get_by_label("Select gpu-1").check()
    await page.get_by_label("Select gpu-3").check()
    await page.get_by_role("toolbar").get_by_role("button", name="Drain…").click()
    await dialog(page).get_by_label("Reason").fill(MARKUP)
    await dialog(page).get_by_role("button", name="Drain 2").click()

    await expect(row(page, "gpu-1")).to_contain_text("maintenance")
    await expect(row(page, "gpu-3")).to_contain_text(MARKUP)
    await expect(row(page, "gpu-2")).to_contain_text("online")
    await expect(page.get_by_role("link", name="2 maintenance")).to_be_visible()

    await page.get_by_role("link", name="gpu-3", exact=True).click()
    await expect(page.locator(".standing")).to_contain_text("drained: nothing runs on it")
    await page.get_by_role("button", name="Resume…").click()
    await dialog(page).get_by_role("button", name="Resume").click()
    await expect(page.locator(".standing")).to_contain_text("online")
    states = {each["id"]: each["maintenance"] for each in (await service.admin.get("/api/servers"))["servers"]}
    assert states == {"gpu-1": True, "gpu-2": False, "gpu-3": False}


async def test_a_trial_shows_the_call_and_what_it_means(
    service: Service, backend: BackendServer, console: Console
) -> None:
    await service.admin.register(backend, "gpu-1")
    page = await console.open(service, "/fleet/gpu-1")
    await page.get_by_role("button", name="Try…").click()
    await dialog(page).get_by_label("Payload").fill('{"n": 9007199254740993')
    await dialog(page).get_by_role("button", name="Try").click()
    await expect(dialog(page).get_by_text("must be JSON")).to_be_visible()
    await dialog(page).get_by_label("Payload").fill('{"n": 9007199254740993}')
    await dialog(page).get_by_role("button", name="Try").click()

    await expect(dialog(page).get_by_text("completed")).to_be_visible()
    await expect(dialog(page).get_by_text("9007199254740993").last).to_be_visible()
    assert backend.calls[-1]["request"] == {"n": 9007199254740993}
    assert await service.admin.tasks() == []
    await check_accessible(page)


async def test_a_server_that_fails_tasks_and_dies_says_so_with_its_errors_and_history(
    service: Service, backend: BackendServer, console: Console
) -> None:
    await service.admin.register(backend, "gpu-1")
    backend.answer = status(400, {"error": "CUDA out of memory"})
    failed = await service.alice.submit({"payload": 1, "attempts": 1})
    await service.alice.reaches(failed, "FAILED")
    backend.healthy = False
    await service.admin.server_is("gpu-1", "offline")
    page = await console.open(service, "/fleet")

    await expect(row(page, "gpu-1")).to_contain_text("health check answered 500")
    await expect(row(page, "gpu-1")).to_contain_text("100 %")
    await expect(row(page, "gpu-1")).to_contain_text("rejected 1")
    await page.get_by_role("link", name="gpu-1", exact=True).click()
    await expect(page.locator(".standing")).to_contain_text("offline")
    await expect(page.get_by_role("region", name="Failures by error")).to_contain_text("CUDA out of memory")
    await expect(page.locator(".history")).to_contain_text("offline: health check answered 500")
    await expect(page.locator(".history")).to_contain_text("by root")


async def test_a_removed_server_is_listed_as_gone_and_restored_with_its_key(
    service: Service, backend: BackendServer, console: Console
) -> None:
    await service.admin.register(backend, "gpu-1", apiKey=KEY)
    console.allow(r"404 .*/api/servers/gpu-1$")
    page = await console.open(service, "/fleet/gpu-1")
    await page.get_by_role("button", name="More actions").click()
    await page.get_by_role("menuitem", name="Remove…").click()
    await dialog(page).get_by_role("button", name="Remove").click()
    await expect(page.locator(".standing")).to_contain_text("removed by root")
    await page.get_by_role("link", name="Fleet", exact=True).first.click()
    await expect(page.get_by_text("No server yet")).to_be_visible()
    await row(page, "gpu-1").get_by_role("button", name="Restore…").click()
    await dialog(page).get_by_role("button", name="Restore").click()
    await expect(dialog(page).get_by_role("alert")).to_contain_text("Type its API key")
    await dialog(page).get_by_label("API key").fill(KEY)
    await dialog(page).get_by_role("button", name="Restore").click()

    await expect(page.get_by_role("region", name="Servers", exact=True)).to_contain_text("gpu-1")
    await service.admin.server_is("gpu-1", "online")


async def test_servers_are_filtered_by_the_address_that_each_count_links_to(
    service: Service, backend: BackendServer, console: Console
) -> None:
    await service.admin.register(backend, "gpu-1", labels={"gpu": "a100"})
    await service.admin.register(backend, "cpu-1")
    await service.admin.done("POST", "/api/servers/cpu-1/drain", {})
    page = await console.open(service, "/fleet")
    await page.get_by_role("link", name="1 maintenance").click()
    await expect(page.get_by_role("link", name="cpu-1", exact=True)).to_be_visible()
    await expect(page.get_by_role("link", name="gpu-1", exact=True)).to_have_count(0)
    assert page.url.endswith("#/fleet?state=maintenance")

    await page.get_by_label("Remove the filter state maintenance").click()
    await page.get_by_role("combobox", name="Filter").fill("label:gpu=a100")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("link", name="cpu-1", exact=True)).to_have_count(0)
    assert page.url.endswith("#/fleet?label=gpu%3Da100")


async def test_the_fleet_is_steered_by_keys_alone(service: Service, backend: BackendServer, console: Console) -> None:
    await service.admin.register(backend, "gpu-1")
    page = await console.open(service, "/")
    await expect(page.get_by_role("link", name="Fleet")).to_be_visible()
    await page.keyboard.press("g")
    await page.keyboard.press("f")
    await expect(row(page, "gpu-1")).to_be_visible()
    await page.keyboard.press("j")
    await expect(row(page, "gpu-1")).to_be_focused()
    await page.keyboard.press("d")
    await expect(dialog(page)).to_contain_text("Drain gpu-1")
    await page.keyboard.press("Escape")
    await expect(dialog(page)).to_have_count(0)
    await expect(row(page, "gpu-1")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="gpu-1")).to_be_visible()
    await expect(page.get_by_role("link", name="Edit")).to_be_visible()
    await page.keyboard.press("e")
    await expect(page.get_by_role("heading", name="Edit gpu-1")).to_be_visible()


async def test_an_auditor_sees_the_fleet_and_no_action(stocked: Service, console: Console) -> None:
    page = await console.open(stocked, "/fleet", subject="eve", roles=("auditor",))
    await expect(row(page, "gpu-1")).to_be_visible()
    for path in ("/fleet", "/fleet/gpu-1", "/pools", "/types/echo", "/limits", "/dead-letters"):
        await page.evaluate("path => { location.hash = path }", path)
        await settled(page)
        await expect(page.locator("main h1")).to_be_visible()
        actions = page.locator("main").get_by_role("button", name="…")
        assert await actions.count() == 0, f"{path}: {await actions.all_inner_texts()}"
        for name in ("Register server", "Save", "Edit", "New type"):
            assert await page.locator("main").get_by_text(name, exact=True).count() == 0, f"{path}: {name}"
    assert (await stocked.auditor.post("/api/servers/gpu-1/drain", {})).status == 403


async def test_a_user_sees_no_fleet_and_only_their_own_limits_and_dead_letters(
    stocked: Service, console: Console
) -> None:
    page = await console.open(stocked, "/dead-letters", subject="bob", roles=("user",))
    await expect(page.get_by_text("Nothing has failed for good.")).to_be_visible()
    await expect(page.get_by_role("navigation", name="Pages", exact=True).get_by_text("Fleet")).to_have_count(0)
    await page.get_by_role("link", name="Limits").click()
    await expect(page.get_by_role("heading", name="Quotas")).to_be_visible()
    await expect(page.get_by_text("alice")).to_have_count(0)
    await page.get_by_role("link", name="Pools and types").click()
    await expect(page.get_by_role("region", name="Types")).to_contain_text("echo")
    await expect(page.get_by_role("region", name="Pools")).to_have_count(0)
