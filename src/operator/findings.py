"""What `doctor` finds: a state, a sentence, and the command that corrects it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from .text import plain

FindingState = Literal["ok", "warning", "problem", "skipped"]
LOG = "journalctl -u taskstream -n 100    # or the log of `taskstream up`"
SYNC_CLOCKS = "timedatectl set-ntp true    # on each machine"
UPGRADE = "pip install --upgrade taskstream    # and restart it"
START = "taskstream up"
FREE_SPACE = (
    "export TASKSTREAM_TASK_RETENTION=2592000    # drop events after 30 days; or free space on the disk; restart"
)
FIXES = {
    "store-unreachable": LOG,
    "store-refuses": FREE_SPACE,
    "store-nearly-full": FREE_SPACE,
    "service-halted": UPGRADE,
    "unreadable-event": UPGRADE,
    "process-missing": LOG,
    "no-worker": "taskstream worker    # or restart `taskstream up`",
    "held-by-nobody": "taskstream worker    # or restart `taskstream up`",
    "oldest-waiting-while-slots-free": "taskstream worker    # or restart `taskstream up`",
    "queue-report-old": "taskstream worker    # or restart `taskstream up`",
    "type-without-server": "taskstream servers register ID ADDRESS --type {}",
    "no-server-fits": "taskstream tasks list --status waiting --pool {}",
    "server-offline": "taskstream servers show {}",
    "server-removed": "taskstream servers restore {}",
    "circuit-open": "taskstream servers events {} --limit 20",
    "pool-paused-with-backlog": "taskstream pools resume {}",
    "type-paused-with-backlog": "taskstream types resume {}",
    "dead-letters-growing": "taskstream errors --since 1h",
    "schedule-failed": "taskstream schedules show {}",
    "schedule-missed": "taskstream schedules run {}",
    "webhook-disabled": "taskstream webhooks enable {}",
    "webhook-paused": "taskstream webhooks deliveries {}",
    "quota-nearly-full": "taskstream limits set USER --stored BYTES",
    "index-behind": "taskstream doctor    # again: it catches up alone",
    "clocks-differ": SYNC_CLOCKS,
    "not-durable": "taskstream settings    # in nats.conf of every server: jetstream { sync_interval: always }",
}
"""What to run for each kind of alarm; `{}` is its subject."""


class DoctorFinding(Struct, frozen=True):
    """The outcome of one check."""

    check: str
    state: FindingState
    text: str
    fix: str = ""
    """A command; empty for what is well."""

    @property
    def is_wrong(self) -> bool:
        return self.state in ("problem", "warning")


def of_alarm(alarm: Mapping[str, Any]) -> DoctorFinding:
    """Return the finding for an alarm of the service."""
    kind = str(alarm["kind"])
    subject = (alarm.get("subject") or {}).get("id", "")
    fix = FIXES.get(kind, "taskstream doctor --json").format(shlex.quote(plain(subject)))
    return DoctorFinding(kind, "problem" if alarm["severity"] == "critical" else "warning", plain(alarm["text"]), fix)
