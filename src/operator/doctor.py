"""`taskstream doctor`: what is wrong with a service, and the command that corrects it.

Two views: the service's own, over its API, and that of this machine: the settings, the data folder and NATS.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any

import msgspec
from rich.text import Text

from ..clock import utc_now
from ..runtime.failures import EXIT_FAILED
from ..settings import InvalidSettings
from .access import ServiceAccess, find_access
from .client import OperatorClient, open_session
from .commands import service_options
from .failures import CommandFailed, ServiceRefused, Unreachable
from .findings import FREE_SPACE, LOG, START, SYNC_CLOCKS, UPGRADE, DoctorFinding, FindingState, of_alarm
from .local_checks import local_findings
from .output import Output
from .text import duration, instant, plain, size

LARGEST_CLOCK_DIFFERENCE_SECONDS = 3.0
"""HTTP dates have whole seconds, and the answer takes a while."""
SOON_SECONDS = 3_600.0
CROWDED_PERCENT = 80
STYLES: dict[FindingState, str] = {"ok": "green", "warning": "yellow", "problem": "bold red", "skipped": "dim"}
NO_SERVERS = "taskstream servers register ID ADDRESS --dialect auto"


def define(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    service_options(parser)
    parser.add_argument("--json", action="store_true", help="one finding a line: check, state, text, fix")
    parser.add_argument("--quiet", action="store_true", help="print only what is wrong")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--api-only", action="store_true", help="ask the API only, not this machine and its NATS")
    where.add_argument("--local-only", action="store_true", help="look at this machine and its NATS only")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the findings as they come; return 1 if anything is wrong."""
    output = Output(json=options.json)
    return asyncio.run(_run(options, output))


async def _run(options: argparse.Namespace, output: Output) -> int:
    wrong = count = 0
    async for finding in _findings(options):
        count += 1
        wrong += finding.is_wrong
        if finding.is_wrong or not options.quiet:
            _print(output, finding)
    if not output.json and wrong:
        output.line()
        output.line(f"{wrong} of {count} checks found something", "bold")
    elif not output.json and not options.quiet:
        output.line(f"all {count} checks are well", "green")
    return EXIT_FAILED if wrong else 0


async def _findings(options: argparse.Namespace) -> AsyncIterator[DoctorFinding]:
    if not options.api_only:
        async for finding in local_findings():
            yield finding
    if options.local_only:
        return
    try:
        access = find_access(options)
    except (InvalidSettings, CommandFailed) as error:
        yield DoctorFinding("access", "problem", plain(error), "taskstream settings")
        return
    async with open_session() as session:
        async for finding in api_findings(OperatorClient(session, access)):
            yield finding


def _print(output: Output, finding: DoctorFinding) -> None:
    if output.json:
        output.raw(msgspec.json.encode(finding))
        return
    state = (f"{finding.state:<8} ", STYLES[finding.state])
    output.text(Text.assemble(state, (f"{plain(finding.check)}: ", "bold"), plain(finding.text)))
    if finding.fix:
        output.text(Text.assemble(("         fix: ", "dim"), (plain(finding.fix), "cyan")))


async def api_findings(client: OperatorClient) -> AsyncIterator[DoctorFinding]:
    """Yield what the service says about itself."""
    access = client.access
    before = utc_now()
    try:
        answer = await client.call("GET", "/health/ready", accepted={503})
    except Unreachable as failure:
        yield DoctorFinding("API", "problem", str(failure), START)
        return
    except CommandFailed as failure:
        yield DoctorFinding("API", "problem", str(failure), "export TASKSTREAM_URL=http://HOST:PORT")
        return
    ready = answer.body
    if not isinstance(ready, dict) or "nats" not in ready:
        text = f"{access.url} is not a Taskstream service"
        yield DoctorFinding("API", "problem", text, "export TASKSTREAM_URL=http://HOST:PORT")
        return
    status = ready["status"]
    yield DoctorFinding(
        "API",
        "ok" if status == "ok" else "problem" if answer.status == 503 else "warning",
        f"{access.url} ({access.url_from}) is {status}",
        "" if status == "ok" else LOG,
    )
    for finding in (_version(ready), _clock(answer.headers, before), *_store(ready)):
        yield finding
    is_admin = False
    async for finding in _token(client):
        is_admin = is_admin or finding.state == "ok"
        yield finding
    if is_admin:
        async for finding in _alarms(client, ready):
            yield finding
        async for finding in _backends(client):
            yield finding
    else:
        for text in ready["warnings"]:
            yield DoctorFinding("warning", "warning", text, LOG)


def _version(ready: dict[str, Any]) -> DoctorFinding:
    ours, theirs = version("taskstream"), str(ready.get("version"))
    if ours == theirs:
        return DoctorFinding("version", "ok", f"{theirs}, as this command")
    return DoctorFinding("version", "warning", f"the service has {theirs}, and this command {ours}", UPGRADE)


def _clock(headers: dict[str, str], before: datetime) -> DoctorFinding:
    """Compare the service's clock, which is between the request and the answer."""
    try:
        said = parsedate_to_datetime(headers.get("date", "")).replace(tzinfo=UTC)
    except ValueError:
        return DoctorFinding("clock", "skipped", "the answer has no date")
    after = utc_now()
    off = (said - after).total_seconds() if said > after else min((said - before).total_seconds(), 0.0)
    if abs(off) > LARGEST_CLOCK_DIFFERENCE_SECONDS:
        text = f"the service's clock differs from this machine's by {off:+.0f} s: tokens and times are wrong"
        return DoctorFinding("clock", "problem", text, SYNC_CLOCKS)
    return DoctorFinding("clock", "ok", "the service's clock agrees with this machine's")


def _store(ready: dict[str, Any]) -> list[DoctorFinding]:
    storage = ready.get("storage") or {}
    found = []
    percent = storage.get("percent")
    if percent is not None:
        text = f"{percent:g} % of {size(storage.get('limitBytes'))} used, limited by {storage.get('limitedBy')}"
        is_full = not storage.get("accepting", True)
        state: FindingState = "problem" if is_full else "warning" if percent >= CROWDED_PERCENT else "ok"
        text += ": new tasks are refused" if is_full else ""
        found.append(DoctorFinding("storage", state, text, "" if state == "ok" else FREE_SPACE))
    durability = ready["nats"].get("durability")
    if durability == "always":
        found.append(DoctorFinding("durability", "ok", "acknowledged writes are on disk"))
    return found


async def _token(client: OperatorClient) -> AsyncIterator[DoctorFinding]:
    access: ServiceAccess = client.access
    make = "export TASKSTREAM_TOKEN=$(taskstream token --sub NAME --role admin)    # where TASKSTREAM_JWT_SECRET is set"
    try:
        if access.bearer() is None:
            yield DoctorFinding("token", "problem", "no token: only the service's health can be read", make)
            return
        me = (await client.get("/api/me")).body
    except ServiceRefused as refusal:
        yield DoctorFinding("token", "problem", str(refusal), make)
        return
    except CommandFailed as failure:
        yield DoctorFinding("token", "problem", str(failure), LOG)
        return
    except InvalidSettings as error:
        yield DoctorFinding("token", "problem", str(error), make)
        return
    ends = instant(me["expiresAt"])
    left = (ends - utc_now()).total_seconds() if ends else 0.0
    who = f"{', '.join(me['roles']) or 'no role'} {me['subject']}"
    if not access.is_signed and left < SOON_SECONDS:
        yield DoctorFinding("token", "warning", f"{who}: {access.token_from} ends in {duration(left)}", make)
    elif not me["may"]["readAll"]:
        yield DoctorFinding("token", "warning", f"{who} is no admin or auditor: the fleet cannot be checked", make)
        return
    yield DoctorFinding("token", "ok", access.token_from if access.is_signed else f"{who}: {access.token_from}")


async def _alarms(client: OperatorClient, ready: dict[str, Any]) -> AsyncIterator[DoctorFinding]:
    try:
        answer = (await client.get("/api/alarms")).body
    except ServiceRefused as refusal:
        yield DoctorFinding("alarms", "warning", str(refusal), LOG)
        for text in ready["warnings"]:
            yield DoctorFinding("warning", "warning", text, LOG)
        return
    for alarm in answer["alarms"]:
        yield of_alarm(alarm)
    for kind, count in answer["more"].items():
        yield DoctorFinding(kind, "warning", f"{count} more of this kind", "taskstream doctor --json")
    if not answer["alarms"]:
        yield DoctorFinding("alarms", "ok", "the service reports none")


async def _backends(client: OperatorClient) -> AsyncIterator[DoctorFinding]:
    try:
        servers = [server async for page in client.pages("/api/servers") for server in page.body["servers"]]
    except ServiceRefused as refusal:
        yield DoctorFinding("servers", "skipped", str(refusal))
        return
    online = sum(server["status"] == "online" for server in servers)
    if not servers:
        yield DoctorFinding("servers", "warning", "no server is registered, so no task can run", NO_SERVERS)
    else:
        state: FindingState = "ok" if online == len(servers) else "warning"
        fix = "" if state == "ok" else "taskstream servers list"
        yield DoctorFinding("servers", state, f"{online} of {len(servers)} answer their health checks", fix)
