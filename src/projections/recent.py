"""The newest submissions, of each owner and of everybody: where the first pages of lists come from.

The log has them all, but to find those of one owner far back in it costs NATS a search through all that came since.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

LENGTH = 200
"""Submissions kept: the longest page. Older ones are found in the log."""
EVERYBODY = "="
"""Stands for the owner where it is everybody. No text has it as its token: `=` begins an escape."""


class RecentSubmission(NamedTuple):
    sequence: int
    """Its place in the log."""
    task_id: str


Recent = list[RecentSubmission]
"""Oldest first. Fewer than LENGTH: there are no others."""


def recent_key(owner: str) -> str:
    """Return the key of the newest submissions of an owner token, or of EVERYBODY."""
    return f"recent.{owner}"


def add(recent: Recent, submission: RecentSubmission) -> None:
    """Append a submission; one that is there already changes nothing."""
    if recent and recent[-1].sequence >= submission.sequence:
        return
    recent.append(submission)
    if len(recent) > LENGTH:
        del recent[0]


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(list[RecentSubmission]).decode
