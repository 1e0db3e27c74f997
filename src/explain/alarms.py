"""Alarms: the conditions of the service that need a person, decided from its present state. Pure.

Each says in plain English what is wrong and what to do. Nothing is an alarm that the service repairs alone within
moments. The order: the critical ones first, each kind together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, TypeAlias, get_args
from urllib.parse import quote

from msgspec import Struct

from ..commands.server import NOT_CHECKED, CircuitIsClosed, CircuitIsHalfOpen, CircuitIsOpen, Present
from ..instants import iso
from .situation import DisabledWebhook, FailedSchedule, MissedSchedule, PausedWebhook, PoolLoad, Situation, TypeLoad

AlarmKind: TypeAlias = Literal[
    # critical
    "store-unreachable",  # NATS does not answer
    "store-refuses",  # new work is refused for want of space
    "service-halted",  # a background service has stopped at an event it cannot read
    "unreadable-event",  # a server, type or pool is left out for the same reason
    "process-missing",  # a process of this `up` does not run
    "no-worker",  # no worker gives a sign of life
    "held-by-nobody",  # tasks are held, and no scheduler releases them
    "oldest-waiting-while-slots-free",  # a task could start on a free slot, and nothing starts
    "type-without-server",  # tasks wait whose type no available server serves
    # warnings
    "no-server-fits",  # tasks wait for a label or model that no available server of their type has
    "server-offline",
    "server-removed",  # for being offline; it comes back when it answers
    "circuit-open",
    "pool-paused-with-backlog",
    "type-paused-with-backlog",
    "dead-letters-growing",  # many tasks fail for good
    "schedule-failed",
    "schedule-missed",  # its last runs were due while nothing could fire them
    "webhook-disabled",
    "webhook-paused",
    "store-nearly-full",
    "quota-nearly-full",
    "queue-report-old",  # the scheduler has not reported lately
    "index-behind",
    "clocks-differ",
    "not-durable",  # NATS acknowledges before it has synced
]
KINDS: tuple[AlarmKind, ...] = get_args(AlarmKind)
Severity: TypeAlias = Literal["critical", "warning"]
CRITICAL: frozenset[AlarmKind] = frozenset(KINDS[: KINDS.index("no-server-fits")])

STUCK_AFTER = timedelta(seconds=30)
"""How long nothing may start from a queue while a server has a free slot for its first task. Workers look again after
seconds, also after an error; a lost worker's servers are taken over after its lease."""
REPORT_LATE = timedelta(seconds=10)
"""Age of a scheduler's report that is too old. One comes each second; another scheduler takes over after the lease."""
TURN_AFTER = timedelta(seconds=30)
"""How long tasks may wait for nothing but the scheduler."""
UNCHECKED_FOR = timedelta(minutes=1)
"""How long a new server may be offline because nothing has checked it."""
PAUSED_FOR = timedelta(minutes=1)
"""How long a receiver may pause its webhook."""
MOST_FAILED = 10
"""Tasks that fail for good within the window before it is an alarm."""
FAILED_PERCENT = 5.0
"""Likewise, their part of all that ended."""
LARGEST_CLOCK_DIFFERENCE_MS = 1_000.0
MOST_OF_A_KIND = 50
"""Alarms of one kind; the others are counted."""


class AlarmSubject(NamedTuple):
    """What an alarm is about."""

    kind: Literal["server", "pool", "type", "task", "schedule", "webhook", "service", "process"]
    id: str


class Alarm(Struct, frozen=True, kw_only=True):
    """A condition that needs a person."""

    kind: AlarmKind
    severity: Severity
    since: datetime | None
    """UTC. Since when it holds; None: not known."""
    text: str
    """What is wrong and what to do."""
    subject: AlarmSubject | None
    """None: the service."""
    link: str
    """Where the console shows it."""
    data: Mapping[str, Any]
    """The evidence, with the names of the wire format; instants are datetimes."""


class Alarms(NamedTuple):
    alarms: list[Alarm]
    more: dict[AlarmKind, int]
    """How many alarms of a kind are left out."""


def alarms_of(situation: Situation) -> Alarms:
    """Return the alarms of a situation: critical ones first, each kind together, the oldest of a kind first."""
    found = sorted(_all(situation), key=_order)
    shown: list[Alarm] = []
    counts: dict[AlarmKind, int] = {}
    for alarm in found:
        counts[alarm.kind] = counts.get(alarm.kind, 0) + 1
        if counts[alarm.kind] <= MOST_OF_A_KIND:
            shown.append(alarm)
    return Alarms(shown, {kind: count - MOST_OF_A_KIND for kind, count in counts.items() if count > MOST_OF_A_KIND})


def _order(alarm: Alarm) -> tuple[int, bool, str, str]:
    since = iso(alarm.since) if alarm.since else ""
    return KINDS.index(alarm.kind), alarm.since is None, since, alarm.subject.id if alarm.subject else ""


def _all(it: Situation) -> Iterator[Alarm]:
    yield from _of_store(it)
    yield from _of_processes(it)
    yield from _of_queues(it)
    yield from _of_servers(it)
    yield from _of_failures(it)
    yield from of_schedules(it.schedules, it.missed)
    yield from of_webhooks(it.disabled, it.paused, it.now)


def _alarm(
    kind: AlarmKind,
    text: str,
    link: str,
    subject: AlarmSubject | None = None,
    since: datetime | None = None,
    **data: Any,
) -> Alarm:
    severity: Severity = "critical" if kind in CRITICAL else "warning"
    return Alarm(kind=kind, severity=severity, since=since, text=text, subject=subject, link=link, data=data)


# The store, the processes


def _of_store(it: Situation) -> Iterator[Alarm]:
    if not it.is_store_reachable:
        yield _alarm(
            "store-unreachable",
            "NATS does not answer. Nothing acknowledged is lost, and new tasks are refused until it does. Start NATS, "
            "and check the network to it.",
            "#/settings",
        )
    if it.store is not None and it.store.text:
        yield _alarm(
            "store-nearly-full" if it.store.accepting else "store-refuses",
            _sentence(it.store.text),
            "#/settings",
            percent=it.store.percent,
            freeBytes=it.store.free_bytes,
        )
    if it.crowded_owners:
        owners = "1 owner has" if it.crowded_owners == 1 else f"{it.crowded_owners} owners have"
        yield _alarm(
            "quota-nearly-full",
            f"{owners} used more than 80 % of the quota of stored bytes. Raise `stored` of their limits, or set "
            "TASKSTREAM_TASK_RETENTION.",
            "#/limits",
            owners=it.crowded_owners,
        )
    if it.clock_difference_ms is not None and abs(it.clock_difference_ms) > LARGEST_CLOCK_DIFFERENCE_MS:
        yield _alarm(
            "clocks-differ",
            f"NATS' clock differs from this machine's by {it.clock_difference_ms / 1000:+.1f} s, so retries and "
            "deadlines come at wrong times. Synchronise the clocks.",
            "#/settings",
            differenceMs=round(it.clock_difference_ms, 1),
        )
    if not it.is_durable:
        yield _alarm(
            "not-durable",
            "NATS acknowledges before it has synced: a power cut can lose acknowledged tasks. Set "
            "`jetstream { sync_interval: always }`.",
            "#/settings",
        )


def _of_processes(it: Situation) -> Iterator[Alarm]:
    for name, why in it.halted.items():
        yield _alarm(
            "service-halted",
            f"The service {name} has stopped: {why}. Run the version that wrote the event.",
            "#/settings",
            AlarmSubject("service", name),
            reason=why,
        )
    for key, why in it.unreadable.items():
        yield _alarm(
            "unreadable-event",
            f"{key} is left out, as one of its events does not decode: {why}. Run the version that wrote the event.",
            "#/fleet",
            _subject_of_key(key),
            reason=why,
        )
    for name in it.missing:
        yield _alarm(
            "process-missing",
            f"The process {name} does not run now. `taskstream up` starts it again; its log says why it ended.",
            "#/settings",
            AlarmSubject("process", name),
        )
    if it.worker_seen_at is not None and (silent := it.now - it.worker_seen_at) > it.worker_late:
        yield _alarm(
            "no-worker",
            f"No worker has given a sign of life for {silent.total_seconds():.0f} s, so no task starts, no schedule "
            "runs and no webhook is sent. Start a worker, or look at the log of the last one.",
            "#/settings",
            since=it.worker_seen_at,
        )
    if it.index_lag is not None:
        yield _alarm(
            "index-behind",
            f"The index of tasks is {it.index_lag:,} events behind, so lists and figures are old or refused. Tasks are "
            "not affected. It catches up alone; if it does not, give the API more CPU or a faster disk.",
            "#/settings",
            lagEvents=it.index_lag,
        )


def _subject_of_key(key: str) -> AlarmSubject | None:
    kind, _, name = key.partition(".")
    match kind:
        case "server" | "type" | "pool":
            return AlarmSubject(kind, name)
        case _:
            return None


# Queues


def _of_queues(it: Situation) -> Iterator[Alarm]:
    is_silent = it.report_due_since is not None and it.now - it.report_due_since > REPORT_LATE
    if is_silent:
        seconds = (it.now - it.report_due_since).total_seconds() if it.report_due_since else 0.0
        if it.held:
            yield _alarm(
                "held-by-nobody",
                f"{_tasks(it.held)} held, and no scheduler has reported for {seconds:.0f} s, so nothing releases "
                "them. Check that a worker runs, and its log for `scheduler`.",
                "#/tasks?held=true",
                since=it.report_due_since,
                held=it.held,
            )
        yield _alarm(
            "queue-report-old",
            f"No scheduler has reported for {seconds:.0f} s: the numbers of waiting tasks are old, and held tasks are "
            "not released. Check that a worker runs, and its log for `scheduler`.",
            "#/settings",
            since=it.report_due_since,
        )
    for pool in it.pools:
        yield from _of_pool(pool, it, is_silent=is_silent)
    for each in it.types:
        yield from _of_type(each, it)
    for stuck in it.stuck:
        if it.now - stuck.since >= STUCK_AFTER:
            yield _alarm(
                "oldest-waiting-while-slots-free",
                f"Nothing has started from the pool {stuck.pool} for {(it.now - stuck.since).total_seconds():.0f} s, "
                f"although the server {stuck.server_id} has a free slot and {_tasks(stuck.waiting)} waiting. Check "
                "that a worker runs, and its log for `dispatcher`.",
                f"#/task/{_part(stuck.task_id)}",
                AlarmSubject("pool", stuck.pool),
                stuck.since,
                taskId=stuck.task_id,
                serverId=stuck.server_id,
                waiting=stuck.waiting,
            )


def _of_pool(pool: PoolLoad, it: Situation, *, is_silent: bool) -> Iterator[Alarm]:
    subject = AlarmSubject("pool", pool.name)
    waiting = pool.waiting_for.get("pool-paused", 0)
    if pool.pause is not None and waiting:
        yield _alarm(
            "pool-paused-with-backlog",
            f"The pool {pool.name} is paused by {pool.pause.by.id}{_because(pool.pause.reason)}, and "
            f"{_tasks(waiting)} waiting for it. Resume it when its servers are ready.",
            "#/pools",
            subject,
            pool.pause.since,
            waiting=waiting,
            by=pool.pause.by.id,
            reason=pool.pause.reason,
        )
    unfit = pool.waiting_for.get("no-server", 0)
    if unfit and all(each.is_served for each in it.types if pool.name in each.pools and each.waiting):
        yield _alarm(
            "no-server-fits",
            f"{_tasks(unfit)} waiting in the pool {pool.name} for a label or model that no available server of "
            "their type has. `Why` of such a task names it. Register a server with it, or cancel the tasks.",
            f"#/tasks?status=waiting&pool={_part(pool.name)}",
            subject,
            waiting=unfit,
        )
    turns = pool.waiting_for.get("turn", 0)
    if turns > 0 and not is_silent and pool.turn_since is not None and it.now - pool.turn_since >= TURN_AFTER:
        yield _alarm(
            "held-by-nobody",
            f"{_tasks(turns)} held in the pool {pool.name}, and nothing holds them any more: the scheduler should "
            "have released them. Check the log of the workers for `scheduler`.",
            f"#/tasks?held=true&pool={_part(pool.name)}",
            subject,
            pool.turn_since,
            held=turns,
        )


def _of_type(it: TypeLoad, situation: Situation) -> Iterator[Alarm]:
    if not it.waiting:
        return
    subject, link = AlarmSubject("type", it.name), f"#/types/{_part(it.name)}"
    if it.pause is not None:
        yield _alarm(
            "type-paused-with-backlog",
            f"The type {it.name} is paused by {it.pause.by.id}{_because(it.pause.reason)}, and {_tasks(it.waiting)} "
            "waiting. Resume it when its servers are ready.",
            link,
            subject,
            it.pause.since,
            waiting=it.waiting,
            by=it.pause.by.id,
            reason=it.pause.reason,
        )
        return
    unserved = sum(pool.waiting_for.get("no-server", 0) for pool in situation.pools if pool.name in it.pools)
    if not it.is_served and unserved:
        yield _alarm(
            "type-without-server",
            f"No server that is online and not in maintenance serves the type {it.name}, and {_tasks(it.waiting)} "
            "waiting for one. Register one, or bring one back.",
            link,
            subject,
            waiting=it.waiting,
        )


# Servers


def _of_servers(it: Situation) -> Iterator[Alarm]:
    for server in it.servers:
        subject, link = AlarmSubject("server", server.server_id), f"#/fleet/{_part(server.server_id)}"
        running = it.running.get(server.server_id, 0)
        if not server.online and not server.maintenance and not _is_new(server, it.now):
            yield _alarm(
                "server-offline",
                f"The server {server.server_id} is offline: {server.status_reason or 'it gives no sign of life'}. "
                "Look at the server; a check brings it back once it answers.",
                link,
                subject,
                server.changed_at,
                reason=server.status_reason,
                running=running,
            )
        match server.circuit:
            case CircuitIsOpen(until=until, reason=reason, failures=failures):
                yield _alarm(
                    "circuit-open",
                    f"The server {server.server_id} gets no tasks until {iso(until)}: {_cause(reason)}. Look at the "
                    "errors of its last tasks.",
                    link,
                    subject,
                    reason=reason,
                    openings=failures,
                    until=until,
                )
            case CircuitIsHalfOpen(reason=reason, failures=failures):
                yield _alarm(
                    "circuit-open",
                    f"The server {server.server_id} gets one task as a trial: {_cause(reason)}. Look at the errors of "
                    "its last tasks.",
                    link,
                    subject,
                    reason=reason,
                    openings=failures,
                )
            case CircuitIsClosed():
                pass
    for removed in it.removed:
        if removed.is_kept:
            yield _alarm(
                "server-removed",
                f"The server {removed.server_id} was removed: {removed.reason}. It is restored when it answers; "
                "repair it, or delete it for good.",
                f"#/fleet/{_part(removed.server_id)}",
                AlarmSubject("server", removed.server_id),
                removed.removed_at,
                reason=removed.reason,
            )


def _is_new(server: Present, now: datetime) -> bool:
    return server.status_reason in ("", NOT_CHECKED) and now - server.registered_at < UNCHECKED_FOR


# Failures, schedules, webhooks


def _of_failures(it: Situation) -> Iterator[Alarm]:
    ends = it.ends
    if ends is None or ends.failed < MOST_FAILED or 100 * ends.failed < FAILED_PERCENT * ends.ended:
        return
    percent = round(100 * ends.failed / ends.ended, 1)
    minutes = ends.window // timedelta(minutes=1)
    yield _alarm(
        "dead-letters-growing",
        f"{ends.failed:,} tasks failed for good in the last {minutes} minutes: {percent:g} % of those that ended. Look "
        "at their errors, and retry them once the cause is gone.",
        "#/dead-letters",
        failed=ends.failed,
        ended=ends.ended,
        percent=percent,
        minutes=minutes,
    )


def of_schedules(schedules: Sequence[FailedSchedule], missed: Sequence[MissedSchedule]) -> Iterator[Alarm]:
    """Yield the alarms of schedules."""
    for each in schedules:
        place = f" (at {each.path} of its task)" if each.path else ""
        yield _alarm(
            "schedule-failed",
            f"The last run of the schedule {each.name or each.id} could not be submitted: {each.error}{place}. Change "
            "the schedule, or what refuses it; the next run tries again.",
            f"#/schedules?id={_part(each.id)}",
            AlarmSubject("schedule", each.id),
            each.at,
            error=each.error,
            path=each.path,
            owner=each.owner,
        )
    for late in missed:
        yield _alarm(
            "schedule-missed",
            f"The last due runs of the schedule {late.name or late.id} were missed: nothing could fire them in time. "
            "Run it now if they matter; the alarm ends with its next run. `missed: catch_up` makes up for such runs.",
            f"#/schedules?id={_part(late.id)}",
            AlarmSubject("schedule", late.id),
            late.at,
            owner=late.owner,
        )


def of_webhooks(disabled: Sequence[DisabledWebhook], paused: Sequence[PausedWebhook], now: datetime) -> Iterator[Alarm]:
    """Yield the alarms of webhooks."""
    for off in disabled:
        yield _alarm(
            "webhook-disabled",
            f"The webhook to {off.url} was disabled: {off.reason}. Correct the receiver and enable the webhook, or "
            "delete it.",
            f"#/webhooks/{_part(off.id)}",
            AlarmSubject("webhook", off.id),
            off.at,
            reason=off.reason,
            owner=off.owner,
        )
    for each in paused:
        if now - each.since < PAUSED_FOR:
            continue
        yield _alarm(
            "webhook-paused",
            f"The receiver {each.url} has accepted nothing since {iso(each.since)} and asks for a pause, now until "
            f"{iso(each.until)}. Make it accept more, or change the webhook's URL.",
            f"#/webhooks/{_part(each.id)}",
            AlarmSubject("webhook", each.id),
            each.since,
            until=each.until,
            pauses=each.pauses,
            owner=each.owner,
        )


def _tasks(count: int) -> str:
    return "1 task is" if count == 1 else f"{count:,} tasks are"


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _cause(reason: str) -> str:
    return reason or "its attempts failed repeatedly"


def _sentence(text: str) -> str:
    """Return a text of other modules as a sentence."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", ")")) else ".")


def _part(name: str) -> str:
    """Return a name as one part of a link."""
    return quote(name, safe="~")
