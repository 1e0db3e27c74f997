"""The command line."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from . import settings
from .api.auth.roles import ROLES
from .processes.supervisor import run_processes
from .runtime import logs
from .runtime.failures import EXIT_USAGE, explained
from .runtime.process import cores
from .settings import InvalidSettings, Settings

LONGEST_TTL = 100 * 366 * 86_400
NARROWEST_MEANING = 30
"""Columns for the meaning of a setting; with fewer, it comes below the name."""
OPERATORS_COMMANDS = {
    "top": "watch the service, full screen: what waits, runs, ended and is wrong",
    "doctor": "find what is wrong, with the command that corrects it",
    "console": "open the web console with a token",
    "tasks": "list, explain, follow, submit, retry, cancel and delete tasks",
    "dead-letters": "list, retry and discard tasks that failed for good",
    "operations": "list, wait for, pause and stop what the service does to many tasks",
    "errors": "list errors in groups, the most frequent first",
    "servers": "list, register, drain, pause, restore, remove and try servers",
    "pools": "list pools with what waits in them; pause and resume them",
    "types": "list, define, pause and delete task types",
    "limits": "list and set limits of users",
    "schedules": "list, create, pause, run and delete schedules",
    "webhooks": "list, create and test webhooks; list deliveries and send them again",
    "files": "upload, list, download and delete files; make links to them",
    "keys": "make, list and revoke API keys, which programs use in place of a JWT",
}
"""Commands that speak to a running service, in `operator`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0 success, 1 failure, 2 wrong usage or settings, 130 interrupted.

    Whatever can go wrong outside of the program is one line on stderr; a traceback is a defect of the program.
    """
    _open_closed_outputs()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser(given[:1]).parse_args(given)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        status = run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has ended: `taskstream settings | head`
        _discard_output()
        return 0
    except BaseException as error:
        failure = explained(error)
        if failure is None:
            raise
        status, text = failure
        print(f"taskstream: {text}", file=sys.stderr)
        if isinstance(error, OSError):
            _discard_output()  # the output may be what failed
    return status


def _open_closed_outputs() -> None:
    """Give stdout and stderr a place to go if the caller has closed them (`>&-`)."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115


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
    from .api.auth.identity import is_plain  # noqa: PLC0415 - imports more than `up` needs

    if not is_plain(_text(value)):
        raise argparse.ArgumentTypeError("must not have control characters")
    return value


def _lifetime(value: str) -> int:
    if not value.isascii() or not value.isdecimal() or not 1 <= int(value[:20]) <= LONGEST_TTL:
        raise argparse.ArgumentTypeError(f"must be a number of seconds from 1 to {LONGEST_TTL} (100 years)")
    return int(value)


def _parser(with_operators: Sequence[str] = (*OPERATORS_COMMANDS, "completion")) -> argparse.ArgumentParser:
    """Return the parser. Of the operators' commands only those named have their options: `up` imports little."""
    parser = _Parser(prog="taskstream", description="Long tasks over plain HTTP, kept in an event log.")
    parser.add_argument("--version", action="version", version=f"taskstream {version('taskstream')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = _command(commands, "up", _up, "run API and worker, and a nats-server unless a NATS is given")
    _settings_options(up, "host", "port", "data_dir", "nats_url")
    up.add_argument(
        "--cluster",
        type=int,
        choices=(1, 3, 5),
        help="number of nats-servers to start, as a cluster for trials (TASKSTREAM_CLUSTER; default: 1)",
    )
    up.add_argument(
        "--apis", type=int, metavar="N", help="API processes, which share the port (TASKSTREAM_APIS; default: 1)"
    )
    up.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="worker processes; 0: one process is API and worker (TASKSTREAM_WORKERS; default: 1, or 0 on one core)",
    )

    api = _command(commands, "api", _api, "run the API only")
    _settings_options(api, "host", "port", "nats_url")

    worker = _command(commands, "worker", _worker, "run a worker only")
    _settings_options(worker, "nats_url")
    worker.add_argument(
        "--metrics-port",
        type=int,
        metavar="PORT",
        help="port that serves /metrics and /health (TASKSTREAM_METRICS_PORT; default: none)",
    )

    token = _command(commands, "token", _later("token"), "print a development token, signed with TASKSTREAM_JWT_SECRET")
    token.add_argument("--sub", required=True, type=_subject, help="the `sub` claim: a user; of a server, its id")
    token.add_argument("--role", action="append", choices=ROLES, help="may be repeated; default: user")
    token.add_argument(
        "--payloads",
        action=argparse.BooleanOptionalAction,
        help="the claim `payloads`: read payloads and results of other users' tasks, or not; default: no claim",
    )
    token.add_argument("--ttl", type=_lifetime, default=86_400, help="validity in seconds; default: 86400 (one day)")

    backing = _command(
        commands, "backup", _later("back_up"), "back up logs, sealed secrets and results; the service may run"
    )
    backing.add_argument("folder", metavar="FOLDER", type=_folder, help="a new or empty folder for the backup")
    _data_options(backing, "back up", "this data folder; a service may run on it")

    restoring = _command(
        commands,
        "restore",
        _later("restore_backup"),
        "restore a backup into an empty NATS or data folder, before the service starts",
    )
    restoring.add_argument("folder", metavar="FOLDER", type=_folder, help="a folder made by `taskstream backup`")
    _data_options(restoring, "restore into", "this data folder, which must have no data")
    how = restoring.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="restore into a temporary nats-server and read every event")
    how.add_argument("--again", action="store_true", help="first remove what an interrupted restore has left")

    rebuilding = _command(
        commands,
        "rebuild",
        _later("rebuild_projections"),
        "rebuild the projections from the log and report differences",
    )
    _data_options(rebuilding, "rebuild", "this data folder; a service may run on it")
    rebuilding.add_argument(
        "--recreate",
        action="store_true",
        help="first delete and recreate all derived streams, including the queue: needed to go from 1 replica to more; "
        "stop every API and worker before",
    )
    rebuilding.add_argument(
        "--index",
        action="store_true",
        help="instead, fold the log into a new index of tasks, compare the files of TASKSTREAM_INDEX_DIR and the "
        "stored snapshot with it, and store it as a snapshot",
    )

    _command(commands, "settings", _settings, "print every setting with its default and meaning")
    _command(commands, "seal-key", _seal_key, "print a new key for TASKSTREAM_SEAL_KEYS")
    resealing = _command(
        commands,
        "reseal",
        _later("reseal"),
        "seal all stored secrets with the newest key: then older keys can be removed",
    )
    _data_options(resealing, "reseal the secrets of", "this data folder; a service may run on it")

    completing = commands.add_parser("completion", help="print a script that completes commands in your shell")
    completing.description = "Print a script that completes commands and options in your shell."
    if "completion" in with_operators:
        from .operator.completion import add_shells  # noqa: PLC0415

        add_shells(completing, _parser)
    for noun, text in OPERATORS_COMMANDS.items():
        speaking = commands.add_parser(noun, help=text, description=f"{text[:1].upper()}{text[1:]}.")
        if noun in with_operators:
            from .operator.parser import define  # noqa: PLC0415 - imports much more than `up` needs

            define(noun, speaking)
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
    known = {name: (default, meaning) for name, default, meaning in settings.table()}
    for field in fields:
        name, kind = settings.variable(field), int if field == "port" else _text
        default, meaning = known[name]
        text = f"{meaning} ({name}{f'; default: {default}' if default else ''})"
        metavar = {"data_dir": "FOLDER", "nats_url": "URL"}.get(field, field.upper())
        parser.add_argument(f"--{field.replace('_', '-')}", help=text.replace("%", "%%"), type=kind, metavar=metavar)
    parser.epilog = (
        "All other settings are environment variables: `taskstream settings` lists them. "
        "An option wins over its variable."
    )


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


def _up(options: argparse.Namespace) -> int:
    loaded = _load(options)
    if loaded.worker_processes(cores()):
        asyncio.run(run_processes(loaded))
    else:
        _serve("run_all", loaded)
    return 0


def _api(options: argparse.Namespace) -> int:
    return _serve("run_api", _load(options))


def _worker(options: argparse.Namespace) -> int:
    return _serve("run_worker", _load(options))


def _serve(name: str, loaded: Settings) -> int:
    """Run a service in this process until it is stopped."""
    import uvloop  # noqa: PLC0415 - the supervisor of `up` imports neither

    from . import running  # noqa: PLC0415

    uvloop.run(getattr(running, name)(loaded))
    return 0


def _later(name: str) -> Callable[[argparse.Namespace], int]:
    """Return a command of `data_commands`, which is imported when it runs: `up` imports little."""

    def run(options: argparse.Namespace) -> int:
        from . import data_commands  # noqa: PLC0415

        status: int = getattr(data_commands, name)(options, _load(options))
        return status

    return run


def _settings(_: argparse.Namespace) -> int:
    """Print the settings: on a terminal in columns that fit, elsewhere one on a line."""
    rows = settings.table()
    if not sys.stdout.isatty():
        for name, default, meaning in rows:
            print(f"{name:<38} {default:<14} {meaning}")
        return 0
    width = shutil.get_terminal_size().columns
    indent = max(len(name) for name, _, _ in rows) + 2
    if width - indent < NARROWEST_MEANING:
        indent = 4
    for name, default, meaning in rows:
        text = f"{meaning} (default: {default})" if default else meaning
        wide = max(width - indent, NARROWEST_MEANING)
        first, *others = textwrap.wrap(text, wide, break_on_hyphens=False) or [""]
        print(f"{name:<{indent}}{first}" if indent > 4 else f"{name}\n{'':<{indent}}{first}")
        for line in others:
            print(f"{'':<{indent}}{line}")
    return 0


def _seal_key(_: argparse.Namespace) -> int:
    from .data_commands import seal_key  # noqa: PLC0415

    return seal_key()


if __name__ == "__main__":
    sys.exit(main())
