"""Checks of what subscribers and receivers of webhooks received, and of what they did not."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from .evidence import AFTER_THE_END, FINAL, STATUSES, Entry, Evidence, Finding, Heard, Line, Received, State

PROGRESS = "ProgressReported"
IN_FLIGHT_SECONDS = 5.0
"""A call that was under way when a webhook was disabled arrives within the time that a receiver has to answer."""
PAUSE_SECONDS = 0.9
"""A little less than busy receivers ask for."""
MOST_UNDER_WAY = 8
"""Four calls of a sender, and four of one that took over from it before it had stored the pause."""
TOO_MANY_REQUESTS = 429
SHOWN = 5
CLOCK_SECONDS = 0.05


# Subscribers


def subscribers_receive_all(evidence: Evidence) -> Iterator[Finding]:
    """Each subscriber received every event of its tasks once, in the order of the log and as the log has it."""
    log = {entry.sequence: entry for entry in evidence.log}
    by_task = _by_task(evidence.log)
    for heard in evidence.heard:
        if heard.after is None and heard.wanted != 0:
            yield f"{heard.who} was never told anything", heard.task or ""
            continue
        if heard.wanted is not None and heard.until < heard.wanted:
            yield f"{heard.who} was told up to {heard.until}, and waited for {heard.wanted}", ""
        if heard.task is not None:
            yield from _of_the_end(heard, heard.task, by_task.get(heard.task, ()))
        told = [one.event for one in heard.told if one.event and one.event["type"] != PROGRESS]
        wanted = [entry for entry in _span(evidence.log, by_task, heard) if entry.type != PROGRESS]
        yield from _differences(heard, wanted, told)
        for event in told:
            entry = log.get(event["sequence"])
            if entry and (event["taskId"], event["event"]) != (entry.task, entry.event):
                yield f"{heard.who} was told of {entry.sequence} something else than the log says", entry.task


def _by_task(log: Sequence[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in log:
        found.setdefault(entry.task, []).append(entry)
    return found


def _of_the_end(heard: Heard, task: str, history: Sequence[Entry]) -> Iterator[Finding]:
    ends = [entry.sequence for entry in history if entry.type in FINAL | AFTER_THE_END]
    if heard.ended and heard.until not in ends:
        yield f"{heard.who} was told that there is no more after {heard.until}, which ends nothing", task
    elif ends and not heard.ended:
        yield f"{heard.who} was never told that it has all", task


def _differences(heard: Heard, wanted: Sequence[Entry], told: Sequence[Line]) -> Iterator[Finding]:
    tasks = {entry.sequence: entry.task for entry in wanted} | {event["sequence"]: event["taskId"] for event in told}
    sequences = [event["sequence"] for event in told]
    expected = {entry.sequence for entry in wanted}
    found = {
        "was not told of": sorted(expected - set(sequences)),
        "was told more than once of": sorted(sequence for sequence, count in Counter(sequences).items() if count > 1),
        "was told, and should not have been, of": sorted(set(sequences) - expected),
        "was told after what came later of": [
            later for before, later in itertools.pairwise(sequences) if later < before
        ],
    }
    for verb, which in found.items():
        if which:
            more = f" and {len(which) - SHOWN} more" if len(which) > SHOWN else ""
            yield f"{heard.who} {verb} {', '.join(map(str, which[:SHOWN]))}{more}", tasks[which[0]]


def streams_begin_with_the_present(evidence: Evidence) -> Iterator[Finding]:
    """A stream begins with the state of each task that has not ended, as the log has it, and misses nothing since."""
    log = evidence.log
    stored = [entry.stored_at for entry in log]
    end = max([*evidence.turns, *(entry.sequence for entry in log)], default=0)
    histories: dict[str, list[Entry]] = {}
    for entry in log:
        if entry.type in STATUSES:
            histories.setdefault(entry.task, []).append(entry)
    for heard in evidence.heard:
        if heard.after is None or not heard.from_state:
            continue
        if heard.began_at is not None:
            later = bisect_right(stored, heard.began_at + CLOCK_SECONDS)
            first_later = log[later].sequence if later < len(log) else end + 1
            if heard.after >= first_later:
                yield f"{heard.who} began after {heard.after}, which was not there yet", heard.task or ""
        for state in heard.states:
            known = {STATUSES[entry.type] for entry in _meanwhile(histories.get(state.task, []), state)}
            if state.status not in known:
                yield f"{heard.who} was shown {state.status}, and the log says {sorted(known)}", state.task
        shown = {state.task for state in heard.states}
        own = histories.items() if heard.task is None else [(heard.task, histories.get(heard.task, []))]
        for task, history in own:
            past = [entry for entry in history if entry.sequence <= heard.after]
            meanwhile = [entry for entry in history if entry.stored_at <= (heard.began_at or 0) + CLOCK_SECONDS]
            runs = bool(past) and not any(entry.type in FINAL for entry in (past[-1], *meanwhile[len(past) :]))
            if heard.has(task) and (heard.task is not None or runs) and task not in shown:
                yield f"{heard.who} began after {heard.after} without the state of a task", task


def _meanwhile(history: Sequence[Entry], state: State) -> list[Entry]:
    """Return the events after which a task was in its state, from the sequence that is shown until it was received."""
    return [
        entry
        for entry, after in itertools.zip_longest(history, history[1:])
        if entry.stored_at <= state.at + CLOCK_SECONDS and (after is None or after.sequence > state.sequence)
    ]


def progress_is_sent_once(evidence: Evidence) -> Iterator[Finding]:
    """Every report of progress in the log was sent, none twice, in the order of the log.

    Live or from the log, whole or in part: the pieces of output count, each of which the backend sent once. Some are
    sent live and never reach the log: those of a process that is killed, or of an attempt that is over.
    """
    logged = _logged_pieces(evidence.log)
    by_task = _by_task(evidence.log)
    for heard in evidence.heard:
        told: dict[str, list[str]] = {}
        for one in heard.told:
            if one.event and one.event["type"] == PROGRESS:
                told.setdefault(one.event["taskId"], []).extend(_pieces(one.event["event"]))
        wanted: dict[str, list[str]] = {}
        for entry in _span(evidence.log, by_task, heard):
            if entry.type == PROGRESS:
                wanted.setdefault(entry.task, []).extend(_pieces(entry.event))
        for task in told.keys() | wanted.keys():
            pieces, expected = told.get(task, []), wanted.get(task, [])
            often = [piece for piece, count in Counter(pieces).items() if count > max(1, logged[piece])]
            if often:
                yield f"{heard.who} was told more than once: {', '.join(often[:SHOWN])}", task
            if missing := set(expected) - set(pieces):
                yield f"{heard.who} was not told: {', '.join(sorted(missing)[:SHOWN])}", task
            if not (often or missing) and [piece for piece in pieces if piece in set(expected)] != expected:
                yield f"{heard.who} was told of progress in another order than that of the log", task


def _logged_pieces(log: Sequence[Entry]) -> Counter[str]:
    return Counter(piece for entry in log if entry.type == PROGRESS for piece in _pieces(entry.event))


def _pieces(event: Line) -> list[str]:
    return [piece.rstrip() for piece in str(event.get("output", "")).split(";")[:-1]]


def nothing_follows_the_end(evidence: Evidence) -> Iterator[Finding]:
    """No progress follows the end of a task, unless the task was queued again."""
    for heard in evidence.heard:
        ended: set[str] = set()
        for event in (one.event for one in heard.told if one.event):
            task = event["taskId"]
            if event["type"] in FINAL:
                ended.add(task)
            elif event["type"] == "TaskQueued":
                ended.discard(task)
            elif event["type"] == PROGRESS and task in ended:
                yield f"{heard.who} was told of progress after the end: {event['event']}", task


def streams_are_understood(evidence: Evidence) -> Iterator[Finding]:
    """A request for a stream gets it, or a 503 that says when to ask again."""
    for heard in evidence.heard:
        for text, count in Counter(heard.refusals).items():
            yield f"{heard.who} was answered {count} times: {text}", heard.task or ""


def _span(log: Sequence[Entry], by_task: Mapping[str, Sequence[Entry]], heard: Heard) -> list[Entry]:
    """Return the events that a subscriber must have received."""
    after = heard.after or 0
    if heard.task is not None:
        return [entry for entry in by_task.get(heard.task, ()) if after < entry.sequence <= heard.until]
    return [entry for entry in log if after < entry.sequence <= heard.until and heard.has(entry.task)]


# Webhooks


def webhooks_deliver_all(evidence: Evidence) -> Iterator[Finding]:
    """Each event that a webhook wants was taken by its receiver, and is listed as delivered once; no other was sent."""
    for received in evidence.received:
        name = f"{received.owner}'s {received.who} webhook"
        wanted = {entry.sequence: entry.task for entry in evidence.log if received.wants(entry)}
        statuses: dict[int, list[str]] = {}
        for delivery in received.deliveries:
            statuses.setdefault(delivery["sequence"], []).append(delivery["status"])
        for sequence in sorted(statuses.keys() - wanted.keys()):
            yield f"{name} has a delivery of {sequence}, which it does not want", ""
        for sequence, status in statuses.items():
            if len(status) > 1:
                yield f"{name} has {len(status)} deliveries of {sequence}", wanted.get(sequence, "")
            if received.mode == "hangs" and "delivered" in status:
                yield f"{name} is said to have taken {sequence}, and never answered", wanted.get(sequence, "")
        if received.mode == "refuses":
            yield from _left_alone(name, received, bool(wanted))
        if received.mode not in ("hangs", "refuses"):
            taken = _taken(received)
            for sequence, task in wanted.items():
                if sequence not in taken:
                    yield f"{name} never took {sequence}; its delivery is {statuses.get(sequence, 'not there')}", task
                elif statuses.get(sequence) != ["delivered"]:
                    yield f"{name} took {sequence}, whose delivery is {statuses.get(sequence, 'not there')}", task


def _taken(received: Received) -> set[int]:
    """Return the sequences of what a receiver said yes to. What it did not read is known by its id."""
    ids = {delivery["messageId"]: delivery["sequence"] for delivery in received.deliveries}
    return {ids[line["id"]] for line in received.calls if 200 <= line["answered"] < 300 and line["id"] in ids}


def _left_alone(name: str, received: Received, has_events: bool) -> Iterator[Finding]:
    """A receiver that answers 410 is sent nothing more."""
    if received.disabled_at is None:
        if has_events:
            yield f"{name} was answered 410, and is not disabled", ""
        return
    late = [line for line in received.calls if line["at"] > received.disabled_at + IN_FLIGHT_SECONDS]
    if late:
        yield f"{name} was sent {len(late)} messages after it was disabled", ""


def webhook_messages_are_one(evidence: Evidence) -> Iterator[Finding]:
    """A message is signed, says what the log says, and has one id with each try; no redirect is followed."""
    log = {entry.sequence: entry for entry in evidence.log}
    for received in evidence.received:
        name = f"{received.owner}'s {received.who} webhook"
        ids = {delivery["sequence"]: delivery["messageId"] for delivery in received.deliveries}
        for line in received.calls:
            if not line["path"].endswith(f"/{received.who}"):
                yield f"{name} was sent something at {line['path']}", ""
            if line["mode"] == "ignores":
                continue
            if not line["signed"]:
                yield f"{name} was sent {line['id']} with a wrong signature", ""
            data = (line["message"] or {}).get("data", {})
            entry = log.get(data.get("sequence", 0))
            if entry is None:
                yield f"{name} was sent {line['id']}, which is no event of the log: {line['message']}", ""
                continue
            said = (line["message"]["type"], data["type"], data["taskId"], data["event"])
            if said != (f"task.{entry.kind}", entry.type, entry.task, entry.event):
                yield f"{name} was told of {entry.sequence} something else than the log says", entry.task
            if ids.setdefault(entry.sequence, line["id"]) != line["id"]:
                yield f"{name} was sent {entry.sequence} as {line['id']} and as {ids[entry.sequence]}", entry.task


def webhook_pauses_are_kept(evidence: Evidence) -> Iterator[Finding]:
    """After a receiver answered 429 with `Retry-After: 1`, it was sent no more than what was under way already."""
    for received in evidence.received:
        times = sorted(line["at"] for line in received.calls)
        for line in received.calls:
            if line["answered"] != TOO_MANY_REQUESTS:
                continue
            after = bisect_right(times, line["at"] + PAUSE_SECONDS) - bisect_right(times, line["at"])
            if after > MOST_UNDER_WAY:
                yield f"{received.owner}'s {received.who} webhook was sent {after} messages during a pause", ""
                break


PUSH_CHECKS = (
    subscribers_receive_all,
    streams_begin_with_the_present,
    progress_is_sent_once,
    nothing_follows_the_end,
    streams_are_understood,
    webhooks_deliver_all,
    webhook_messages_are_one,
    webhook_pauses_are_kept,
)
