"""The report of a run: a summary, and each violation with all that is known of its task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec

from .checker import Violation
from .evidence import FINAL, Evidence, Line, Resources, growth
from .run import Outcome

SHOWN_IN_FULL = 2
SHOWN_IN_SHORT = 6
"""Violations of one check; more of the same say little more."""


def summary(outcome: Outcome) -> str:
    """Return one line: what was done and whether it held."""
    evidence = outcome.evidence
    ends = Counter(entry.type for entry in evidence.log if entry.type in FINAL)
    answers = Counter(call.status for call in evidence.calls)
    submitted = [entry.event for entry in evidence.log if entry.kind == "submitted"]
    grown = growth(evidence).values() or [Resources(0, 0.0)]
    verdict = f"{len(outcome.violations)} VIOLATIONS" if outcome.violations else "held"
    return (
        f"seed {outcome.seed}, {outcome.nodes} nodes, {outcome.seconds:g} s: {verdict}; "
        f"{len(outcome.faults)} faults, {len(evidence.calls)} calls ({answers[200]} ok, {answers[503]} unavailable, "
        f"{answers[0]} unanswered), {len(evidence.histories())} tasks "
        f"({', '.join(f'{count} {kind}' for kind, count in sorted(ends.items()))}; "
        f"{sum(bool(event.get('held')) for event in submitted)} held, "
        f"{sum(bool(event.get('plan', {}).get('depends_on')) for event in submitted)} with parents, "
        f"{sum(bool(event.get('schedule')) for event in submitted)} of schedules), "
        f"{sum(line['what'] == 'call' for line in evidence.backends)} backend calls, "
        f"{len(evidence.heard)} subscribers ({sum(heard.connections for heard in evidence.heard)} connections, "
        f"{sum(heard.dropped for heard in evidence.heard)} dropped while asleep, "
        f"{sum(bool(told.event) for heard in evidence.heard for told in heard.told)} events), "
        f"{sum(len(received.calls) for received in evidence.received)} calls of webhooks "
        f"for {sum(len(received.deliveries) for received in evidence.received)} deliveries, "
        f"quiet after {outcome.quiet_seconds:.1f} s, "
        f"at most {max(more.descriptors for more in grown)} descriptors and "
        f"{max(more.megabytes for more in grown):.0f} MB more than when warm"
    )


def violations(outcome: Outcome) -> Iterator[str]:
    """Yield the text of each violation, the first few with everything about their task, in order of time."""
    shown: Counter[str] = Counter()
    for violation in outcome.violations:
        shown[violation.check] += 1
        if shown[violation.check] <= SHOWN_IN_SHORT:
            yield f"[{violation.check}] {violation.task} {violation.what}"
        if violation.task and shown[violation.check] <= SHOWN_IN_FULL:
            yield from _about(violation, outcome.evidence)
    for name, count in shown.items():
        if count > SHOWN_IN_SHORT:
            yield f"[{name}] and {count - SHOWN_IN_SHORT} more"


def _about(violation: Violation, evidence: Evidence) -> Iterator[str]:
    task = violation.task
    yield "  history:"
    history = evidence.histories().get(task, [])
    for entry in history:
        by = f"{entry['by']['kind']}/{entry['by']['id']}"
        yield f"    {entry['sequence']:>6} {entry['at']} {by} {_short(entry['event'])}"
    yield "  clients:"
    mark = next((entry["event"]["payload"]["mark"] for entry in history if "payload" in entry["event"]), None)
    for call in evidence.calls:
        if task == call.task or (mark and call.before.get("mark") == mark):
            yield f"    {_short(call.before)}"
            yield f"      {_short(call.after)}"
    yield "  backends:"
    for line in evidence.backends:
        if line["task"] == task:
            yield f"    {_short(line)}"


def _short(line: Line) -> str:
    return msgspec.json.encode(line).decode()[:400]
