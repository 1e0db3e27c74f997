"""The caller reads who it is."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version

import pytest

from testkit.service import Service, token


async def test_a_caller_reads_its_name_roles_and_the_end_of_its_token(api: Service) -> None:
    asked = datetime.now(UTC)
    found = (
        await api.bearing(token("ann b", "user", "auditor", "of-another-service", lifetime_seconds=600)).get("/api/me")
    ).body

    assert (found["subject"], found["roles"], found["version"]) == (
        "ann b", ["auditor", "user"], version("taskstream"),
    )  # fmt: skip
    ends = datetime.fromisoformat(found["expiresAt"]) - asked
    assert 590 < ends.total_seconds() < 700
    assert abs((datetime.fromisoformat(found["serverTime"]) - asked).total_seconds()) < 60


@pytest.mark.parametrize(
    ("roles", "may"),
    [
        (["user"], {"submit"}),
        (["service"], {"submit"}),
        (["auditor"], {"readAll", "readPayloads"}),
        (["admin"], {"submit", "readAll", "administer", "readPayloads"}),
    ],
)
async def test_a_caller_reads_what_its_roles_permit(api: Service, roles: list[str], may: set[str]) -> None:
    found = (await api.client("ann", *roles).get("/api/me"))["may"]

    assert {name for name, permitted in found.items() if permitted} == may
    assert found.keys() == {"submit", "readAll", "administer", "readPayloads"}


async def test_a_caller_without_a_token_is_nobody(api: Service) -> None:
    assert (await api.anonymous.get("/api/me")).status == 401
