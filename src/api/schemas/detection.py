"""What a server was found to speak, and how that was found out."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from ...commands.server import DetectedDialect
from ...events.server import DetectionEvidence
from ...instants import iso


class EvidenceInfo(Struct, kw_only=True):
    """One probe."""

    path: str
    """Below the server's base address."""
    status: int | None
    """Of the answer; null: there was none."""
    sign: str | None
    """What the answer had, or why there is none; null: nothing that is known."""


class DetectedInfo(Struct, kw_only=True):
    """What a server was found to speak."""

    dialect: str
    preset: str | None
    """Name of the preset that fits its program; null: none."""
    program: str | None
    """Its program, as it says."""
    at: str
    """When this was found."""
    evidence: list[EvidenceInfo]
    """What it was asked, in order, and what its answers had."""


class DetectAnswer(Struct, kw_only=True):
    """What the probes of a server found now."""

    id: str
    dialect: str | None
    """Null: none was found."""
    preset: str | None
    """Name of the preset that fits its program; null: none."""
    program: str | None
    """Its program, as it says; null: unknown."""
    reason: str | None
    """Why no dialect was found; null: one was."""
    applied: bool
    """True: this dialect applies now. False: none was found, or the registration names its `dialect` itself."""
    evidence: list[EvidenceInfo]
    """What it was asked, in order, and what its answers had."""


def evidence_info(evidence: Iterable[DetectionEvidence]) -> list[EvidenceInfo]:
    return [EvidenceInfo(path=one.path, status=one.status or None, sign=one.sign or None) for one in evidence]


def detected_info(detected: DetectedDialect | None) -> DetectedInfo | None:
    if detected is None:
        return None
    event = detected.event
    return DetectedInfo(
        dialect=event.dialect,
        preset=event.preset or None,
        program=event.program or None,
        at=iso(detected.at),
        evidence=evidence_info(event.evidence),
    )
