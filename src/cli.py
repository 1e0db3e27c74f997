"""The command line."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop
from msgspec.structs import replace

from . import running, settings
from .api.auth.access import ROLES
from .api.auth.authenticator import make_token
from .backup import backup, restore
from .backup.folder import Progress
from .backup.rebuild import rebuild, recreate
from .container import open_container
from .errors import TaskstreamError
from .runtime import logs
from .settings import InvalidSettings, Settings
from .streams.buckets import Bucket
from .vault.key_file import with_key_file
from .vault.sealing import Sealer, SealingUnavailable, new_key
from .vault.secrets import Resealed, SecretStore

EXIT_FAILED = 1
EXIT_USAGE = 2
PROGRESS_SECONDS = 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0 success, 1 failure, 2 wrong usage or settings."""
    options = _parser().parse_args(arguments)
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except InvalidSettings as error:
        print(f"taskstream: {error}", file=sys.stderr)
        return EXIT_USAGE
    except TaskstreamError as error:
        print(f"taskstream: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="taskstream", description="Long tasks over plain HTTP, kept in an event log.")
    parser.add_argument("--version", action="version", version=f"taskstream {version('taskstream')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = _command(
        commands, "up", _service(running.run_all), "run API and worker, and a nats-server unless a NATS is given"
    )
    _settings_options(up, "host", "port", "data_dir", "nats_url")
    up.add_argument(
        "--cluster", type=int, choices=(1, 3, 5), help="number of nats-servers to start, as a cluster for trials"
    )

    api = _command(commands, "api", _service(running.run_api), "run the API only")
    _settings_options(api, "host", "port", "nats_url")

    worker = _command(commands, "worker", _service(running.run_worker), "run a worker only")
    _settings_options(worker, "nats_url")
    worker.add_argument("--metrics-port", type=int, help="port that serves /metrics and /health")

    token = _command(commands, "token", _token, "print a development token, signed with TASKSTREAM_JWT_SECRET")
    token.add_argument("--sub", required=True, help="user name: the `sub` claim")
    token.add_argument("--role", action="append", choices=ROLES, help="may be repeated; default: user")
    token.add_argument("--ttl", type=int, default=86_400, help="validity in seconds; default: 86400 (one day)")

    backing = _command(commands, "backup", _backup, "back up logs, keys and results while the service runs")
    backing.add_argument("folder", metavar="FOLDER", type=Path, help="an empty or new folder")
    of = backing.add_mutually_exclusive_group()
    of.add_argument("--nats-url", help="back up this NATS")
    of.add_argument("--data-dir", help="back up this data folder, running or not (default: TASKSTREAM_DATA_DIR)")

    restoring = _command(
        commands, "restore", _restore, "restore a backup into an empty NATS or data folder, before the service starts"
    )
    restoring.add_argument("folder", metavar="FOLDER", type=Path, help="a folder made by `taskstream backup`")
    into = restoring.add_mutually_exclusive_group()
    into.add_argument("--nats-url", help="restore into this NATS")
    into.add_argument("--data-dir", help="restore into this data folder (default: TASKSTREAM_DATA_DIR)")
    how = restoring.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="restore into a temporary nats-server and read every event")
    how.add_argument("--again", action="store_true", help="first remove what an interrupted restore has left")

    rebuilding = _command(commands, "rebuild", _rebuild, "rebuild the projections from the log and report differences")
    _settings_options(rebuilding, "nats_url")
    rebuilding.add_argument(
        "--recreate",
        action="store_true",
        help="first delete and recreate all derived streams, including the queue: needed to go from 1 replica to more; "
        "stop every API and worker before",
    )

    _command(commands, "settings", _settings, "print every setting with its default and meaning")
    _command(commands, "seal-key", _seal_key, "print a new key for TASKSTREAM_SEAL_KEYS")
    resealing = _command(
        commands, "reseal", _reseal, "seal all secrets with the newest key, running or not; then older keys can go"
    )
    at = resealing.add_mutually_exclusive_group()
    at.add_argument("--nats-url", help="reseal the secrets of this NATS")
    at.add_argument("--data-dir", help="reseal those of this data folder (default: TASKSTREAM_DATA_DIR)")
    return parser


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def _settings_options(parser: argparse.ArgumentParser, *fields: str) -> None:
    """Add an option for each setting; it wins over the setting's variable."""
    meanings = {name: meaning for name, _, meaning in settings.table()}
    for field in fields:
        numeric = {"type": int} if field == "port" else {}
        parser.add_argument(f"--{field.replace('_', '-')}", help=meanings[settings.variable(field)], **numeric)  # type: ignore[arg-type]


def _load(options: argparse.Namespace) -> Settings:
    fields = Settings.__struct_fields__
    loaded = settings.load(**{name: value for name, value in vars(options).items() if name in fields})
    logs.configure(loaded)
    for name in settings.unknown():
        print(f"taskstream: {name} is not a setting; `taskstream settings` lists them", file=sys.stderr)
    return loaded


def _load_for_data(options: argparse.Namespace) -> Settings:
    """Load as `_load` does; --data-dir overrides TASKSTREAM_NATS_URL. The key file of a data folder is read."""
    loaded = _load(options)
    if options.data_dir is not None:
        loaded = replace(loaded, nats_url=None)
    return loaded if loaded.nats_url else with_key_file(loaded)


def _service(serve: Callable[[Settings], Coroutine[Any, Any, None]]) -> Callable[[argparse.Namespace], int]:
    """Return the command that runs a service until it is stopped."""

    def run(options: argparse.Namespace) -> int:
        uvloop.run(serve(_load(options)))
        return 0

    return run


def _token(options: argparse.Namespace) -> int:
    loaded = _load(options)
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
        )
    )
    return 0


def _rebuild(options: argparse.Namespace) -> int:
    loaded = _load(options)

    async def work() -> None:
        url = loaded.nats_url
        if url is None:
            raise InvalidSettings("no NATS given: set --nats-url or TASKSTREAM_NATS_URL")
        started = time.perf_counter()
        if options.recreate:
            await recreate(loaded, url)
        async with await open_container(loaded, url) as container:
            differences = await rebuild(container)
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


def _backup(options: argparse.Namespace) -> int:
    loaded = _load_for_data(options)

    async def work() -> None:
        async with backup.source(loaded) as connection:
            manifest = await backup.back_up(connection, options.folder, _show_progress())
        for part in manifest.streams:
            print(f"{part.name:<12} {part.messages:>10,} messages, {part.file_bytes:>14,} bytes")
        print(f"backed up to {options.folder}; verify it with `taskstream restore --check {options.folder}`")

    uvloop.run(work())
    return 0


def _restore(options: argparse.Namespace) -> int:
    loaded = _load_for_data(options)

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


def _settings(_: argparse.Namespace) -> int:
    try:
        for name, default, meaning in settings.table():
            print(f"{name:<38} {default:<14} {meaning}")
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has ended: `taskstream settings | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes stdout at exit
    return 0


def _reseal(options: argparse.Namespace) -> int:
    loaded = _load_for_data(options)

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


def _seal_key(_: argparse.Namespace) -> int:
    print(new_key())
    return 0


if __name__ == "__main__":
    sys.exit(main())
