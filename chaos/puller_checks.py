"""Checks of pulled servers: who holds an attempt and for how long, and whether pullers are told the truth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

import msgspec
from msgspec import Struct

from .evidence import ATTEMPT_OVER, Evidence, Finding, Line

CLOCK_SECONDS = 0.05
RENEWALS_PER_LEASE = 12
"""A renewal sooner than that after another one counts as that one."""
ENDS: dict[str, tuple[str, ...]] = {
    "FINISHED": ("TaskSucceeded",),
    "FAILED": ("TaskFailed",),
    "ERROR": ("AttemptFailed", "TaskFailed"),
    "RETURNED": ("AttemptReturned", "TaskFailed"),
}
"""By status of a report: the events that record it."""


class Hold(Struct):
    """An attempt that a puller has, by its own journal."""

    task: str
    number: int
    puller: str
    server: str
    began_at: float
    """When it got it."""
    sure_until: float
    """Until then nobody else can have the task, as far as it knows: its lease, unless it gave the attempt up before."""
    given_up: bool = False


def holds_of(evidence: Evidence) -> list[Hold]:
    """Return what pullers held, in the order in which they got it."""
    found: dict[tuple[str, int, str], Hold] = {}
    leases: dict[tuple[str, int], float] = {}
    for entry in evidence.log:
        if entry.type == "AttemptAccepted" and entry.event.get("lease"):
            leases[entry.task, entry.event["attempt"]] = (
                entry.stored_at + msgspec.convert(entry.event["lease"], timedelta).total_seconds()
            )
    lengths: dict[tuple[str, int], float] = {}
    for line in evidence.backends:
        if not line.get("puller") or not line["task"]:
            continue
        place = (line["task"], line["attempt"])
        if line["what"] == "call":
            lengths[place] = line["lease"]
            hold = Hold(*place, line["puller"], line["server"], line["at"], leases.get(place, line["at"]))
            found[(*place, line["puller"])] = hold
        elif (known := found.get((*place, line["puller"]))) is not None and not known.given_up:
            _follow(known, line, lengths[place])
    return sorted(found.values(), key=lambda hold: hold.began_at)


def _follow(hold: Hold, line: Line, lease: float) -> None:
    """Extend a hold by what its puller did and was told."""
    is_own = line.get("kind") not in ("forged", "foreign")
    is_final = line["what"] == "report" and line["status"] != "PROCESSING" and is_own
    if is_final or line.get("standing") == "gone":
        hold.sure_until, hold.given_up = min(hold.sure_until, line["at"]), True
    elif line.get("standing") == "running":
        hold.sure_until = max(hold.sure_until, line["sent_at"] + lease * (1 - 1 / RENEWALS_PER_LEASE))


def attempts_are_held_by_one(evidence: Evidence) -> Iterator[Finding]:
    """No two pullers have an attempt, and none gets a task while another holds it: by its lease, as it was renewed.

    A hold ends before its lease where the log ends the attempt for another reason: its puller's report, its deadline,
    a cancellation. A clock that is wrong shortens leases by its error.
    """
    pullers: dict[tuple[str, int], set[str]] = defaultdict(set)
    by_task: dict[str, list[Hold]] = defaultdict(list)
    for hold in holds_of(evidence):
        pullers[hold.task, hold.number].add(hold.puller)
        by_task[hold.task].append(hold)
    for (task, number), names in pullers.items():
        if len(names) > 1:
            yield f"attempt {number} was taken by {' and '.join(sorted(names))}", task
    over = _over(evidence)
    for task, holds in by_task.items():
        for earlier, later in pairwise(holds):
            ended_at, is_lease = over.get((task, earlier.number), (earlier.sure_until, True))
            until = earlier.sure_until if is_lease else min(earlier.sure_until, ended_at)
            if later.began_at < until - CLOCK_SECONDS - _wrong(evidence, earlier.began_at, later.began_at):
                seconds = until - later.began_at
                lost = f"{earlier.puller} had lost attempt {earlier.number}"
                yield f"{later.puller} got attempt {later.number} {seconds:.2f} s before {lost}", task
    for task, holds in by_task.items():
        for hold in holds:
            ended_at, is_lease = over.get((task, hold.number), (1e99, False))
            forgiven = CLOCK_SECONDS + _wrong(evidence, hold.began_at, ended_at)
            if is_lease and ended_at < hold.sure_until - forgiven:
                yield f"attempt {hold.number} was lost {hold.sure_until - ended_at:.2f} s before its lease ended", task


def _over(evidence: Evidence) -> dict[tuple[str, int], tuple[float, bool]]:
    """Return by attempt when it ended, and whether that was its lease."""
    found: dict[tuple[str, int], tuple[float, bool]] = {}
    for entry in evidence.log:
        if entry.type in ATTEMPT_OVER and entry.event.get("attempt"):
            is_lease = entry.event.get("kind") == "worker_lost"
            found.setdefault((entry.task, entry.event["attempt"]), (entry.stored_at, is_lease))
    return found


def _wrong(evidence: Evidence, since: float, until: float) -> float:
    """Return by how much some clock was wrong within a stretch, at the most."""
    return max([0.0, *(abs(one.ahead) for one in evidence.jumps if one.begins <= until and since <= one.ends + 1)])


def pullers_are_told_the_truth(evidence: Evidence) -> Iterator[Finding]:
    """What a puller is told to be recorded is in the log as the end of its attempt; what is `gone` is not.

    So a lease that was lost is never reported as the success of that attempt.
    """
    ends: dict[tuple[str, int], Any] = {}
    for entry in evidence.log:
        if entry.type in ATTEMPT_OVER and entry.event.get("attempt"):
            ends.setdefault((entry.task, entry.event["attempt"]), entry)
    recorded: set[tuple[str, int, str]] = set()
    for line in evidence.backends:
        if line["what"] != "reported" or not line.get("puller") or line["status"] not in ENDS:
            continue
        place = (line["task"], line["attempt"])
        name = f"attempt {line['attempt']}: {line['puller']}'s report {line['status']}"
        entry = ends.get(place)
        is_recorded = entry is not None and entry.type in ENDS[line["status"]]
        by_server = entry is not None and entry.recorded["by"] == {"kind": "server", "id": line["server"]}
        if line["standing"] == "recorded":
            recorded.add((*place, line["status"]))
            if not is_recorded or not by_server:
                yield f"{name} is said to be recorded, and the log has {entry.type if entry else 'no end'}", place[0]
        elif line["standing"] == "gone" and is_recorded and by_server and (*place, line["status"]) not in recorded:
            yield f"{name} is said to have come too late, and the log has it", place[0]
        elif line["standing"] == "running":
            yield f"{name} is said to leave the attempt running", place[0]


PULLER_CHECKS = (attempts_are_held_by_one, pullers_are_told_the_truth)
