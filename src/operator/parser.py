"""The operators' commands by name. `cli` imports this only when one of them runs: `up` imports little."""

from __future__ import annotations

import argparse

from . import tasks

NOUNS = {"tasks": tasks.define}


def define(noun: str, parser: argparse.ArgumentParser) -> None:
    """Add the commands or options of a noun to its parser."""
    NOUNS[noun](parser)
