"""What users have done with tasks, one at a time or many at once."""

from __future__ import annotations

from typing import Literal

from ..commands.task import CancelTask, DeleteTask, RetryTask, TaskCommand

TaskAction = Literal["cancel", "retry", "delete"]


def command_for(action: TaskAction, reason: str, subject: str) -> TaskCommand:
    """Return the command that a user gives by this word; `reason` may be empty."""
    match action:
        case "cancel":
            return CancelTask(reason=reason or f"Cancelled by {subject}")
        case "retry":
            return RetryTask(reason=reason or f"retried by {subject}")
        case "delete":
            return DeleteTask(reason=reason or f"Cancelled by {subject}")
