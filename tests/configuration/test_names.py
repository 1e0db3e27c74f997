"""Public names: streams, subjects, buckets, consumers, settings, metrics, log events, commands.

Operators and other NATS clients depend on them, so a change is deliberate: run this test with UPDATE_NAMES=1, and write
the changelog entry that says before and after.
"""

from __future__ import annotations

import argparse
import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from taskstream import cli, settings
from taskstream.events import subjects
from taskstream.runtime import metrics
from taskstream.settings import Settings
from taskstream.streams.topology.definitions import DERIVED, due_consumer, pool_consumer, streams

GOLDEN = Path(__file__).parent / "names.json"
SOURCE = Path(cli.__file__).parent
LOGGED = {"debug", "info", "warning", "error", "critical", "exception"}


def stream_names() -> dict[str, Any]:
    return {
        wanted["name"]: {
            "subjects": wanted.get("subjects", []),
            "sources": [
                f"{source['name']}: {transform['src']} -> {transform['dest']}"
                for source in wanted.get("sources", [])
                for transform in source["subject_transforms"]
            ],
            "republish": wanted.get("republish", {}).get("dest"),
            "derived": wanted["name"] in DERIVED,
        }
        for wanted in streams(Settings())
    }


def consumer_names() -> dict[str, list[str]]:
    wanted = [
        due_consumer(Settings()),
        pool_consumer("default", "high", Settings()),
        pool_consumer("default", "high", Settings(), bulk=True),
    ]
    return {consumer["durable_name"]: consumer["filter_subjects"] for consumer in wanted}


def metric_names() -> dict[str, list[str]]:
    return {
        collected.name: list(getattr(collector, "_labelnames", ()))
        for collector in set(metrics.REGISTRY._collector_to_names)
        for collected in collector.collect()
    }


def log_events() -> set[str]:
    """Return the first argument of every call of a logger."""
    found = set()
    for path in sorted(SOURCE.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in LOGGED):
                continue
            named = call.args[0] if call.args else None
            if isinstance(named, ast.Constant) and isinstance(named.value, str):
                found.add(named.value)
            elif isinstance(named, ast.JoinedStr):
                found.add(ast.unparse(named))
    return found


def command_options() -> dict[str, list[str]]:
    def subparsers() -> Iterator[dict[str, argparse.ArgumentParser]]:
        for action in cli._parser()._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield action.choices

    (commands,) = subparsers()
    return {
        name: [option for action in parser._actions for option in action.option_strings or [action.dest]]
        for name, parser in commands.items()
    }


def names() -> dict[str, Any]:
    public = {name: value for name, value in vars(subjects).items() if name.isupper() and name[0] != "_"}
    return {
        "streams": stream_names(),
        "consumers": consumer_names(),
        "subjects": {name: value for name, value in public.items() if isinstance(value, str)},
        "settings": [variable for variable, _, _ in settings.table()],
        "secrets in files": sorted(settings.variables() - {variable for variable, _, _ in settings.table()}),
        "metrics": metric_names(),
        "log events": sorted(log_events()),
        "commands": command_options(),
    }


KINDS = ("streams", "consumers", "subjects", "settings", "secrets in files", "metrics", "log events", "commands")


@pytest.mark.parametrize("kind", KINDS)
def test_public_names_stay_as_they_are(kind: str) -> None:
    found = names()
    if os.environ.get("UPDATE_NAMES"):
        GOLDEN.write_bytes(msgspec.json.format(msgspec.json.encode(found, order="sorted"), indent=2) + b"\n")

    assert found[kind] == msgspec.json.decode(GOLDEN.read_bytes())[kind]


def test_a_class_name_is_defined_in_one_module() -> None:
    modules: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                modules.setdefault(node.name, set()).add(str(path.relative_to(SOURCE)))

    assert {name: found for name, found in modules.items() if len(found) > 1} == {}
