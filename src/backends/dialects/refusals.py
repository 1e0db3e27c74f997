"""What an answer means that is no success: the server is busy, or the attempt failed. Pure."""

from __future__ import annotations

from ...events.server import ServerRegistered
from .contents import media_type_of
from .dialect import Busy, Dialect, Failed, Reply
from .reasons import reason_of

TRY_AGAIN = frozenset({408, 425, 429})
"""Statuses of this request: another attempt may succeed, and they say nothing about the server."""


def refusal(dialect: Dialect, server: ServerRegistered, reply: Reply) -> Busy | Failed:
    """Return what an answer means whose status is not 2xx."""
    status = reply.status
    if dialect.means_busy(server, status):
        return Busy(error=reason_text(reply), retry_after=reply.retry_after)
    if status >= 500 or status in TRY_AGAIN:
        is_neutral = status in TRY_AGAIN
        return Failed(kind="error", error=reason_text(reply), retry_after=reply.retry_after, is_neutral=is_neutral)
    if status >= 400:
        return Failed(kind="rejected", error=reason_text(reply))
    what = "redirects are not followed" if status >= 300 else "that is no answer to a task"
    return Failed(kind="bad_answer", error=f"the server answered {status}; {what}")


def bad_answer(reply: Reply, what: str) -> Failed:
    """Return the failure of an answer that cannot be a result; `what` completes "the server answered 200, and …"."""
    return Failed(kind="bad_answer", error=f"the server answered {reply.status}, and {what}")


def reason_text(reply: Reply) -> str:
    """Return the status and the server's own words, if it has some that are meant to be read."""
    reason = reason_of(reply.body, media_type_of(reply))
    return f"the server answered {reply.status}" + (f": {reason}" if reason else "")
