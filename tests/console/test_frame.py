"""The frame that all pages share: tokens, keys, the policy, path prefixes."""

from __future__ import annotations

from playwright.async_api import expect

from testkit.service import Service, token

from .conftest import Console, check_accessible


async def test_a_token_in_the_address_is_taken_out_at_once_and_kept_in_the_tab_only(
    console: Console, stocked: Service
) -> None:
    page = await console.open(stocked, "/tasks")
    await expect(page.get_by_role("heading", name="Tasks", exact=True)).to_be_visible()

    assert page.url == f"{stocked.url}/console/#/tasks"
    kept = await page.evaluate("() => [Object.keys(sessionStorage), Object.keys(localStorage), document.cookie]")
    assert kept == [["taskstream.token"], [], ""]


async def test_a_token_can_be_pasted(console: Console, stocked: Service) -> None:
    page = await console.go(f"{stocked.url}/console/")
    await page.get_by_label("Token").fill(token("alice"))
    await check_accessible(page)
    await page.get_by_role("button", name="Connect").click()

    await expect(page.get_by_text("alice")).to_be_visible()
