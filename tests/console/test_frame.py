"""The frame that all pages share: tokens, keys, the policy, path prefixes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Literal

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Page, Route, expect

from taskstream.api.middleware import CONSOLE_POLICY
from testkit.http_server import HttpServer
from testkit.service import Service, token

from .conftest import ROOT, Console, check_accessible

PHONE = {"width": 390, "height": 800}
NARROW = (320, 390, 1024)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
PAGES = {"Overview": "/", "Tasks": "/tasks"}


async def test_a_token_in_the_address_is_taken_out_at_once_and_kept_in_the_tab_only(
    console: Console, stocked: Service
) -> None:
    page = await console.open(stocked, "/tasks?status=FAILED")
    await expect(page.get_by_role("heading", name="Tasks", exact=True)).to_be_visible()

    assert page.url == f"{stocked.url}/console/#/tasks?status=FAILED"
    kept = await page.evaluate("() => [Object.keys(sessionStorage), Object.keys(localStorage), document.cookie]")
    assert kept == [["taskstream.token"], [], ""]
    await page.go_back()
    assert "token" not in page.url, "the history has it"


async def test_a_token_can_be_pasted(console: Console, stocked: Service) -> None:
    page = await console.go(f"{stocked.url}/console/")
    await page.get_by_label("Token").fill(f" Bearer {token('alice')} ")
    await check_accessible(page)
    await page.get_by_role("button", name="Connect").click()

    await expect(page.locator(".who-name")).to_contain_text("alice")


async def test_a_refused_token_is_asked_for_over_the_page_which_then_goes_on(
    console: Console, stocked: Service
) -> None:
    console.allow("401")
    page = await console.open(stocked, "/tasks")
    await expect(page.get_by_role("row")).to_have_count(16)
    await page.evaluate("() => sessionStorage.setItem('taskstream.token', 'worn out')")
    await page.reload()
    dialog = page.get_by_role("dialog", name="A token is needed")
    await expect(dialog).to_be_visible()
    await check_accessible(page)
    await dialog.get_by_label("Token").fill(token("root", "admin"))
    await dialog.get_by_role("button", name="Connect").click()

    await expect(dialog).to_be_hidden()
    await expect(page.get_by_role("row")).to_have_count(16)


@pytest.mark.parametrize("name", PAGES)
async def test_pages_have_no_serious_finding_of_axe_and_fit_narrow_screens(
    console: Console, stocked: Service, name: str
) -> None:
    page = await console.open(stocked, PAGES[name])
    await expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()
    await expect(page.locator("[aria-busy=true]")).to_have_count(0)

    for scheme in SCHEMES:
        await page.emulate_media(color_scheme=scheme)
        await check_accessible(page)
    for width in NARROW:
        await page.set_viewport_size({"width": width, "height": 640})
        assert await page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), width


async def test_the_rail_of_a_phone_opens_and_closes(console: Console, stocked: Service) -> None:
    page = await console.open(stocked)
    await page.set_viewport_size(PHONE)
    rail = page.get_by_role("navigation", name="Pages", exact=True)
    await expect(rail).to_be_hidden()
    await page.get_by_role("button", name="Pages").click()
    await rail.get_by_role("link", name="Tasks", exact=True).click()

    await expect(page.get_by_role("heading", name="Tasks", exact=True)).to_be_visible()
    await expect(rail).to_be_hidden()


async def test_every_file_has_the_strict_policy_and_no_other_origin_is_named(stocked: Service) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{stocked.url}/console/") as answer:
            page = await answer.text()
            assert answer.headers["Content-Security-Policy"] == CONSOLE_POLICY.decode()
            assert answer.headers["Cache-Control"] == "no-cache"
            tag = answer.headers["ETag"]
        async with session.get(f"{stocked.url}/console/", headers={"If-None-Match": tag}) as answer:
            assert answer.status == 304
        for name in re.findall(r'(?:src|href)="([^"]+)"', page):
            async with session.get(f"{stocked.url}/console/{name}", headers={"Accept-Encoding": "gzip"}) as answer:
                assert answer.status == 200
                assert answer.headers["Content-Security-Policy"] == CONSOLE_POLICY.decode()
                assert answer.headers["Content-Encoding"] == "gzip"
                if name.startswith("assets/"):
                    assert "immutable" in answer.headers["Cache-Control"]
    assert not re.search(r"https?://", page)
    assert "unsafe" not in CONSOLE_POLICY.decode()


async def test_the_front_page_sends_browsers_to_the_console_and_clients_json(stocked: Service) -> None:
    async with aiohttp.ClientSession() as session:
        accept = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
        async with session.get(stocked.url, headers=accept, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "console/")
        async with session.get(stocked.url) as answer:
            assert (await answer.json())["console"] == "/console/"
        async with session.get(f"{stocked.url}/console", allow_redirects=False) as answer:
            assert answer.headers["Location"] == "console/"


class Prefixed(HttpServer):
    """A proxy that serves a service below `/tools/tasks/`, as nginx does."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def routes(self, app: web.Application) -> None:
        app.router.add_route("*", "/tools/tasks/{rest:.*}", self._pass_on)

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        path = request.raw_path.removeprefix("/tools/tasks")
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method,
                self._service + path,
                headers=headers,
                data=await request.read(),
                allow_redirects=False,
            ) as answer,
        ):
            kept = {name: value for name, value in answer.headers.items() if name.lower() != "content-length"}
            return web.Response(status=answer.status, headers=kept, body=await answer.read())


@pytest_asyncio.fixture(loop_scope="session")
async def prefixed(stocked: Service) -> AsyncIterator[str]:
    async with Prefixed(stocked.url) as proxy:
        yield f"{proxy.base_url}/tools/tasks"


async def test_the_console_works_under_a_path_prefix(prefixed: str, console: Console) -> None:
    page = await console.go(f"{prefixed}/")
    await page.get_by_label("Token").fill(token("root", "admin"))
    await page.get_by_role("button", name="Connect").click()
    await page.get_by_role("navigation", name="Pages", exact=True).get_by_role("link", name="Tasks", exact=True).click()

    await expect(page.get_by_role("row")).to_have_count(16)
    assert page.url == f"{prefixed}/console/#/tasks"


async def test_keys_move_between_pages_and_are_listed(console: Console, stocked: Service) -> None:
    page = await console.open(stocked)
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    await page.keyboard.press("g")
    await page.keyboard.press("t")
    await expect(page.get_by_role("heading", name="Tasks", exact=True)).to_be_visible()
    await page.keyboard.press("?")
    keys = page.get_by_role("dialog", name="Keys")
    await expect(keys).to_contain_text("Retry the row or the selection")
    await check_accessible(page)

    await keys.get_by_label("Single keys act").uncheck()
    await page.keyboard.press("Escape")
    await expect(keys).to_be_hidden()
    await page.keyboard.press("g")
    await page.keyboard.press("o")
    await page.keyboard.press("Control+k")
    await expect(page.get_by_role("dialog", name="Go to")).to_be_visible()
    await expect(page.get_by_role("heading", name="Tasks", exact=True)).to_be_visible()


async def test_the_palette_goes_to_a_pasted_id_a_type_and_a_page(console: Console, stocked: Service) -> None:
    wanted = (await stocked.alice.tasks())[0]["id"]
    page = await console.open(stocked)
    palette = page.get_by_role("dialog", name="Go to")
    for typed, address in (
        (wanted, re.compile(r"#/task/" + re.escape(wanted.replace("~", "~")))),
        ("broken", re.compile(r"broken")),
        ("tasks", re.compile(r"#/tasks$")),
    ):
        await page.keyboard.press("Control+k")
        await expect(palette).to_be_visible()
        await page.keyboard.type(typed)
        await expect(palette.get_by_role("option").first).to_contain_text(typed, ignore_case=True)
        await page.keyboard.press("Enter")
        await expect(palette).to_be_hidden()
        await expect(page).to_have_url(address)


async def test_the_calls_of_a_page_are_shown_as_curl_without_the_token(console: Console, stocked: Service) -> None:
    page = await console.open(stocked, "/tasks?status=FAILED")
    await expect(page.get_by_role("row")).to_have_count(4)
    await page.keyboard.press("i")
    dialog = page.get_by_role("dialog", name="The calls of this page")

    await expect(dialog).to_contain_text(f"{stocked.url}/api/tasks?status=FAILED")
    text = await dialog.inner_text()
    assert "Bearer $TOKEN" in text
    assert token("root", "admin").split(".")[0] not in text


async def test_an_unknown_page_says_so(console: Console, stocked: Service) -> None:
    page = await console.open(stocked, "/nope")

    await expect(page.get_by_role("heading", name="There is no such page")).to_be_visible()


async def test_an_outage_keeps_the_old_data_and_ends_by_itself(console: Console, stocked: Service) -> None:
    console.allow("Failed to load resource")
    page = await console.open(stocked, "/tasks")
    await expect(page.get_by_role("row")).to_have_count(16)

    async def refuse(route: Route) -> None:
        await route.abort()

    await page.route("**/api/**", refuse)
    await expect(page.get_by_text("reconnecting")).to_be_visible()
    await expect(page.get_by_role("row")).to_have_count(16)
    await page.unroute("**/api/**")
    await expect(page.get_by_text("reconnecting")).to_be_hidden()


async def test_a_page_is_painted_before_its_data_comes(console: Console, stocked: Service) -> None:
    held: list[Route] = []

    async def hold(route: Route) -> None:
        held.append(route)

    await console.context.route("**/api/**", hold)
    page = await console.open(stocked)

    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    await expect(page.locator(".tiles").get_by_role("link", name="waiting")).to_contain_text("\N{EN DASH}")
    for route in held:
        await route.continue_()
    await console.context.unroute("**/api/**")
    await expect(page.locator(".tiles").get_by_role("link", name="waiting")).to_contain_text("6")


async def tab_stops(page: Page, count: int) -> list[str]:
    """Return what is focused by each press of Tab."""
    found = []
    for _ in range(count):
        await page.keyboard.press("Tab")
        found.append(await page.evaluate("() => document.activeElement.textContent.trim()"))
    return found


async def test_the_first_tab_stop_skips_the_rail(console: Console, stocked: Service) -> None:
    page = await console.open(stocked)
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    assert (await tab_stops(page, 1)) == ["To the content"]
    await page.keyboard.press("Enter")

    assert await page.evaluate("() => document.activeElement.id") == "main"


async def test_storage_that_is_denied_changes_nothing_but_what_is_kept(console: Console, stocked: Service) -> None:
    await console.context.add_init_script(
        "for (const name of ['localStorage', 'sessionStorage'])"
        " Object.defineProperty(window, name, { get() { throw new DOMException('denied', 'SecurityError'); } });"
    )
    page = await console.open(stocked, "/tasks")

    await expect(page.get_by_role("row")).to_have_count(16)


def test_no_source_makes_html_of_text() -> None:
    sources = [*(ROOT / "console" / "src").rglob("*.ts"), *(ROOT / "console" / "src").rglob("*.tsx")]
    assert sources
    for source in sources:
        if source.name != "generated.ts":
            found = re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", source.read_text()
            )
            assert not found, f"{source}: {found}"
