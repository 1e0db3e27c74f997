"""`taskstream webhooks`: endpoints that are told of events, and what they were sent."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from .client import path
from .commands import NounCommands, OperatorSession
from .confirmation import confirm_count
from .nouns import Body, change, show, sure, yes_option
from .output import Column
from .text import Styled, clock_time, duration, number, plain, state, when, words

STATUSES = ("waiting", "delivered", "failed")


def define(parser: argparse.ArgumentParser) -> None:
    """Add the commands."""
    commands = NounCommands(parser)
    listing = commands.add("list", list_webhooks, "list webhooks with their backlog", lists=True)
    listing.add_argument("--owner", metavar="USER", help="of this user; default: all that you may see")
    commands.add("show", show_webhook, "show a webhook", "webhook")
    creating = commands.add("create", create_webhook, "register a webhook; prints its secret, once", "receiver")
    creating.add_argument("--event", action="append", metavar="NAME", help="task.failed, ended, all …; default: ended")
    creating.add_argument("--type", action="append", metavar="NAME", help="only of tasks of these types")
    creating.add_argument("--description", help="for people")
    commands.add("enable", enable, "send events again, also after a 410", "webhook")
    commands.add("disable", disable, "send nothing; events of that time are never sent", "webhook")
    commands.add("rotate", rotate, "make a new secret and print it, once", "webhook")
    commands.add("test", send_test, "send a test message", "webhook")
    deliveries = commands.add("deliveries", list_deliveries, "list what was sent", "webhook", lists=True)
    deliveries.add_argument("--status", choices=STATUSES)
    deliveries.add_argument("--since", metavar="TIME", help="created at or after, such as 1h")
    delivery = commands.add("delivery", show_delivery, "show a delivery with its tries", "webhook", "delivery")
    delivery.add_argument("--body", action="store_true", help="print the message as it was sent")
    resending = commands.add("resend", resend, "send deliveries again: one by its id, or all that failed", "webhook")
    resending.add_argument("delivery", nargs="?", metavar="DELIVERY", help="its id; left out: those that failed")
    resending.add_argument("--status", choices=("failed", "delivered"), default="failed", help="default: failed")
    resending.add_argument("--since", metavar="TIME", help="created at or after")
    resending.add_argument("--before", metavar="TIME", help="created before")
    resending.add_argument("--dry-run", action="store_true", help="send nothing; count")
    yes_option(resending)
    deleting = commands.add("delete", delete_webhook, "delete a webhook", "webhook")
    yes_option(deleting)


def condition(session: OperatorSession, webhook: Mapping[str, Any]) -> Styled:
    if not webhook["active"]:
        return Styled("disabled", "red")
    if webhook["pausedUntil"]:
        return Styled(f"paused, {when(webhook['pausedUntil'], session.now)}", "yellow")
    return Styled("active", "green")


async def list_webhooks(session: OperatorSession) -> int:
    """Print webhooks."""

    def count(name: str) -> Any:
        return lambda webhook: None if webhook.get("counts") is None else number(webhook["counts"][name])

    columns = [
        Column("ID", lambda webhook: webhook["id"]),
        Column("STATE", lambda webhook: condition(session, webhook)),
        Column("WAITING", count("waiting"), right=True),
        Column("FAILED", count("failed"), right=True),
        Column("LAG", lambda webhook: duration(webhook.get("lagSeconds")), right=True, optional=True),
        Column("URL", lambda webhook: webhook["url"], long=True),
        Column("EVENTS", lambda webhook: words(webhook["events"]), long=True, optional=True),
    ]
    owner = session.options.owner
    query = [("counts", "true"), *([("owner", owner)] if owner else [])]
    empty = "no webhooks: `taskstream webhooks create URL`"
    return await session.table("/api/webhooks", "webhooks", columns, query, empty)


def _facts(session: OperatorSession, webhook: Body) -> Iterable[tuple[str, object]]:
    counts = webhook.get("counts") or {}
    yield "id", webhook["id"]
    yield "owner", webhook["owner"]
    yield "url", webhook["url"]
    yield "description", webhook["description"]
    yield "state", condition(session, webhook)
    yield "why disabled", webhook["disabledReason"]
    yield "events", words(webhook["events"])
    yield "types", words(webhook["types"]) if webhook["types"] else "all"
    yield "task", webhook["taskId"]
    for name in STATUSES:
        yield name, number(counts[name]) if name in counts else None
    yield "lag", duration(webhook["lagSeconds"]) if webhook.get("lagSeconds") is not None else None
    yield "created", clock_time(webhook["createdAt"])


async def show_webhook(session: OperatorSession) -> int:
    """Print one webhook."""
    return await show(session, path("webhooks", session.options.webhook), _facts)


async def create_webhook(session: OperatorSession) -> int:
    """Register a webhook; print its id and secret."""
    options = session.options
    given = {"events": options.event, "types": options.type, "description": options.description}
    body = {"url": options.receiver} | {name: value for name, value in given.items() if value is not None}
    return await change(
        session,
        "POST",
        "/api/webhooks",
        body,
        lambda answer: f"{answer['webhook']['id']} {answer['secret']}",
    )


async def enable(session: OperatorSession) -> int:
    """Make a webhook active."""
    return await _set_active(session, is_active=True)


async def disable(session: OperatorSession) -> int:
    """Make a webhook inactive."""
    return await _set_active(session, is_active=False)


async def _set_active(session: OperatorSession, *, is_active: bool) -> int:
    webhook = session.options.webhook
    done = f"{'enabled' if is_active else 'disabled'} {webhook}"
    return await change(session, "PATCH", path("webhooks", webhook), {"active": is_active}, done)


async def rotate(session: OperatorSession) -> int:
    """Make a new secret."""
    where = path("webhooks", session.options.webhook, "secret")
    return await change(session, "POST", where, None, lambda answer: str(answer["secret"]))


async def send_test(session: OperatorSession) -> int:
    """Send a test."""
    webhook = session.options.webhook

    def done(answer: Body) -> str:
        return f"sent as {answer['id']}: `taskstream webhooks delivery {webhook} {answer['id']}` shows the answer"

    return await change(session, "POST", path("webhooks", webhook, "test"), None, done)


async def list_deliveries(session: OperatorSession) -> int:
    """Print deliveries, the last changed first."""
    options = session.options

    def answered(delivery: Mapping[str, Any]) -> str | None:
        last = delivery["lastAttempt"]
        return None if last is None else last["error"] or f"{last['status']} in {number(last['elapsedMs'])} ms"

    columns = [
        Column("ID", lambda delivery: delivery["id"]),
        Column("STATUS", lambda delivery: state(delivery["status"])),
        Column("EVENT", lambda delivery: delivery["type"]),
        Column("TRIES", lambda delivery: number(delivery["attempts"]), right=True),
        Column("CREATED", lambda delivery: when(delivery["createdAt"], session.now, exact=options.exact)),
        Column("LAST ANSWER", answered, long=True),
        Column("TASK", lambda delivery: delivery["taskId"], optional=True),
    ]
    query = [(name, value) for name in ("status", "since") if (value := getattr(options, name))]
    return await session.table(path("webhooks", options.webhook, "deliveries"), "deliveries", columns, query)


async def show_delivery(session: OperatorSession) -> int:
    """Print one delivery, or its message."""
    options, output = session.options, session.output
    where = path("webhooks", options.webhook, "deliveries", options.delivery)
    answer = await session.client.get(f"{where}/body" if options.body else where)
    found = answer.body
    if output.json:
        output.raw(answer.content)
    elif options.body:
        output.line(f"{found['method']} {found['url']}", "bold")
        output.facts((name, value) for name, value in found["headers"].items())
        output.line()
        output.console.print(plain(found["body"], lines=True), soft_wrap=True)
    else:
        output.facts(
            [
                ("id", found["id"]),
                ("event", found["type"]),
                ("task", found["taskId"]),
                ("status", state(found["status"])),
                ("tries", number(found["attempts"])),
                ("created", clock_time(found["createdAt"])),
                ("next try", clock_time(found["nextAttemptAt"]) if found["nextAttemptAt"] else None),
            ]
        )
        for one in found.get("tries") or ():
            said = one["error"] or f"answered {one['status']}"
            output.line(f"  {clock_time(one['at'])}  {said}, {number(one['elapsedMs'])} ms")
    return 0


async def resend(session: OperatorSession) -> int:
    """Send one delivery again, or those of a status after a confirmation of their number."""
    options, output = session.options, session.output
    where = path("webhooks", options.webhook, "deliveries")
    if options.delivery:
        one = path("webhooks", options.webhook, "deliveries", options.delivery, "retry")
        return await change(session, "POST", one, None, f"sent again: {options.delivery}")
    body: dict[str, Any] = {"status": options.status, "dryRun": True}
    body |= {name: value for name in ("since", "before") if (value := getattr(options, name))}
    matched = await _resend_pages(session, f"{where}/retry", body)
    if not options.dry_run and matched:
        confirm_count(output, matched, "Send again", "", yes=options.yes, always=False, what="deliveries")
        matched = await _resend_pages(session, f"{where}/retry", body | {"dryRun": False})
    if output.json:
        output.raw(f'{{"dryRun":{str(options.dry_run).lower()},"matched":{matched}}}'.encode())
    else:
        output.line(f"{'would be sent' if options.dry_run else 'sent'} again: {number(matched)}")
    return 0


async def _resend_pages(session: OperatorSession, where: str, body: dict[str, Any]) -> int:
    matched: int = 0
    cursor = None
    while True:
        answer = (await session.client.send("POST", where, body | {"cursor": cursor})).body
        matched += answer["matched"]
        cursor = answer["nextCursor"]
        if not cursor:
            return matched


async def delete_webhook(session: OperatorSession) -> int:
    """Delete a webhook."""
    webhook = session.options.webhook
    sure(session, f"Delete the webhook {webhook}?")
    return await change(session, "DELETE", path("webhooks", webhook), None, f"deleted {webhook}")
