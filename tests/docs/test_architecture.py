"""docs/architecture.md shows the code as it is: its layers, and the way of a task through it."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from testkit.backend import BackendServer
from testkit.service import Service
from testkit.waiting import wait_until

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
CODE = (ROOT / "docs" / "architecture.md").read_text().split("## Code\n")[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRACTS = PROJECT["tool"]["importlinter"]["contracts"]
MOST_STOPS = 15
IMPURE_COMMANDS = {"__init__", "commands", "handler"}

Stop = tuple[str, str]
"""A module and a function in it."""


def walks() -> list[list[Stop]]:
    """Return the stops of each walk: the tables of modules and functions."""
    return [
        re.findall(r"^\| \d+ \| `(\S+\.py)` \| `(\S+)` \|", table, re.MULTILINE)
        for table in CODE.split("| | module |")[1:]
    ]


@contextmanager
def traced(stops: set[Stop]) -> Iterator[list[Stop]]:
    """Yield the calls of these functions, as they happen."""
    calls: list[Stop] = []

    def on_event(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(SRC)):
            stop = (code.co_filename.removeprefix(f"{SRC}/"), code.co_qualname.replace(".<locals>", ""))
            if stop in stops:
                calls.append(stop)

    sys.setprofile(on_event)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def test_both_walks_have_at_most_fifteen_stops() -> None:
    assert [0 < len(walk) <= MOST_STOPS for walk in walks()] == [True, True]


async def test_a_task_passes_the_stops_of_both_walks_in_their_order(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "gpu-1")
    await service.alice.ended(await service.alice.submit({"a": 1}))
    submit, dispatch = walks()

    with traced({*submit, *dispatch}) as calls:
        await service.alice.submit({"a": 2})
        await wait_until(lambda: dispatch[-1] in calls, "the task to reach the last stop")

    for walk in (submit, dispatch):
        remaining = iter(calls)
        missed = next((stop for stop in walk if stop not in remaining), None)
        assert missed is None, f"{missed} is not called after the stop before it"


def test_the_page_lists_the_layers_of_the_linter_and_all_of_src() -> None:
    listed: dict[int, list[str]] = {}
    for layer, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", CODE, re.MULTILINE):
        listed.setdefault(int(layer), []).append(name)
    contract = next(each for each in CONTRACTS if each["type"] == "layers")

    assert list(listed.values()) == [layer.split(" | ") for layer in contract["layers"]]
    found = {path.stem for path in SRC.iterdir() if not path.stem.startswith("__") and path.suffix in ("", ".py")}
    found -= {"console_files"}  # what `make console` builds: no code of the service
    assert {name for names in listed.values() for name in names} == found


def test_the_wheel_has_every_folder_of_src() -> None:
    folders = [file.parent.relative_to(SRC).parts for file in SRC.rglob("__init__.py")]

    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(
        ".".join(["taskstream", *each]) for each in folders
    )
    assert {file.parent for file in SRC.rglob("*.py")} == {file.parent for file in SRC.rglob("__init__.py")}


def test_every_decider_is_in_the_contract_of_pure_modules() -> None:
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    (pure,) = (
        modules for each in contracts if "taskstream.commands.task" in (modules := each.get("source_modules", ()))
    )
    deciders = {file.stem for file in (SRC / "commands").glob("*.py")} - IMPURE_COMMANDS

    assert {f"taskstream.commands.{name}" for name in deciders} <= set(pure)
