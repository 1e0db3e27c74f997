"""The client of Taskstream.

    from taskstream_client import Client

    with Client("https://tasks.example.com", token) as client:
        print(client.run("resize", {"url": "https://example.org/a.png", "width": 640}))

`AsyncClient` has the same calls, to be awaited. `taskstream_client.server` is a kit for servers that do the work,
`taskstream_client.testing` a fake of the service for tests.
"""

from __future__ import annotations

from .client import VERSION, AsyncClient, Client
from .errors import (
    ApiError,
    BadAnswer,
    BadSettings,
    BadSignature,
    Forbidden,
    NotFound,
    RateLimited,
    Refused,
    TaskCancelled,
    TaskEnded,
    TaskFailed,
    TaskstreamError,
    Unauthorized,
    Unavailable,
    WaitTimeout,
)
from .models import NewTask, ResultFile, SubmittedBatch, Task, TaskResult
from .retries import Retries
from .signatures import WebhookMessage, verify
from .updates import AttemptFailed, Ended, Gap, Happened, Progress, Reset, Started, State, Update

__version__ = VERSION

__all__ = [
    "ApiError",
    "AsyncClient",
    "AttemptFailed",
    "BadAnswer",
    "BadSettings",
    "BadSignature",
    "Client",
    "Ended",
    "Forbidden",
    "Gap",
    "Happened",
    "NewTask",
    "NotFound",
    "Progress",
    "RateLimited",
    "Refused",
    "Reset",
    "ResultFile",
    "Retries",
    "Started",
    "State",
    "SubmittedBatch",
    "Task",
    "TaskCancelled",
    "TaskEnded",
    "TaskFailed",
    "TaskResult",
    "TaskstreamError",
    "Unauthorized",
    "Unavailable",
    "Update",
    "WaitTimeout",
    "WebhookMessage",
    "verify",
]
