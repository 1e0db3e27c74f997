"""Task types, servers, and a mix of tasks whose outcomes are known beforehand."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from taskstream.events.task import Priority

Style = Literal["sync", "callback", "flaky"]
BROKEN = ".corrupt"
"""Suffix of images that no server can read."""
REJECTION = "this is no image"
"""The error a server answers those with."""

FEWEST_TASKS = 40
"""With fewer, all might have ended before a server can be killed."""
BROKEN_EVERY = 50
TRIES = 10
"""More than the default: every fifth call of one server fails, and near the end it may be the only one for a type."""


class DemoTask(NamedTuple):
    """A task to submit, and whether it must fail."""

    number: int
    task_type: str
    priority: Priority
    payload: dict[str, Any]
    is_broken: bool
    """No server can do it: the first one rejects it, and it must end FAILED."""

    @property
    def key(self) -> str:
        return f"demo-{self.number}"

    @property
    def body(self) -> dict[str, Any]:
        return {"type": self.task_type, "payload": self.payload, "priority": self.priority}


class ServerPlan(NamedTuple):
    """A backend server to start and register."""

    style: Style
    what: str
    types: tuple[str, ...]
    max_concurrent: int

    @property
    def server_id(self) -> str:
        return self.style

    def registration(self, port: int) -> dict[str, Any]:
        base = f"http://127.0.0.1:{port}"
        return {
            "id": self.server_id,
            "name": self.what,
            "provider": "demo",
            "endpoints": {"predict": f"{base}/predict", "health": f"{base}/health"},
            "async": self.style == "callback",
            "callback": self.style == "callback",
            "types": list(self.types),
            "maxConcurrent": self.max_concurrent,
        }


SERVERS = (
    ServerPlan("sync", "answers with the result", ("default", "thumbnail"), 4),
    ServerPlan("callback", "accepts, then reports progress and result", ("default", "render"), 8),
    ServerPlan("flaky", "fails every fifth call", (), 4),
)
VICTIM = SERVERS[0]
"""Killed in the middle. Each of its types is served by another, too."""


def _schema(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [*properties, "number"],
        "properties": {**properties, "number": {"type": "integer"}},
        "additionalProperties": False,
    }


TYPES: dict[str, dict[str, Any]] = {
    "default": {"attempts": TRIES},
    "thumbnail": {
        "description": "A small picture of a large one",
        "schema": _schema(image={"type": "string"}, width={"type": "integer", "minimum": 16, "maximum": 4096}),
        "attempts": TRIES,
    },
    "render": {
        "description": "A film of a scene",
        "schema": _schema(scene={"type": "string"}, frames={"type": "integer", "minimum": 1}),
        "attempts": TRIES,
        "timeout": 30,
    },
}
UNFIT = {"type": "thumbnail", "payload": {"image": "photo.jpg", "width": "wide", "number": 0}}
"""A submission that the schema of its type does not allow."""

_MIX = ("thumbnail", "default", "render", "thumbnail", "default")
_PRIORITIES: tuple[Priority, ...] = ("normal", "low", "high", "normal", "normal", "high", "low")


def tasks(count: int) -> list[DemoTask]:
    """Return `count` tasks of mixed type and priority, numbered from 1; one in fifty is broken."""
    return [_task(number) for number in range(1, count + 1)]


def _task(number: int) -> DemoTask:
    is_broken = number % BROKEN_EVERY == BROKEN_EVERY // 2
    task_type = "thumbnail" if is_broken else _MIX[number % len(_MIX)]
    payload: dict[str, Any]
    match task_type:
        case "thumbnail":
            payload = {"image": f"photo-{number:04d}{BROKEN if is_broken else '.jpg'}", "width": 320}
        case "render":
            payload = {"scene": f"scene-{number:04d}", "frames": 48}
        case _:
            payload = {"text": f"letter {number:04d}"}
    priority = _PRIORITIES[number % len(_PRIORITIES)]
    return DemoTask(number, task_type, priority, {**payload, "number": number}, is_broken)


def planned_failures(count: int) -> list[str]:
    """Return what will go wrong in a demo of so many tasks, and what comes of it."""
    broken = sum(task.is_broken for task in tasks(count))
    return [
        "* `flaky` fails every fifth call: those attempts are retried, and no task fails for it.",
        f"* {broken} of the {count} images are corrupt. The first server that gets one rejects it (422), so it is "
        f"not retried: {broken} tasks must end FAILED, the others FINISHED.",
        f"* `{VICTIM.server_id}` is killed (kill -9) once a third has ended. Its running tasks are retried on the "
        "other servers, and it goes offline.",
    ]
