"""Webhooks in the console: what was sent, what receivers answered, and what is sent again."""

from __future__ import annotations

from playwright.async_api import expect

from testkit.receiver import HookReceiver, answers, in_turn, register
from testkit.service import Service

from .conftest import Console, check_accessible, settled

HOSTILE = '<img src=x onerror="alert(1)">\u202e'


async def test_a_secret_is_shown_once_and_is_in_no_storage(console: Console, service: Service) -> None:
    async with HookReceiver() as receiver:
        page = await console.open(service, "/webhooks", subject="alice", roles=("user",))
        await page.get_by_role("button", name="New webhook").click()
        await page.get_by_label("Address").fill(receiver.url)
        await page.get_by_role("button", name="Register").click()
        secret = await page.locator(".secret code").text_content()
        done = page.get_by_role("button", name="Done")
        await expect(done).to_be_disabled()
        await page.get_by_label("I have stored it").check()
        await done.click()

        await expect(page.get_by_role("heading", name=receiver.url)).to_be_visible()
        assert secret is not None
        assert secret.startswith("whsec_")
        kept = await page.evaluate(
            "() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.body.innerText])"
        )
        assert secret not in kept


async def test_a_refused_address_is_explained_at_its_field(console: Console, service: Service) -> None:
    console.allow("400")
    page = await console.open(service, "/webhooks", subject="alice", roles=("user",))
    await page.get_by_role("button", name="New webhook").click()
    await page.get_by_label("Address").fill("http://10.0.0.1/hook")
    await page.get_by_role("button", name="Register").click()

    await expect(page.get_by_text("TASKSTREAM_WEBHOOK_ALLOW")).to_be_visible()
    assert await page.get_by_label("Address").get_attribute("aria-invalid") == "true"


async def test_a_test_is_sent_and_its_delivery_is_shown_with_the_answer(console: Console, service: Service) -> None:
    async with HookReceiver(answers(204)) as receiver:
        webhook_id, _ = await register(service.alice, receiver)
        page = await console.open(service, f"/webhooks/{webhook_id}", subject="alice", roles=("user",))
        await page.get_by_role("button", name="Send a test").click()

        panel = page.get_by_role("complementary", name="Delivery")
        await expect(panel.get_by_text("204")).to_be_visible()
        await expect(panel.get_by_text("webhook-id: msg_")).to_be_visible()
        assert [message.type for message in await receiver.has(1)] == ["webhook.test"]
        await check_accessible(page)


async def test_failed_deliveries_are_sent_again_after_a_dry_run(console: Console, service: Service) -> None:
    async with HookReceiver(in_turn(410, 204)) as receiver:
        webhook_id, _ = await register(service.alice, receiver, description=HOSTILE)
        task_id = await service.alice.submit({"payload": {}})
        await service.alice.done("POST", f"/api/task/{task_id}/cancel")
        await service.alice.until(
            f"/api/webhooks/{webhook_id}", lambda webhook: not webhook["active"], "the webhook to be disabled"
        )
        page = await console.open(service, f"/webhooks/{webhook_id}", subject="alice", roles=("user",))
        await expect(page.get_by_text(HOSTILE)).to_be_visible()
        await page.get_by_role("button", name="More").click()
        await page.get_by_role("menuitem", name="Switch on").click()
        await page.get_by_role("button", name="failed", exact=False).first.click()
        await page.get_by_role("button", name="Send 1 failed delivery again").click()
        await expect(page.get_by_text("1 delivery would be sent again")).to_be_visible()
        await page.get_by_role("button", name="Send 1", exact=True).click()

        await receiver.has(2)
        first, second = receiver.messages[:2]
        assert (first.id, first.raw) == (second.id, second.raw)
        await page.get_by_role("button", name="delivered").click()
        await expect(page.get_by_role("region", name="Deliveries").get_by_text("task.cancelled")).to_be_visible()


async def test_an_auditor_sees_deliveries_and_no_action(console: Console, service: Service) -> None:
    async with HookReceiver() as receiver:
        webhook_id, _ = await register(service.alice, receiver)
        page = await console.open(service, f"/webhooks/{webhook_id}", subject="ann", roles=("auditor",))
        await expect(page.get_by_role("heading", name=receiver.url)).to_be_visible()
        await settled(page)

        main = page.get_by_role("main")
        buttons = set(await main.get_by_role("button").all_inner_texts())
        assert buttons & {"Send a test", "Change", "More"} == set()


async def test_the_list_fits_a_phone(console: Console, service: Service) -> None:
    async with HookReceiver() as receiver:
        await register(service.alice, receiver)
        page = await console.open(service, "/webhooks", subject="alice", roles=("user",))
        await page.set_viewport_size({"width": 390, "height": 844})
        await expect(page.get_by_role("link", name=receiver.url)).to_be_visible()

        assert await page.evaluate("() => document.documentElement.scrollWidth") <= 390
        await check_accessible(page)
