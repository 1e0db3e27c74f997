"""Options that select tasks: every filter of the index, as query parameters of lists and as JSON of commands."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, get_args

from ..events.task import PRIORITIES, FailureKind
from ..index.facts import Hold
from ..instants import milliseconds, parse_instant
from ..projections.task_view import Status
from .commands import name_and_value
from .failures import ServiceRefused, WrongUsage

TIMES = {
    "since": "last changed at or after: `1h`, `30m`, `2d`, or ISO 8601 with an offset",
    "before": "last changed before",
    "created-since": "submitted at or after",
    "created-before": "submitted before",
    "started-since": "first started at or after",
    "started-before": "first started before",
    "ended-since": "ended at or after",
    "ended-before": "ended before",
}
LISTS = {
    "type": "task type",
    "pool": "pool",
    "server": "server that runs the task, or ran it last",
}
TEXTS = {
    "error": ("TEXT", "a part of the error, in any case"),
    "shape": ("FINGERPRINT", "fingerprint of the error, from `taskstream errors`"),
    "min-run": ("DURATION", "ran at least so long: `90s`, `5m`"),
    "key": ("KEY", "concurrency key"),
    "id": ("PREFIX", "beginning of the id"),
    "batch": ("ID", "batch"),
    "schedule": ("ID", "recurring schedule"),
    "project": ("NAME", "project of the queue surface"),
    "owner": ("USER", "user; `*`: all users"),
}
RENAMED = {"since": "updatedSince", "before": "updatedBefore"}
DEAD_LETTER_NAMES = {"since": "since", "before": "before"}

Of = Literal["tasks", "dead letters"]


def filter_options(parser: argparse.ArgumentParser, of: Of = "tasks") -> None:
    """Add the options. A list may be repeated, or have commas."""
    group = parser.add_argument_group("filters", "Options of different names must all match; of one name, any.")
    if of == "tasks":
        statuses = [name.lower() for name in get_args(Status)]
        group.add_argument(
            "--status", action="append", type=_chosen(statuses), metavar="STATUS", help=", ".join(statuses)
        )
    kinds = get_args(FailureKind)
    group.add_argument("--kind", action="append", type=_chosen(kinds), metavar="KIND", help=", ".join(kinds))
    holds = get_args(Hold)
    group.add_argument(
        "--hold", action="append", type=_chosen(holds), metavar="HOLD", help="what it waits for: " + ", ".join(holds)
    )
    group.add_argument(
        "--priority", action="append", type=_chosen(PRIORITIES), metavar="PRIORITY", help=", ".join(PRIORITIES)
    )
    for name, text in LISTS.items():
        group.add_argument(f"--{name}", action="append", type=_split, metavar="NAME", help=text)
    for name, (metavar, text) in TEXTS.items():
        group.add_argument(f"--{name}", metavar=metavar, help=text)
    group.add_argument("--attempts", type=int, metavar="N", help="its last attempt has this number, or a higher one")
    for name in ("label", "payload"):
        text = "label it requires or prefers" if name == "label" else "searchable field of the payload"
        group.add_argument(f"--{name}", action="append", type=name_and_value, metavar="NAME=VALUE", help=text)
    for name, text in TIMES.items():
        what = text.replace("last changed", "failed") if of == "dead letters" else text
        group.add_argument(f"--{name}", metavar="TIME", help=what)


def fields(options: argparse.Namespace, of: Of = "tasks") -> dict[str, Any]:
    """Return the filter that the options name, as the API's JSON has it, but for `owner`; empty: no option is given."""
    found: dict[str, Any] = {}
    for name in ("status", "kind", "hold", "priority", *LISTS):
        if given := getattr(options, name, None):
            values = [value for part in given for value in part]
            found[name] = [value.upper() for value in values] if name == "status" else values
    for name in [*TEXTS, *TIMES]:
        given = getattr(options, name.replace("-", "_"))
        if given is not None and name != "owner":
            found[_field(name, of)] = given
    if options.attempts is not None:
        found["attempts"] = options.attempts
    for name, field in (("label", "labels"), ("payload", "payload")):
        if given := getattr(options, name):
            found[field] = dict(given)
    return found


def query(options: argparse.Namespace, of: Of = "tasks") -> list[tuple[str, str]]:
    """Return the same filter as parameters of a query, the owner included."""
    found: list[tuple[str, str]] = []
    for name, value in fields(options, of).items():
        if isinstance(value, list):
            found += [(name, str(each)) for each in value]
        elif isinstance(value, dict):
            found += [(f"{name.removesuffix('s')}.{key}", each) for key, each in value.items()]
        else:
            found.append((name, str(value)))
    return [*found, ("owner", options.owner)] if options.owner is not None else found


def fixed(given: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return a filter whose relative times are instants: it selects the same tasks however long a command takes.

    Raises WrongUsage.
    """
    found = dict(given)
    for name, value in given.items():
        if name.lower().endswith(("since", "before")):
            try:
                found[name] = milliseconds(parse_instant(value, now))
            except (ValueError, OverflowError):
                raise WrongUsage(f"{option_of(name)} {value!r}: must be `90s`, `30m`, `1h`, `2d` or ISO 8601") from None
    return found


def option_of(path: str) -> str:
    """Return the option for a place in a request, such as `$.filter.endedSince` or `minRun`."""
    name = path.removeprefix("$.").removeprefix("filter.")
    if name.startswith("ids["):
        return "ID"
    back = {field: option for option, field in RENAMED.items()} | {"labels": "label"}
    name = back.get(name.split(".")[0], name)
    return "--" + "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name)


def explained(refusal: ServiceRefused) -> ServiceRefused:
    """Return a refusal that names the option instead of the place in the request."""
    head, colon, rest = str(refusal).partition(": ")
    if refusal.http_status == 400 and colon and refusal.path and head == refusal.path:
        return ServiceRefused(f"{option_of(refusal.path)}: {rest}", refusal.http_status, refusal.path)
    return refusal


def _field(name: str, of: Of) -> str:
    names = DEAD_LETTER_NAMES if of == "dead letters" else RENAMED
    first, *rest = names.get(name, name).split("-")
    return first + "".join(word.capitalize() for word in rest)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _chosen(allowed: Iterable[str]) -> Any:
    known = list(allowed)

    def choose(text: str) -> list[str]:
        values = [part.lower() for part in _split(text)]
        for value in values:
            if value not in known:
                raise argparse.ArgumentTypeError(f"{value!r} is not one of {', '.join(known)}")
        return values

    choose.known = known  # type: ignore[attr-defined]  # for shell completion
    return choose
