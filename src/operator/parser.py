"""The operators' commands by name. `cli` imports this only when one of them runs: `up` imports little."""

from __future__ import annotations

import argparse
from importlib import import_module

NOUNS = {
    "tasks": ("tasks", "define"),
    "dead-letters": ("dead_letters", "define"),
    "operations": ("operations", "define"),
    "errors": ("dead_letters", "define_errors"),
    "servers": ("servers", "define"),
    "pools": ("pools", "define"),
    "types": ("types", "define"),
    "limits": ("limits", "define"),
    "schedules": ("schedules", "define"),
    "webhooks": ("webhooks", "define"),
    "files": ("files", "define"),
    "keys": ("keys", "define"),
    "top": ("top", "define"),
    "doctor": ("doctor", "define"),
    "console": ("console", "define"),
}
"""Module and function that add the options of each noun. The others are not imported."""


def define(noun: str, parser: argparse.ArgumentParser) -> None:
    """Add the commands or options of a noun to its parser."""
    module, function = NOUNS[noun]
    getattr(import_module(f".{module}", __package__), function)(parser)
