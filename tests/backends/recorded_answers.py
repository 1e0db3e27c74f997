"""Answers of real programs, as they were recorded."""

from __future__ import annotations

import json
from pathlib import Path

from msgspec import Struct

RECORDED = Path(__file__).parent / "recorded"


class Recorded(Struct, frozen=True):
    """An answer of a program."""

    case: str
    status: int
    content_type: str
    body: bytes


def recorded_answers(dialect: str, program: str) -> dict[str, Recorded]:
    """Return the answers of a program, by what was asked."""
    content = json.loads((RECORDED / dialect / f"{program}.json").read_text())
    return {
        one["case"]: Recorded(one["case"], one["status"], one["contentType"], one["body"].encode())
        for one in content["answers"]
    }
