"""API keys in the console: made, shown once, listed and revoked."""

from __future__ import annotations

from playwright.async_api import expect

from testkit.service import Service

from .conftest import Console, check_accessible, settled

HOSTILE = '<img src=x onerror="alert(1)">'


async def test_a_key_is_shown_once_works_and_is_in_no_storage(console: Console, service: Service) -> None:
    page = await console.open(service, "/keys", subject="alice", roles=("user",))
    await page.get_by_role("button", name="New API key").click()
    await check_accessible(page)
    await page.get_by_label("Name").fill(HOSTILE)
    await page.get_by_label("Types").fill("default")
    await page.get_by_role("button", name="Make the key").click()
    key = await page.locator(".secret code").text_content()
    done = page.get_by_role("button", name="Done")
    await expect(done).to_be_disabled()
    await page.get_by_label("I have stored it").check()
    await done.click()

    await expect(page.get_by_role("link", name=HOSTILE)).to_be_visible()
    assert key is not None
    assert key.startswith("tsk_")
    assert (await service.bearing(key).get("/api/tasks")).status == 200
    kept = await page.evaluate(
        "() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.body.innerText])"
    )
    assert key not in kept
    await settled(page)
    await check_accessible(page)


async def test_a_key_is_revoked_with_a_reason_after_a_question(console: Console, service: Service) -> None:
    made = await service.alice.done("POST", "/api/keys", {"name": "a laptop", "roles": ["user"]})
    page = await console.open(service, "/keys", subject="alice", roles=("user",))
    await page.get_by_role("button", name="Revoke", exact=True).click()
    await page.get_by_label("Reason").fill("stolen")
    await page.get_by_role("button", name="Revoke the key").click()

    await expect(page.get_by_text("revoked", exact=True)).to_be_visible()
    await expect(page.get_by_text("stolen")).to_be_visible()
    assert (await service.bearing(made["key"]).get("/api/me")).status == 401
    await expect(page.get_by_role("button", name="Revoke", exact=True)).to_be_hidden()


async def test_admins_see_the_keys_of_all_and_others_their_own(console: Console, service: Service) -> None:
    for client, name in ((service.alice, "of alice"), (service.bob, "of bob")):
        await client.done("POST", "/api/keys", {"name": name, "roles": ["user"]})
    page = await console.open(service, "/keys")
    await expect(page.get_by_role("link", name="of alice")).to_be_visible()
    await expect(page.get_by_role("link", name="of bob")).to_be_visible()

    page = await console.open(service, "/keys", subject="bob", roles=("user",))
    await expect(page.get_by_role("link", name="of bob")).to_be_visible()
    await expect(page.get_by_role("link", name="of alice")).to_be_hidden()
