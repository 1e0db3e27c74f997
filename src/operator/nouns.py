"""What the commands of most nouns do: read one thing, change one thing."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .client import Query
from .commands import NounCommands, OperatorSession
from .confirmation import confirm

Body = Mapping[str, Any]
Facts = Callable[[OperatorSession, Body], Iterable[tuple[str, object]]]


async def show(session: OperatorSession, where: str, facts: Facts, query: Query = ()) -> int:
    """Print one thing: its facts, or the JSON of the API."""
    answer = await session.client.get(where, query)
    if session.output.json:
        session.output.raw(answer.content)
    else:
        session.output.facts(facts(session, answer.body))
    return 0


async def change(
    session: OperatorSession,
    method: str,
    where: str,
    body: Any = None,
    done: Callable[[Body], str] | str = "done",
) -> int:
    """Change one thing, and say in a line what was done, or print the JSON of the answer."""
    answer = await session.client.send(method, where, body)
    if session.output.json:
        session.output.raw(answer.content)
    else:
        session.output.line(done if isinstance(done, str) else done(answer.body))
    return 0


def add_pausing(commands: NounCommands, noun: str, where: Callable[[argparse.Namespace], str], name: str) -> None:
    """Add `pause` and `resume`."""

    async def pause(session: OperatorSession) -> int:
        named = getattr(session.options, name)
        return await change(
            session, "POST", f"{where(session.options)}/pause", {"reason": session.options.reason}, f"paused {named}"
        )

    async def resume(session: OperatorSession) -> int:
        named = getattr(session.options, name)
        return await change(session, "POST", f"{where(session.options)}/resume", {}, f"resumed {named}")

    pausing = commands.add("pause", pause, f"start no tasks of the {noun} until it is resumed", name)
    pausing.add_argument("--reason", default="", help="recorded, and shown to those whose tasks wait")
    commands.add("resume", resume, f"start tasks of the {noun} again", name)


def yes_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask")


def sure(session: OperatorSession, question: str) -> None:
    """Ask before something that cannot be taken back. Raises CommandFailed."""
    confirm(session.output, question, yes=session.options.yes)
