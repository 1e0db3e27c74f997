"""Alarms as clients see them. Instants are ISO 8601 in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct

from ...explain.alarms import Alarm, AlarmKind, Alarms, Severity
from ...instants import iso


class AlarmSubjectInfo(Struct, kw_only=True):
    """What an alarm is about."""

    kind: str
    """`server`, `pool`, `type`, `task`, `schedule`, `webhook`, `service` or `process`."""
    id: str


class AlarmInfo(Struct, kw_only=True):
    """A condition that needs a person."""

    kind: AlarmKind
    severity: Severity
    since: str | None
    """Since when it holds; null if unknown."""
    text: str
    """What is wrong and what to do."""
    subject: AlarmSubjectInfo | None
    """Null: the service."""
    link: str
    """The page of the console that shows it, as in `#/fleet/gpu-3`."""
    data: dict[str, Any]
    """The evidence; the fields depend on `kind`."""


class AlarmsAnswer(Struct, kw_only=True, rename="camel"):
    """What needs a person now; nothing when all is well."""

    alarms: list[AlarmInfo]
    """Critical ones first; each kind together, the oldest first; of each kind the first 50."""
    more: dict[str, int]
    """How many more alarms there are of a kind."""
    read_at: str
    """When this was answered; the state is at most some seconds older."""


def alarms_answer(found: Alarms, now: datetime) -> AlarmsAnswer:
    return AlarmsAnswer(alarms=list(map(alarm_info, found.alarms)), more=dict(found.more.items()), read_at=iso(now))


def alarm_info(alarm: Alarm) -> AlarmInfo:
    return AlarmInfo(
        kind=alarm.kind,
        severity=alarm.severity,
        since=iso(alarm.since) if alarm.since else None,
        text=alarm.text,
        subject=AlarmSubjectInfo(kind=alarm.subject.kind, id=alarm.subject.id) if alarm.subject else None,
        link=alarm.link,
        data=_data(alarm.data),
    )


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: iso(value) if isinstance(value, datetime) else value for name, value in data.items()}
