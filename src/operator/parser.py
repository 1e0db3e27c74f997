"""The operators' commands by name. `cli` imports this only when one of them runs: `up` imports little."""

from __future__ import annotations

import argparse

from . import dead_letters, limits, pools, schedules, servers, tasks, types, webhooks

NOUNS = {
    "tasks": tasks.define,
    "dead-letters": dead_letters.define,
    "errors": dead_letters.define_errors,
    "servers": servers.define,
    "pools": pools.define,
    "types": types.define,
    "limits": limits.define,
    "schedules": schedules.define,
    "webhooks": webhooks.define,
}


def define(noun: str, parser: argparse.ArgumentParser) -> None:
    """Add the commands or options of a noun to its parser."""
    NOUNS[noun](parser)
