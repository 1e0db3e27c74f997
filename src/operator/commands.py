"""How an operators' command is declared and run: common options, one client, errors as one line."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec import Raw

from ..api.auth.roles import ROLES
from ..clock import utc_now
from .access import ServiceAccess, find_access
from .client import OperatorClient, Query, decode, open_client
from .failures import CommandFailed
from .output import Column, Output, TablePrinter
from .text import plain

DEFAULT_LIMIT = 50
EVENTS_PAGE = 1_000
"""Events of a page; the API's maximum."""
MOST = 10_000_000


class OperatorSession:
    """What a command works with."""

    def __init__(self, client: OperatorClient, output: Output, options: argparse.Namespace) -> None:
        self.client = client
        self.output = output
        self.options = options
        self.now = utc_now()
        """When the command started."""

    @property
    def access(self) -> ServiceAccess:
        return self.client.access

    async def table(
        self, where: str, name: str, columns: Sequence[Column], query: Query = (), empty: str = "none"
    ) -> int:
        """Print a list of the API, page after page: a table, or one JSON object a line."""
        options, output = self.options, self.output
        limit = None if options.all else options.limit
        printer = TablePrinter(output, columns)
        count, more = 0, False
        async for page in self.client.pages(where, query, limit):
            entries = page.raw(name)
            more = bool(page.body.get("nextCursor"))
            if limit is not None:
                more = more or len(entries) > limit - count
                entries = entries[: limit - count]
            count += len(entries)
            self.entries(entries, printer)
            output.console.file.flush()
        if not output.json:
            if count == 0:
                output.note(empty)
            elif more:
                output.note(f"the first {count}; there are more: --limit N, or --all")
        return 0

    def entries(self, entries: Sequence[Raw], printer: TablePrinter) -> None:
        """Print entries of a list."""
        if self.output.json:
            for entry in entries:
                self.output.raw(entry, flush=False)
        elif entries:
            printer.add([decode(entry) for entry in entries])


Command = Callable[[OperatorSession], Awaitable[int]]


class NounCommands:
    """The commands of one noun."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(self, name: str, run: Command, text: str, *arguments: str, lists: bool = False) -> argparse.ArgumentParser:
        """Add a command. `arguments`: names of positional ones. `lists`: it has --limit and --all."""
        parser: argparse.ArgumentParser = self._subparsers.add_parser(name, help=text, description=_sentence(text))
        for argument in arguments:
            parser.add_argument(argument, metavar=argument.upper())
        runs(parser, run)
        if lists:
            list_options(parser)
        return parser


def runs(parser: argparse.ArgumentParser, run: Command) -> None:
    """Make a parser run a command, with the options that all have."""
    service_options(parser)
    parser.add_argument("--json", action="store_true", help="print the API's JSON: one object a line")
    parser.add_argument("--exact", action="store_true", help="print instants instead of `5m ago`")
    parser.set_defaults(run=_runner(run))


def service_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the service is, and as whom to speak."""
    group = parser.add_argument_group("service")
    group.add_argument("--url", help="default: TASKSTREAM_URL, else http://TASKSTREAM_HOST:TASKSTREAM_PORT")
    group.add_argument(
        "--token",
        help="default: TASKSTREAM_TOKEN, the content of TASKSTREAM_TOKEN_FILE, or signed with TASKSTREAM_JWT_SECRET; "
        "others on the machine can read options",
    )
    group.add_argument("--as", dest="sub", metavar="USER", help="the user of a signed token; default: your login")
    group.add_argument("--role", action="append", choices=ROLES, help="of a signed token; default: admin")


def list_options(parser: argparse.ArgumentParser) -> None:
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "--limit", type=whole_number, default=DEFAULT_LIMIT, metavar="N", help=f"entries; default: {DEFAULT_LIMIT}"
    )
    amount.add_argument("--all", action="store_true", help="all entries")


def whole_number(text: str, most: int = MOST) -> int:
    """Return a positive number. Raises ArgumentTypeError."""
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:20]) <= most:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {most:,}")
    return int(text)


def events_number(text: str) -> int:
    """Return a number of events of one page. Raises ArgumentTypeError."""
    return whole_number(text, EVENTS_PAGE)


def name_and_value(text: str) -> tuple[str, str]:
    """Return the parts of `name=value`. Raises ArgumentTypeError."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=VALUE")
    return name, value


UNEXPECTED = "the answer is not of the form that this version reads: do --url and this command have the same version?"


def report(failure: CommandFailed) -> int:
    """Write a failure as one line on stderr; return its exit status."""
    print(f"taskstream: {plain(failure)}", file=sys.stderr)
    return failure.status


def _runner(run: Command) -> Callable[[argparse.Namespace], int]:
    def start(options: argparse.Namespace) -> int:
        try:
            return asyncio.run(_within(run, options))
        except CommandFailed as failure:
            return report(failure)
        except (AttributeError, KeyError, TypeError) as error:
            return report(CommandFailed(f"{UNEXPECTED} ({type(error).__name__}: {error})"))

    return start


async def _within(run: Command, options: argparse.Namespace) -> int:
    access = find_access(options)
    output = Output(json=options.json)
    async with open_client(access) as client:
        if access.is_signed:
            output.note(f"as {access.token_from}")
        return await run(OperatorSession(client, output, options))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def answer_of(body: Any, name: str) -> Any:
    """Return a field of an answer, None if it has none."""
    return body.get(name) if isinstance(body, dict) else None
