"""A task's history as lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

History = Sequence[dict[str, Any]]


def lines(history: History) -> list[str]:
    """Return a line per event: when, who, what."""
    return [f"{_clock(entry['at'])}  {_actor(entry['by']):<22} {_details(entry['event'])}" for entry in history]


def richest(histories: dict[str, History], victim: str) -> str:
    """Return the task whose history shows most: started on the victim, ended elsewhere, with few other events."""

    def richness(task_id: str) -> tuple[bool, bool, int]:
        events = [entry["event"] for entry in histories[task_id]]
        servers = [event["server_id"] for event in events if event["type"] == "AttemptStarted"]
        broken_off = any(
            event["type"] == "AttemptFailed" and event["server_id"] == victim and "closed" in event["error"]
            for event in events
        )
        return broken_off, len(set(servers)) > 1, -len(events)

    return max(histories, key=richness)


def _clock(instant: str) -> str:
    return datetime.fromisoformat(instant).astimezone().strftime("%H:%M:%S.%f")[:-3]


def _actor(by: dict[str, str]) -> str:
    return by["id"] if by["id"].startswith(by["kind"]) else f"{by['kind']} {by['id']}"


def _details(event: dict[str, Any]) -> str:
    match event["type"]:
        case "TaskSubmitted":
            details = f"{event['task_type']}, priority {event['priority']}, at most {event['policy']['attempts']} tries"
        case "TaskQueued":
            details = event["reason"]
        case "AttemptStarted":
            details = f"try {event['attempt']}, on `{event['server_id']}`"
        case "AttemptAccepted":
            details = f"as {event['backend_task_id']}; it will report"
        case "ProgressReported":
            details = f"{event['progress']:g} %, {event['message']}"
        case "AttemptFailed":
            details = f"on `{event['server_id']}`: {event['error']}; again at {_clock(event['retry_at'])}"
        case "AttemptReturned":
            details = f"by `{event['server_id']}`: {event['reason']}"
        case "TaskSucceeded":
            details = f"on `{event['server_id']}`, try {event['attempt']}"
        case "TaskFailed":
            details = f"on `{event['server_id']}`: {event['error']}"
        case _:
            details = event.get("reason", "")
    return f"{event['type']:<16} {details}"
