"""Every registration in docs/servers.md is one that the service accepts; `make test-ecosystem` runs real programs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from testkit.service import Service

PAGE = (Path(__file__).parents[2] / "docs" / "servers.md").read_text()
BLOCKS = [json.loads(text) for text in re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)]
REGISTRATIONS = {block["id"]: block for block in BLOCKS if {"id", "name", "provider"} <= block.keys()}


def test_each_registration_has_an_id_of_its_own() -> None:
    assert len(REGISTRATIONS) == sum({"id", "name", "provider"} <= block.keys() for block in BLOCKS)


@pytest.mark.parametrize("heading", re.findall(r"^\| ([a-z]+)[^|]* \| [a-z]+ \d", PAGE, re.MULTILINE))
def test_a_program_of_the_table_has_a_section(heading: str) -> None:
    assert heading in {each.lower().split()[0] for each in re.findall(r"^## (.+)$", PAGE, re.MULTILINE)}


async def test_the_service_accepts_each_registration(service: Service) -> None:
    refused: dict[str, Any] = {}
    for name, body in REGISTRATIONS.items():
        answer = await service.admin.post("/api/servers", body)
        if answer.status != 200:
            refused[name] = answer.body
    assert not refused
