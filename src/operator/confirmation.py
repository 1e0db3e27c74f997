"""Confirmation of what changes much: on a terminal by typing the number, in scripts by `--yes`."""

from __future__ import annotations

import sys

from .failures import CommandFailed, WrongUsage
from .output import Output
from .text import plain

UNASKED = 100
"""Tasks that a command changes without a question, if they are of one owner."""


def confirm_count(
    output: Output, count: int, verb: str, whose: str, *, yes: bool, always: bool, what: str = "tasks"
) -> None:
    """Ask for the number of tasks, or of `what`.

    Raises CommandFailed if it is not given, WrongUsage without a terminal.
    """
    if yes or count == 0 or (count <= UNASKED and not always):
        return
    question = f"{verb} {count:,} {what}{whose}?"
    if _ask(output, question, f"type {count} to go on: ", ", or --dry-run to only look").replace(",", "") != str(count):
        raise CommandFailed("nothing was changed: the number was not confirmed")


def confirm(output: Output, question: str, *, yes: bool) -> None:
    """Ask a yes-or-no question. Raises CommandFailed for no, WrongUsage without a terminal."""
    if not yes and _ask(output, question, "type yes to go on: ").lower() not in ("y", "yes"):
        raise CommandFailed("nothing was changed")


def _ask(output: Output, question: str, prompt: str, hint: str = "") -> str:
    if not sys.stdin.isatty() or not output.messages.is_terminal:
        raise WrongUsage(f"{question} Nothing was changed: give --yes to confirm{hint}")
    sys.stderr.write(f"{plain(question)} {prompt}")
    sys.stderr.flush()
    return sys.stdin.readline().strip()
