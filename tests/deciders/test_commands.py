"""Every command has a test of its decider."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from taskstream.commands.owner import OwnerCommand
from taskstream.commands.pool import PoolCommand
from taskstream.commands.schedule import ScheduleCommand
from taskstream.commands.server import ServerCommand
from taskstream.commands.task_commands import TaskCommand
from taskstream.commands.task_type import TypeCommand
from taskstream.commands.webhook import WebhookCommand

VOCABULARIES = (TaskCommand, ServerCommand, TypeCommand, PoolCommand, OwnerCommand, WebhookCommand, ScheduleCommand)


def test_every_command_is_made_in_a_test_of_its_decider() -> None:
    tests = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    made = set(re.findall(r"\b([A-Z]\w+)\(", tests))

    assert {command.__name__ for vocabulary in VOCABULARIES for command in get_args(vocabulary)} - made == set()
