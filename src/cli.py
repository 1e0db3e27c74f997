"""The command line."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import uvloop
from msgspec.structs import replace

from . import running, settings
from .api.auth.access import ROLES
from .api.auth.authenticator import is_plain, make_token
from .backup import backup, restore
from .backup.folder import Progress
from .backup.rebuild import rebuild, recreate
from .container import open_container
from .errors import TaskstreamError
from .runtime import logs
from .settings import InvalidSettings, Settings
from .streams.buckets import Bucket
from .streams.client.access import check_none_given, without_external_nats
from .vault.key_file import with_key_file
from .vault.sealing import Sealer, SealingUnavailable, new_key
from .vault.secrets import Resealed, SecretStore

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
"""128 and the number of SIGINT, as shells have it."""
PROGRESS_SECONDS = 0.1
LONGEST_TTL = 100 * 366 * 86_400
REMEDIES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "choose another place, or run the command as the user who owns it"),
    errno.EROFS: "choose a place on another file system",
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "choose another place"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, or choose a place on another disk"),
    errno.EFBIG: "raise the limit of file sizes (`ulimit -f`)",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (`ulimit -n`)"),
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "the disk may be failing: see the system's log",
}
"""What to do about an error of the operating system."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0 success, 1 failure, 2 wrong usage or settings, 130 interrupted.

    Whatever can go wrong outside of the program is one line on stderr; a traceback is a defect of the program.
    """
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        status = run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has ended: `taskstream settings | head`
        _discard_output()
        return 0
    except BaseException as error:
        failure = _explained(error)
        if failure is None:
            raise
        status, text = failure
        print(f"taskstream: {text}", file=sys.stderr)
        if isinstance(error, OSError):
            _discard_output()  # the output may be what failed
    return status


def _explained(error: BaseException) -> tuple[int, str] | None:
    """Return the exit status and the text for a failure that comes from outside of the program; None for a defect."""
    match error:
        case InvalidSettings():
            return EXIT_USAGE, str(error)
        case TaskstreamError():
            return EXIT_FAILED, str(error)
        case KeyboardInterrupt():
            return EXIT_INTERRUPTED, "interrupted"
        case OSError(strerror=str(reason)):
            place = f"{error.filename2 or error.filename}: " if error.filename else ""
            remedy = REMEDIES.get(error.errno or 0)
            return EXIT_FAILED, f"{place}{reason}" + (f": {remedy}" if remedy else "")
        case BaseExceptionGroup(exceptions=[first, *_]):
            return _explained(first)
        case _:
            return None


def _discard_output() -> None:
    """Send what is left of stdout nowhere: the interpreter flushes it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"taskstream: {message}; see `{self.prog} --help`\n")


def _text(value: str) -> str:
    """Return an option's value. Raises ArgumentTypeError for none: an unset variable of a shell."""
    if not value.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return value


def _folder(value: str) -> Path:
    return Path(_text(value))


def _subject(value: str) -> str:
    if not is_plain(_text(value)):
        raise argparse.ArgumentTypeError("must not have control characters")
    return value


def _lifetime(value: str) -> int:
    if not value.isascii() or not value.isdecimal() or not 1 <= int(value[:20]) <= LONGEST_TTL:
        raise argparse.ArgumentTypeError(f"must be a number of seconds from 1 to {LONGEST_TTL} (100 years)")
    return int(value)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="taskstream", description="Long tasks over plain HTTP, kept in an event log.")
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
    token.add_argument("--sub", required=True, type=_subject, help="the `sub` claim: a user; of a server, its id")
    token.add_argument("--role", action="append", choices=ROLES, help="may be repeated; default: user")
    token.add_argument("--ttl", type=_lifetime, default=86_400, help="validity in seconds; default: 86400 (one day)")

    backing = _command(commands, "backup", _backup, "back up logs, sealed secrets and results; the service may run")
    backing.add_argument("folder", metavar="FOLDER", type=_folder, help="a new or empty folder for the backup")
    _data_options(backing, "back up", "this data folder; a service may run on it")

    restoring = _command(
        commands, "restore", _restore, "restore a backup into an empty NATS or data folder, before the service starts"
    )
    restoring.add_argument("folder", metavar="FOLDER", type=_folder, help="a folder made by `taskstream backup`")
    _data_options(restoring, "restore into", "this data folder, which must have no data")
    how = restoring.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="restore into a temporary nats-server and read every event")
    how.add_argument("--again", action="store_true", help="first remove what an interrupted restore has left")

    rebuilding = _command(commands, "rebuild", _rebuild, "rebuild the projections from the log and report differences")
    _data_options(rebuilding, "rebuild", "this data folder; a service may run on it")
    rebuilding.add_argument(
        "--recreate",
        action="store_true",
        help="first delete and recreate all derived streams, including the queue: needed to go from 1 replica to more; "
        "stop every API and worker before",
    )

    _command(commands, "settings", _settings, "print every setting with its default and meaning")
    _command(commands, "seal-key", _seal_key, "print a new key for TASKSTREAM_SEAL_KEYS")
    resealing = _command(
        commands, "reseal", _reseal, "seal all stored secrets with the newest key: then older keys can be removed"
    )
    _data_options(resealing, "reseal the secrets of", "this data folder; a service may run on it")
    return parser


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def _data_options(parser: argparse.ArgumentParser, verb: str, folder: str) -> None:
    """Add the options that say where the data is."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--nats-url", type=_text, help=f"{verb} this NATS (default: TASKSTREAM_NATS_URL)")
    where.add_argument("--data-dir", type=_text, help=f"{verb} {folder} (default: TASKSTREAM_DATA_DIR)")


def _settings_options(parser: argparse.ArgumentParser, *fields: str) -> None:
    """Add an option for each setting; it wins over the setting's variable."""
    meanings = {name: meaning for name, _, meaning in settings.table()}
    for field in fields:
        kind = int if field == "port" else _text
        parser.add_argument(f"--{field.replace('_', '-')}", help=meanings[settings.variable(field)], type=kind)


def _load(options: argparse.Namespace) -> Settings:
    fields = Settings.__struct_fields__
    loaded = settings.load(**{name: value for name, value in vars(options).items() if name in fields})
    logs.configure(loaded)
    if loaded.nats_url is None:
        _check_folder(Path(loaded.data_dir))
    for name in settings.unknown():
        print(f"taskstream: {name} is not a setting; `taskstream settings` lists them", file=sys.stderr)
    return loaded


def _check_folder(folder: Path) -> None:
    """Raise InvalidSettings if a file is where the data folder or a folder above it should be."""
    present = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if present.exists() and not present.is_dir():
        raise InvalidSettings(f"{settings.variable('data_dir')}={str(folder)!r}: {present} is not a folder")


def _load_for_data(options: argparse.Namespace) -> Settings:
    """Load as `_load` does, with a data folder's key file; --data-dir overrides all settings for an external NATS."""
    loaded = _load(options)
    if options.data_dir is not None:
        loaded = without_external_nats(loaded)
    if loaded.nats_url is not None:
        return loaded
    check_none_given(loaded)
    return with_key_file(loaded)


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
    loaded = _load_for_data(options)

    async def work() -> None:
        started = time.perf_counter()
        async with backup.nats_of(loaded) as url:
            embedded = loaded.nats_url is None
            fitting = running.for_embedded(replace(loaded, cluster=backup.servers_of(loaded))) if embedded else loaded
            if options.recreate:
                await recreate(fitting, url)
            async with await open_container(fitting, url, "always" if embedded else None) as container:
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
            print(f"{part.name:<14} {part.messages:>10,} messages, {part.file_bytes:>14,} bytes")
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
    for name, default, meaning in settings.table():
        print(f"{name:<38} {default:<14} {meaning}")
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
