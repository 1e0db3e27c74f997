"""The commands that make tokens and keys and work on data. They import most of the program; `cli` does so late."""

from __future__ import annotations

import argparse
import sys
import time

import uvloop
from msgspec.structs import replace

from .api.auth.authenticator import make_token
from .backup import backup, restore
from .backup.folder import Progress
from .backup.rebuild import rebuild, recreate
from .backup.rebuild_index import RebuiltIndex, rebuild_index
from .container import open_container
from .runtime.failures import EXIT_FAILED
from .settings import InvalidSettings, Settings
from .streams.buckets import Bucket
from .streams.client.access import check_none_given, for_embedded, without_external_nats
from .vault.key_file import with_key_file
from .vault.sealing import Sealer, SealingUnavailable, new_key
from .vault.secrets import Resealed, SecretStore

PROGRESS_SECONDS = 0.1


def token(options: argparse.Namespace, loaded: Settings) -> int:
    """Print a development token."""
    if loaded.jwt_secret is None:
        raise InvalidSettings(
            "TASKSTREAM_JWT_SECRET is not set: set it to the secret of the API, which signs the token"
        )
    print(
        make_token(
            loaded.jwt_secret,
            options.sub,
            options.role or ["user"],
            options.ttl,
            time.time(),
            issuer=loaded.jwt_issuer,
            audience=loaded.jwt_audience,
            payloads=options.payloads,
        )
    )
    return 0


def seal_key() -> int:
    """Print a new key."""
    print(new_key())
    return 0


def back_up(options: argparse.Namespace, given: Settings) -> int:
    """Make a backup."""
    loaded = _for_data(options, given)

    async def work() -> None:
        async with backup.source(loaded) as connection:
            manifest = await backup.back_up(connection, options.folder, _show_progress())
        for part in manifest.streams:
            print(f"{part.name:<14} {part.messages:>10,} messages, {part.file_bytes:>14,} bytes")
        print(f"backed up to {options.folder}; verify it with `taskstream restore --check {options.folder}`")

    uvloop.run(work())
    return 0


def restore_backup(options: argparse.Namespace, given: Settings) -> int:
    """Restore a backup, or check one."""
    loaded = _for_data(options, given)

    async def work() -> None:
        if options.check:
            done = await restore.check(options.folder, loaded, _show_progress())
        else:
            done = await restore.restore(options.folder, loaded, _show_progress(), again=options.again)
        print("\n".join(done.lines("whole" if options.check else "restored")))
        for warning in done.warnings():
            print(f"taskstream: {warning}", file=sys.stderr)

    uvloop.run(work())
    return 0


def rebuild_projections(options: argparse.Namespace, given: Settings) -> int:
    """Rebuild the projections and report differences."""
    loaded = _for_data(options, given)

    async def work() -> None:
        started = time.perf_counter()
        async with backup.nats_of(loaded) as url:
            embedded = loaded.nats_url is None
            fitting = for_embedded(replace(loaded, cluster=backup.servers_of(loaded))) if embedded else loaded
            if options.recreate:
                await recreate(fitting, url)
            async with await open_container(fitting, url, "always" if embedded else None) as container:
                if options.index:
                    _print_index(await rebuild_index(container))
                differences = [] if options.index else await rebuild(container)
        seconds = time.perf_counter() - started
        for found in differences:
            state = (
                f"{found.changed} changed, {found.missing} missing, {found.extra} extra: all corrected"
                if found.any
                else "no differences"
            )
            print(f"{found.bucket}: {found.events} events, {found.keys} keys; {state}")
        print(f"done in {seconds:.1f} s")

    uvloop.run(work())
    return 0


def _print_index(found: RebuiltIndex) -> None:
    for one in found.compared:
        told = one.difference
        state = (
            f"{told.changed} changed, {told.missing} missing, {told.extra} extra, {told.figures} figures changed: "
            "stop its process and delete the file"
            if told.any
            else "no differences"
        )
        print(f"{one.name}: {told.tasks} tasks up to event {one.sequence}; {state}")
    for name, reason in found.unusable.items():
        print(f"{name}: not compared: {reason}")
    stored = "stored as a snapshot" if found.is_stored else "nothing to store"
    print(f"index: {found.events} events, {found.tasks} tasks; {stored}")


def reseal(options: argparse.Namespace, given: Settings) -> int:
    """Seal all secrets with the newest key."""
    loaded = _for_data(options, given)

    async def work() -> Resealed:
        async with backup.source(loaded) as connection:
            return await SecretStore(Bucket(connection, "secrets"), Sealer.for_secrets(loaded)).reseal()

    try:
        done = uvloop.run(work())
    except SealingUnavailable as error:
        raise InvalidSettings(str(error)) from None
    print(f"sealed with the newest key: {done.resealed:,} now, {done.current:,} before")
    if done.closed:
        print(
            f"taskstream: no key opens {len(done.closed):,} secrets: {', '.join(done.closed)}. Restore their key, or "
            "register the servers and webhooks again",
            file=sys.stderr,
        )
    return EXIT_FAILED if done.closed else 0


def _for_data(options: argparse.Namespace, loaded: Settings) -> Settings:
    """Return the settings with a data folder's key file; --data-dir overrides all settings for an external NATS."""
    if options.data_dir is not None:
        loaded = without_external_nats(loaded)
    if loaded.nats_url is not None:
        return loaded
    check_none_given(loaded)
    return with_key_file(loaded)


def _show_progress() -> Progress:
    """Return a callback that shows the progress if stderr is a terminal."""
    shown_at = 0.0

    def show(name: str, done: int, whole: int) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at > PROGRESS_SECONDS or done == whole:
            shown_at = time.monotonic()
            of = f" of {whole / 1e6:,.1f}" if whole else ""
            print(f"\r\033[K{name} {done / 1e6:,.1f}{of} MB", end="\r", file=sys.stderr, flush=True)

    return show if sys.stderr.isatty() else lambda *_: None
