"""Events of tasks and servers as one line each: when, who, what."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich.text import Text

from .text import NONE, clock_time, instant, plain, shown

COLOURS = {
    "TaskSucceeded": "green",
    "TaskFailed": "red",
    "AttemptFailed": "red",
    "TaskCancelled": "yellow",
    "ServerOffline": "red",
    "ServerOnline": "green",
    "CircuitOpened": "red",
}
HIDDEN = frozenset({"type", "token_digest", "fingerprint", "update_digest", "payload", "result", "policy", "plan"})
"""Fields that say nothing to a reader of a line; the JSON has them."""
LONGEST_VALUE = 120


def event_line(entry: Mapping[str, Any], *, task: bool = False) -> Text:
    """Return an event as a line. `task`: it names its task."""
    event = entry["event"]
    at = clock_time(entry.get("at"))
    line = Text()
    line.append(f"{at}  ", style="dim")
    if task:
        line.append(f"{plain(entry.get('taskId', NONE))}  ")
    line.append(f"{plain(event['type']):<18}  ", style=COLOURS.get(event["type"], ""))
    line.append(f"{actor(entry.get('by') or {}):<22}  ", style="dim")
    line.append(details(event))
    return Text(line.plain.rstrip(), spans=line.spans)


def actor(by: Mapping[str, Any]) -> str:
    """Return who did it: `user alice`, `worker-1`, `user alice, key 01KD…~alice`."""
    kind, name = plain(by.get("kind", "")), plain(by.get("id", ""))
    who = name if name.startswith(kind) else f"{kind} {name}".strip()
    return f"{who}, key {plain(by['key'])}" if by.get("key") else who


def details(event: Mapping[str, Any]) -> str:
    """Return what an event says besides its name."""
    match event["type"]:
        case "TaskSubmitted":
            return f"{_(event, 'task_type')}, priority {_(event, 'priority')}"
        case "AttemptStarted":
            return f"attempt {_(event, 'attempt')} on {_(event, 'server_id')}"
        case "ProgressReported":
            share = "" if event.get("progress") is None else f"{event['progress']:g} % "
            return f"{share}{plain(event.get('message') or '')}".strip()
        case "AttemptFailed":
            again = instant(event.get("retry_at"))
            later = "" if again is None else f"; again at {_time(again)}"
            return f"attempt {_(event, 'attempt')} on {_(event, 'server_id')}: {_(event, 'error')}{later}"
        case "TaskSucceeded":
            return f"attempt {_(event, 'attempt')} on {_(event, 'server_id')}"
        case "TaskFailed":
            return f"{_(event, 'error')}"
        case _:
            named = {name: value for name, value in event.items() if name not in HIDDEN and value not in (None, "")}
            if set(named) == {"reason"}:
                return plain(named["reason"])
            return ", ".join(f"{plain(name)} {_shortened(value)}" for name, value in named.items())


def state_line(message: Mapping[str, Any]) -> Text:
    """Return the line for the state with which a stream starts."""
    task = message["task"]
    error = f": {task['error']}" if task.get("error") else ""
    return Text(plain(f"{message['taskId']}  is {task['status']}{error}"), style="dim")


def _(event: Mapping[str, Any], name: str) -> str:
    return _shortened(event.get(name))


def _shortened(value: object) -> str:
    text = shown(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _time(at: datetime) -> str:
    return at.astimezone().strftime("%H:%M:%S")
