"""What `doctor` sees on this machine: settings, keys, the data folder, its disk, and NATS."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from .. import settings as settings_module
from ..errors import StoreError, TaskstreamError
from ..nats_server.folder import url_of_running
from ..nats_server.server import STORE
from ..runtime import logs
from ..settings import InvalidSettings, Settings, operator_settings, variable
from ..streams.buckets import Bucket
from ..streams.client.access import Access, shown
from ..streams.client.connection import Connection, open_connection
from ..streams.storage import MOST_RESERVED, RESERVED_SHARE
from ..streams.topology.definitions import streams
from ..streams.topology.server_checks import ServerChecks, inspect, list_streams
from ..vault.key_file import key_file, with_key_file
from ..vault.sealing import Sealer
from ..vault.secrets import SecretStore
from .findings import FREE_SPACE, START, SYNC_CLOCKS, DoctorFinding
from .text import size

NATS_SECONDS = 10.0
OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO
KEYS = ("jwt_secret", "jwt_public_key", "jwt_jwks_url")
SYNC = "taskstream settings    # in nats.conf of every server: jetstream { sync_interval: always }; then restart NATS"
MONITOR = "export TASKSTREAM_NATS_MONITOR_URL=http://NATS_HOST:8222    # and restart the service"


async def local_findings() -> AsyncIterator[DoctorFinding]:
    """Yield the findings of this machine. What it does not have is skipped."""
    try:
        found = settings_module.load()
    except InvalidSettings as error:
        yield DoctorFinding("settings", "problem", str(error), "taskstream settings")
        return
    logs.configure(replace(found, log_level="error"))
    for finding in _of_settings(found):
        yield finding
    folder = Path(found.data_dir).expanduser()  # noqa: ASYNC240 - nothing else runs meanwhile
    if found.nats_url is None and _has_store(folder):
        try:
            found = with_key_file(found)
        except InvalidSettings as error:
            yield DoctorFinding("seal keys", "problem", str(error), f"cp BACKUP/seal.key {shlex.quote(str(folder))}/")
        for finding in _of_folder(folder, found):
            yield finding
    elif found.nats_url is None:
        text = f"no {variable('nats_url')}, and no data in {folder}: the service runs elsewhere, or has never run"
        yield DoctorFinding("NATS", "skipped", text)
        return
    for finding in _of_seal_keys(found):
        yield finding
    async for finding in _of_nats(found, folder):
        yield finding


def _has_store(folder: Path) -> bool:
    return (folder / STORE).is_dir()


def _of_settings(found: Settings) -> Iterator[DoctorFinding]:
    unknown = settings_module.unknown()
    for name in unknown:
        yield DoctorFinding(
            "settings", "warning", f"{name} is not a setting", f"unset {name}    # see `taskstream settings`"
        )
    try:
        given = operator_settings()
    except InvalidSettings as error:
        yield DoctorFinding("settings", "problem", str(error), "unset TASKSTREAM_TOKEN_FILE")
        return
    if not any(getattr(found, name) for name in KEYS):
        if not (given.token or given.token_file):
            make = "export TASKSTREAM_JWT_SECRET=$(python3 -c 'import secrets; print(secrets.token_urlsafe(32))')"
            yield DoctorFinding(
                "settings", "problem", "no key: set TASKSTREAM_JWT_SECRET, a public key or a JWKS URL", make
            )
            return
    else:
        from ..api.settings_check import check_settings  # noqa: PLC0415 - imports the API

        try:
            check_settings(found)
        except InvalidSettings as error:
            yield DoctorFinding("settings", "problem", str(error), "taskstream settings")
            return
    if not unknown:
        count = len(found.shown())
        yield DoctorFinding("settings", "ok", f"{count} differ from their defaults")


def _of_folder(folder: Path, found: Settings) -> Iterator[DoctorFinding]:
    quoted = shlex.quote(str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        yield DoctorFinding("data folder", "problem", f"{folder} is not writable", f"chown -R $(id -un) {quoted}")
    space = shutil.disk_usage(folder)
    reserve = found.storage_reserve
    if reserve is None:
        reserve = min(int(RESERVED_SHARE * space.total), MOST_RESERVED)
    text = f"{size(space.free)} free of {size(space.total)} at {folder}"
    if space.free < reserve:
        text += f", less than the reserve of {size(reserve)}: new tasks are refused"
        yield DoctorFinding("disk", "problem", text, FREE_SPACE)
    elif space.free < 2 * reserve:
        yield DoctorFinding("disk", "warning", f"{text}: new tasks are refused below {size(reserve)}", FREE_SPACE)
    else:
        yield DoctorFinding("disk", "ok", text)
    key = key_file(found)
    if key.exists() and key.stat().st_mode & OF_OTHERS:
        text = f"other users of this machine can read {key}"
        yield DoctorFinding("seal keys", "problem", text, f"chmod 600 {shlex.quote(str(key))}")


def _of_seal_keys(found: Settings) -> Iterator[DoctorFinding]:
    try:
        sealer = Sealer.for_secrets(found)
    except InvalidSettings as error:
        yield DoctorFinding("seal keys", "problem", str(error), "taskstream seal-key    # makes a valid one")
        return
    if sealer.available:
        yield DoctorFinding(
            "seal keys", "ok", f"{len(sealer.fingerprints)} set; the newest has {sealer.fingerprints[0]}"
        )
    else:
        text = "none: API keys of servers and secrets of webhooks are refused"
        fix = "export TASKSTREAM_SEAL_KEYS=$(taskstream seal-key)    # the same for every process; keep it"
        yield DoctorFinding("seal keys", "problem", text, fix)


async def _of_nats(found: Settings, folder: Path) -> AsyncIterator[DoctorFinding]:
    embedded = found.nats_url is None
    url = url_of_running(folder) if embedded else found.nats_url
    if url is None:
        yield DoctorFinding("NATS", "problem", f"the nats-server of {folder} does not run", START)
        return
    start = START if embedded else "systemctl status nats    # on its machine; or correct TASKSTREAM_NATS_URL"
    connection: Connection | None = None
    try:
        async with asyncio.timeout(NATS_SECONDS):
            connection = await open_connection(url, "doctor", Access.from_settings(found))
            checks = await inspect(
                connection, found.nats_monitor_url, "always" if embedded else None, Access.from_settings(found)
            )
            yield DoctorFinding("NATS", "ok", f"nats-server {checks.version} answers at {shown(url)}")
            for finding in _of_checks(checks):
                yield finding
            async for finding in _of_streams(connection, found):
                yield finding
    except InvalidSettings as error:
        yield DoctorFinding("NATS", "problem", str(error), "taskstream settings")
    except TaskstreamError as error:
        yield DoctorFinding("NATS", "problem", str(error), start)
    except TimeoutError:
        text = f"no NATS server answers at {shown(url)} within {NATS_SECONDS:g} s"
        yield DoctorFinding("NATS", "problem", text, start)
    finally:
        if connection is not None:
            await connection.close()


def _of_checks(checks: ServerChecks) -> Iterator[DoctorFinding]:
    match checks.durability:
        case "always":
            yield DoctorFinding("durability of NATS", "ok", "it syncs before it acknowledges")
        case "interval":
            text = "it acknowledges before it has synced: a power cut can lose acknowledged tasks"
            yield DoctorFinding("durability of NATS", "problem", text, SYNC)
        case "unknown":
            yield DoctorFinding(
                "durability of NATS", "warning", "whether it syncs before it acknowledges is unknown", MONITOR
            )
    if abs(checks.clock_difference_ms) > 1_000:
        text = f"it differs from this machine's by {checks.clock_difference_ms / 1000:+.1f} s"
        yield DoctorFinding("clock of NATS", "problem", text, SYNC_CLOCKS)
    else:
        yield DoctorFinding("clock of NATS", "ok", "it agrees with this machine's")


async def _of_streams(connection: Connection, found: Settings) -> AsyncIterator[DoctorFinding]:
    present = (await list_streams(connection)).sizes
    wanted: list[dict[str, Any]] = list(streams(found))
    missing = sorted({str(stream["name"]) for stream in wanted} - present.keys())
    if missing:
        text = f"missing: {', '.join(missing)}; a start of the service makes them"
        yield DoctorFinding("streams", "problem" if len(missing) < len(wanted) else "warning", text, START)
        return
    total = sum(stream.size_bytes for stream in present.values())
    yield DoctorFinding("streams", "ok", f"all {len(wanted)} are there, {size(total)}")
    try:
        lacking = await SecretStore(Bucket(connection, "secrets"), Sealer.for_secrets(found)).missing_key()
    except (StoreError, InvalidSettings):
        return
    if lacking:
        text = f"the stored secrets are sealed with the key {lacking}, which this environment lacks"
        fix = "export TASKSTREAM_SEAL_KEYS=NEW,OLD    # with the lost key from your backup of seal.key"
        yield DoctorFinding("seal keys", "problem", text, fix)
