"""The page of a task, the form of a new one, and batches: each action, on a real service."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Page, expect

from taskstream.api.auth.authenticator import make_token
from taskstream.clock import utc_now
from testkit.backend import BackendServer, accept, finished
from testkit.nats import running_nats
from testkit.service import SECRET, Service, running_service
from testkit.waiting import wait_until

from .conftest import Console, check_accessible, settled

BIG = 9007199254740993
"""2^53 + 1: no JavaScript number holds it."""
HOSTILE = "<img src=x onerror=alert(1)>\u202eevil\u200b"
PHONE = {"width": 390, "height": 844}


def picture() -> bytes:
    """Return a PNG of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0\xff\0\0")), chunk(b"IEND", b"")]
    )


async def by_payload(_: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
    """Answer as the payload says."""
    match task["request"]:
        case {"refuse": error}:
            return web.json_response({"error": error}, status=400)
        case {"answer": "picture"}:
            return web.Response(body=picture(), content_type="image/png")
        case {"answer": "large"}:
            rows = [{"id": number, "text": "lorem ipsum " * 8} for number in range(30_000)]
            return web.json_response(finished(task, {"rows": rows, "last": "needle"}))
        case {"answer": text}:
            whole = json.dumps(finished(task, "DATA")).replace('"DATA"', text)
            return web.Response(body=whole, content_type="application/json")
        case _:
            return web.json_response(finished(task, {"echo": task["request"]}))


class Workshop:
    """A service with a server that answers by payload, and one that reports by callback."""

    def __init__(self, service: Service, reporter: BackendServer) -> None:
        self.service = service
        self.alice = service.alice
        self.reporter = reporter

    async def running(self) -> tuple[str, dict[str, Any]]:
        """Submit a task that runs until the test reports its end; return its id and the call of its server."""
        calls = self.reporter.calls
        before = len(calls)
        task_id = await self.alice.submit({"type": "report", "payload": {"n": 1}})
        await wait_until(lambda: len(calls) > before, "the call of the server")
        await self.alice.reaches(task_id, "PROCESSING")
        return task_id, calls[-1]

    async def report(self, call: dict[str, Any], **metadata: Any) -> None:
        """Send an update as the server."""
        body = {"metadata": {"status": "PROCESSING", **metadata}}
        headers = {"Authorization": f"Bearer {call['callback_token']}"}
        async with (
            aiohttp.ClientSession() as session,
            session.put(call["callback_url"], json=body, headers=headers) as it,
        ):
            assert it.status == 200, await it.text()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def workshop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Workshop]:
    with running_nats(tmp_path_factory.mktemp("tasks") / "nats") as nats:
        async with (
            running_service(nats.url) as service,
            BackendServer(by_payload) as backend,
            BackendServer(accept) as reporter,
        ):
            await service.admin.register(backend, "gpu-1", types=["work"], maxConcurrent=50)
            await service.admin.register(reporter, "gpu-2", types=["report"], **{"async": True})
            schema = {"type": "object", "required": ["width"], "properties": {"width": {"type": "integer"}}}
            await service.admin.done("PUT", "/api/types/scale", {"schema": schema})
            yield Workshop(service, reporter)


async def open_task(console: Console, workshop: Workshop, task_id: str, query: str = "", **who: Any) -> Page:
    page = await console.open(workshop.service, f"/task/{task_id}{query}", **(who or {"subject": "alice", "roles": ()}))
    await expect(page.get_by_text(task_id).first).to_be_visible()
    await settled(page)
    return page


async def no_sideways_scroll(page: Page) -> bool:
    width: int = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return width <= 0


async def test_a_failed_task_says_why_and_is_retried_by_hand(workshop: Workshop, console: Console) -> None:
    task_id = await workshop.alice.submit({"type": "work", "payload": {"refuse": HOSTILE}})
    await workshop.alice.ended(task_id)
    page = await open_task(console, workshop, task_id)
    why = page.get_by_role("region", name="Why")
    await expect(why).to_contain_text("It failed for good, on attempt 1 of 3")
    await expect(why).to_contain_text("<img src=x onerror=alert(1)>U+202E")
    await expect(page.get_by_role("tabpanel")).to_contain_text("failed: rejected")
    assert await page.locator("img").count() == 0

    await page.keyboard.press("r")
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Reason").fill("once more")
    await dialog.get_by_role("button", name="Retry").click()

    async def attempts() -> int:
        return sum(event["type"] == "AttemptStarted" for event in await workshop.alice.history(task_id))

    await wait_until(lambda: _reaches(attempts, 2), "the second attempt")
    await expect(page.get_by_role("tabpanel")).to_contain_text("#2")
    renewed = next(event for event in await workshop.alice.history(task_id) if event.get("renewed"))
    assert renewed["reason"] == "once more"


async def _reaches(number: Any, wanted: int) -> bool:
    return bool(await number() >= wanted)


async def test_output_appears_as_it_comes_and_the_title_says_the_end(workshop: Workshop, console: Console) -> None:
    task_id, call = await workshop.running()
    page = await open_task(console, workshop, task_id)
    await page.get_by_role("button", name="Watch").click()
    await expect(page.get_by_text("No output yet")).to_be_visible()
    await workshop.report(call, progress=40, message="halfway", log=f"\x1b[31mred\x1b[0m {HOSTILE}")
    output = page.get_by_role("region", name="Output and log")
    await expect(output).to_contain_text("red <img src=x onerror=alert(1)>U+202EevilU+200B")
    await expect(output.locator(".ink-1")).to_have_text("red")
    await expect(page.get_by_role("heading", level=1)).to_contain_text("40 %")
    for piece in ("to", "ken\n", "last"):
        await workshop.report(call, output=piece)
    await expect(output).to_contain_text("token")
    await expect(output).to_contain_text("last")
    assert await page.locator("img").count() == 0

    status, _ = await workshop.reporter.report(call, "FINISHED", data={"done": True})
    assert status == 200
    await expect(page.get_by_role("heading", level=1)).to_contain_text("finished")
    await expect(page).to_have_title(re.compile("^✓ finished: report"))
    rows = await output.locator(".log-row").all_inner_texts()
    assert [row for row in rows if row in ("token", "last")] == ["token", "last"], "shown once, in order"


async def test_a_running_task_is_cancelled_and_then_deleted(workshop: Workshop, console: Console) -> None:
    task_id, _ = await workshop.running()
    page = await open_task(console, workshop, task_id)
    await page.get_by_role("button", name="Cancel").click()
    await page.get_by_role("dialog").get_by_role("button", name="Cancel the task").click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("cancelled")
    await expect(page.get_by_role("region", name="Why")).to_contain_text("It was cancelled by alice")
    await page.get_by_role("button", name="More").click()
    await page.get_by_role("menuitem", name="Delete…").click()
    console.allow("404")
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await wait_until(lambda: _is_gone(workshop, task_id), "the task to be deleted")
    other = await console.open(workshop.service, f"/task/{task_id}", subject="alice", roles=())
    await expect(other.get_by_text("This task is not there, or not yours")).to_be_visible()


async def _is_gone(workshop: Workshop, task_id: str) -> bool:
    return (await workshop.alice.get(f"/api/task/{task_id}")).status == 404


async def test_numbers_and_key_order_survive_viewing_copying_and_submitting_again(
    workshop: Workshop, console: Console
) -> None:
    text = f'{{"z": {BIG}, "a": 1.0, "k": [1e5, -0.0]}}'
    body = f'{{"type": "work", "payload": {text}}}'.encode()
    answer = await workshop.alice.post("/api/task", body, headers={"Content-Type": "application/json"})
    task_id = answer["taskId"]
    await workshop.alice.ended(task_id)
    await console.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = await open_task(console, workshop, task_id, "?tab=payload")
    viewer = page.get_by_role("region", name="Payload")
    await expect(viewer).to_contain_text(f'"z": {BIG}, "a": 1.0, "k": [1e5, -0.0]')
    await page.get_by_role("tabpanel").get_by_role("button", name="Copy", exact=True).click()
    await expect(page.get_by_text("Copied as it is stored.")).to_be_visible()
    assert await page.evaluate("navigator.clipboard.readText()") == text

    await page.keyboard.press("s")
    await expect(page.get_by_label("Payload")).to_have_value(text)
    await page.get_by_role("button", name="Submit").click()
    await expect(page).to_have_url(re.compile(f"#/task/(?!{task_id[:26]})"))
    again = await page.evaluate("decodeURIComponent(location.hash.split('/')[2].split('?')[0])")
    async with workshop.alice.session.get(
        f"{workshop.service.url}/api/task/{again}/payload",
        headers={"Authorization": f"Bearer {workshop.alice.bearer}"},
    ) as stored:
        assert await stored.text() == text


async def test_whatever_a_result_holds_is_shown_as_text(workshop: Workshop, console: Console) -> None:
    line = "y" * 1_000_000
    text = f'{{"html": "<script>alert(1)</script>", "rtl": "\u202eabc", "half": "\\\\ud800", "line": "{line}"}}'
    payload = {"answer": text.replace("\\\\", "\\")}
    task_id = await workshop.alice.submit({"type": "work", "payload": payload})
    assert (await workshop.alice.ended(task_id))["status"] == "FINISHED"
    page = await open_task(console, workshop, task_id)
    viewer = page.get_by_role("region", name="Result")
    await expect(viewer).to_contain_text('"html": "<script>alert(1)</script>"')
    await expect(viewer).to_contain_text("U+202Eabc")
    await page.get_by_role("button", name="Show 4.2 MB").or_(page.get_by_role("button", name="Show all")).click()
    await viewer.get_by_role("button", name="… 1,000,002 characters").click()
    await expect(page.get_by_role("dialog").locator("pre")).to_contain_text("yyyy")
    assert await page.evaluate("document.querySelector('dialog pre').textContent.length") == 1_000_000


async def test_a_result_of_megabytes_opens_with_its_beginning(workshop: Workshop, console: Console) -> None:
    task_id = await workshop.alice.submit({"type": "work", "payload": {"answer": "large"}})
    await workshop.alice.ended(task_id)
    page = await open_task(console, workshop, task_id)
    panel = page.get_by_role("tabpanel")
    await expect(panel).to_contain_text("The first 262 kB of 3")
    assert await page.locator(".json-line").count() < 200, "only the lines in view are in the page"
    await panel.get_by_label("Find in Result").fill("lorem")
    await panel.get_by_label("Find in Result").press("Enter")
    await expect(panel).to_contain_text("1 of 1000")
    async with page.expect_download() as saved:
        await panel.get_by_role("button", name="Download").click()
    path = await (await saved.value).path()
    assert json.loads(path.read_bytes())["data"]["last"] == "needle"


async def test_a_picture_is_shown_whether_it_is_a_file_or_in_the_json(workshop: Workshop, console: Console) -> None:
    encoded = base64.b64encode(picture()).decode()
    for answer in ("picture", f'{{"images": ["{encoded}"], "svg": "data:image/svg+xml;base64,PHN2Zz4="}}'):
        task_id = await workshop.alice.submit({"type": "work", "payload": {"answer": answer}})
        await workshop.alice.ended(task_id)
        page = await open_task(console, workshop, task_id)
        image = page.get_by_role("tabpanel").locator("img")
        await expect(image).to_have_count(1)
        await expect(image).to_have_js_property("naturalWidth", 1)
        await page.close()


async def test_a_refusal_is_shown_at_its_place_and_the_form_goes_on(workshop: Workshop, console: Console) -> None:
    console.allow("400")
    page = await console.open(workshop.service, "/tasks/new", subject="alice", roles=())
    await page.get_by_label("Type").fill("scale")
    await expect(page.get_by_text("Schema of its payloads")).to_be_visible()
    await page.get_by_label("Payload").fill('{\n"width": "wide"}')
    await page.keyboard.press("Control+Enter")
    await expect(page.locator(".field-error")).to_contain_text("line 2: $.payload.width")
    await page.get_by_label("Payload").fill('{"width": }')
    await page.keyboard.press("Control+Enter")
    await expect(page.locator(".field-error")).to_contain_text("is not JSON")
    await page.get_by_label("Payload").fill(f'{{"width": {BIG}}}')
    await expect(page.get_by_label("As curl")).to_contain_text(f'"payload": {{"width": {BIG}}}')
    await page.keyboard.press("Control+Enter")
    await expect(page).to_have_url(re.compile("#/task/"))
    await expect(page.get_by_role("region", name="Why")).to_contain_text("No server can take it")


async def test_a_task_leads_to_its_parents_and_children_by_keys(workshop: Workshop, console: Console) -> None:
    parent = await workshop.alice.submit({"type": "work", "payload": 1, "delay": 3_600})
    child = await workshop.alice.submit({"type": "work", "payload": 2, "dependsOn": [parent]})
    await workshop.alice.submit({"type": "work", "payload": 3, "dependsOn": [child]})
    page = await open_task(console, workshop, child)
    await expect(page.get_by_role("region", name="Why")).to_contain_text("1 task that it depends on has not ended")
    await page.keyboard.press("6")
    graph = page.get_by_role("application")
    await expect(graph.locator(".node")).to_have_count(3)
    await graph.focus()
    await page.keyboard.press("ArrowLeft")
    await expect(page.locator("#graph-current")).to_contain_text(parent)
    await page.keyboard.press("Enter")
    await expect(page.locator(".task-title code")).to_have_text(parent)
    await page.keyboard.press("v")
    await expect(page.get_by_role("region", name="Timeline").get_by_role("cell", name="held")).to_be_visible()


async def test_an_event_shows_its_actor_its_cause_and_its_json(workshop: Workshop, console: Console) -> None:
    task_id = await workshop.alice.submit({"type": "work", "payload": {"n": BIG}})
    await workshop.alice.ended(task_id)
    page = await open_task(console, workshop, task_id, "?tab=events")
    events = page.locator(".event-row")
    await expect(events).to_have_count(3)
    await events.last.get_by_role("button").click()
    await expect(events.last).to_contain_text("caused by request")
    await expect(events.last.get_by_role("region")).to_contain_text(f'"payload": {{"n": {BIG}}}')
    await expect(events.nth(1)).to_contain_text("attempt 1 started")


async def test_an_auditor_finds_no_button_and_without_the_claim_no_payload(
    workshop: Workshop, console: Console
) -> None:
    task_id = await workshop.alice.submit({"type": "work", "payload": {"refuse": "secret of alice"}})
    await workshop.alice.ended(task_id)
    page = await open_task(console, workshop, task_id, subject="eve", roles=("auditor",))
    for name in ("Retry", "Cancel", "like this"):
        await expect(page.get_by_role("button", name=name)).to_have_count(0)
    await page.get_by_role("button", name="More").click()
    await expect(page.get_by_role("menuitem", name="Delete…")).to_have_count(0)
    bearer = make_token(SECRET, "eve", ("auditor",), 3600, utc_now().timestamp(), payloads=False)
    other = await console.go(f"{workshop.service.url}/console/#/token={bearer}&to=/task/{task_id}%3Ftab=payload")
    await expect(other.get_by_text("Not shown to you")).to_be_visible()


async def test_a_batch_is_followed_retried_saved_and_deleted(workshop: Workshop, console: Console) -> None:
    payloads = [{"refuse": f"no {n}"} if n % 8 == 0 else {"n": BIG + n} for n in range(24)]
    items = [{"type": "work", "payload": payload} for payload in payloads]
    batch = (await workshop.alice.done("POST", "/api/tasks/batch", items))["batchId"]
    page = await console.open(workshop.service, "/batches", subject="alice", roles=())
    await page.get_by_role("link", name=batch[22:26]).click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("3 failed")
    await expect(page.locator(".cell-finished")).to_have_count(21)
    await page.keyboard.press("2")
    await expect(page.get_by_role("tabpanel")).to_contain_text("3")
    await expect(page.locator(".batch-errors > li")).to_have_count(1)
    await page.keyboard.press("4")
    async with page.expect_download() as saved:
        await page.get_by_role("button", name="Save 21 results").click()
    path = await (await saved.value).path()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["result"]["data"]["echo"]["n"] for line in lines] == [BIG + n for n in range(24) if n % 8]

    await page.get_by_role("button", name="Retry 3").click()
    await page.get_by_role("dialog").get_by_role("button", name="Retry 3 tasks").click()
    await expect(page.get_by_text("3 tasks done")).to_be_visible()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("3 failed")
    await page.get_by_role("application").focus()
    await page.keyboard.press("End")
    await expect(page.locator("#cell-current")).to_contain_text("#23")
    await page.get_by_role("button", name="More").click()
    await page.get_by_role("menuitem", name="Delete…").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete 24 tasks").click()
    await expect(page).to_have_url(re.compile("#/batches$"))
    assert (await workshop.alice.get(f"/api/batches/{batch}")).status == 404


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_these_pages_are_accessible_and_fit_a_phone(workshop: Workshop, console: Console, scheme: str) -> None:
    failed = await workshop.alice.submit({"type": "work", "payload": {"refuse": "x" * 300}})
    await workshop.alice.ended(failed)
    items = [{"type": "work", "payload": 1, "delay": 3_600}, {"type": "work", "payload": 2, "dependsOn": [0]}]
    batch = (await workshop.alice.done("POST", "/api/tasks/batch", items))["batchId"]
    done = await workshop.alice.submit({"type": "work", "payload": {"a": {"b": [1, "https://example.org/"]}}})
    await workshop.alice.ended(done)
    page = await console.open(workshop.service, f"/task/{failed}", subject="alice", roles=())
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    paths = [
        f"/task/{failed}", f"/task/{failed}?tab=events", f"/task/{done}", f"/task/{batch}?tab=graph",
        f"/tasks/new?like={done}", "/batches", f"/batch/{batch}",
    ]  # fmt: skip
    for path in paths:
        await page.set_viewport_size({"width": 1280, "height": 800})
        await page.evaluate("to => { location.hash = to }", path)
        await expect(page.get_by_role("heading", level=1)).to_be_visible()
        await settled(page)
        await check_accessible(page)
        if scheme == "dark":
            continue
        await page.set_viewport_size(PHONE)  # type: ignore[arg-type]
        await wait_until(lambda: no_sideways_scroll(page), f"{path} to fit a phone")
    await page.evaluate("to => { location.hash = to }", f"/task/{failed}")
    await page.get_by_role("button", name="Retry").click()
    await check_accessible(page)


async def test_a_task_is_read_and_retried_by_keyboard_alone(workshop: Workshop, console: Console) -> None:
    task_id = await workshop.alice.submit({"type": "work", "payload": {"refuse": "no"}})
    await workshop.alice.ended(task_id)
    page = await open_task(console, workshop, task_id)
    for key, name in (("3", "Payload"), ("5", "Events"), ("1", "Attempts")):
        await page.keyboard.press(key)
        await expect(page.get_by_role("tab", selected=True)).to_contain_text(name)
    await page.keyboard.press("ArrowRight")
    await expect(page.locator(".timeline-event")).to_contain_text("submitted, queued")
    await page.keyboard.press("r")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.keyboard.press("r")
    await expect(page.get_by_role("dialog").get_by_label("Reason")).to_be_focused()
    await page.keyboard.press("Control+Enter")
    await wait_until(lambda: _has_event(workshop, task_id, "TaskQueued"), "the retry")


async def _has_event(workshop: Workshop, task_id: str, kind: str) -> bool:
    return any(event["type"] == kind for event in await workshop.alice.history(task_id))
