"""The probes that find out a dialect, sent to a server within time and size; `dialects.detection` reads the answers."""

from __future__ import annotations

import asyncio

import aiohttp
from msgspec import Struct

from ..commands.server import MISCONFIGURED, NOT_DETECTED
from ..events.server import DetectionEvidence, DialectDetected, ServerRegistered
from ..wire.body_limit import AnswerTooLarge, read_capped
from ..wire.connections import ALONE, ask
from .connection_errors import describe, local_lack
from .dialects import DIALECTS
from .dialects.detection import Detection, Finding
from .presets import exchange_of
from .redaction import without_keys

PROBE_SECONDS = 2.0
"""How long a server may take to answer one probe."""
DETECTION_SECONDS = 12.0
"""How long all probes of one server may take together."""
MOST_PROBE_BYTES = 1024 * 1024
"""A server with many models has a long list of them; a longer one is no sign."""


class Detected(Struct, frozen=True, kw_only=True):
    """What the probes of a server found."""

    finding: Finding | None
    """None: no sign."""
    evidence: tuple[DetectionEvidence, ...]
    problem: str
    """Why no dialect was found; empty if one was."""
    is_reached: bool
    """The server answered something."""
    is_ours: bool = False
    """This process could not send, which says nothing about the server."""


async def detect(session: aiohttp.ClientSession, server: ServerRegistered, api_key: str | None) -> Detected:
    """Ask a server what it speaks; never raises for anything it does.

    The session enforces the egress rules. Redirects are not followed, so the key goes to the registered origin only.
    """
    detection = Detection(server, api_key, DIALECTS)
    keys = (api_key,) if api_key else ()
    lack: str | None = None
    try:
        async with asyncio.timeout(DETECTION_SECONDS):
            while (request := detection.request()) is not None:
                try:
                    async with asyncio.timeout(PROBE_SECONDS):
                        headers = {**request.headers, **ALONE}
                        async with await ask(session, request.method, request.url, headers, b"") as response:
                            body = await read_capped(response, MOST_PROBE_BYTES)
                    detection.read(response.status, without_keys(body, keys))
                except TimeoutError:
                    detection.missed(f"no answer in {PROBE_SECONDS:g} s")
                except AnswerTooLarge:
                    detection.missed(f"an answer of more than {MOST_PROBE_BYTES} bytes")
                except (aiohttp.ClientError, OSError, ValueError) as error:
                    lack = local_lack(error)
                    detection.missed(lack or describe(error))
                    if lack or isinstance(error, aiohttp.ClientConnectorError):
                        break  # nothing listens there: the other probes would find the same
    except TimeoutError:
        detection.missed(f"all probes together took more than {DETECTION_SECONDS:g} s")
    return Detected(
        finding=detection.finding,
        evidence=tuple(detection.evidence),
        problem=detection.problem,
        is_reached=detection.is_answered,
        is_ours=lack is not None,
    )


def dialect_detected(server: ServerRegistered, found: Detected) -> DialectDetected | None:
    """Return the event of a finding; None if no dialect was found."""
    finding = found.finding
    if finding is None or not finding.dialect:
        return None
    return DialectDetected(
        server_id=server.server_id,
        predict_url=server.predict_url,
        dialect=finding.dialect,
        preset=finding.preset,
        exchange=exchange_of(finding.preset),
        program=finding.program,
        evidence=found.evidence,
    )


def undetected_reason(found: Detected) -> str:
    """Return the status reason of a server whose dialect was not found: an admin must help one that answers."""
    if found.is_reached:
        return f"{MISCONFIGURED}dialect not detected: {found.problem}"
    return f"{NOT_DETECTED}: {found.problem}"
