"""docs/authentication.md lists the roles that the routes require, and the settings and claims that the code reads."""

from __future__ import annotations

import re
import time
from pathlib import Path
from unittest.mock import MagicMock

from taskstream.api import app
from taskstream.api.auth.access import ROLES, ROLES_NEEDED
from taskstream.api.auth.authenticator import Claims
from taskstream.api.auth.stream_tokens import StreamTokens
from taskstream.settings import hints, variable

PAGE = (Path(__file__).parents[2] / "docs" / "authentication.md").read_text()


def rows() -> dict[str, str]:
    """Return the calls that need a role, by the roles, as the page shows them."""
    container = MagicMock()  # routes are declared, and none is called
    found: dict[str, list[str]] = {}
    for handler in app.api_routes(container, StreamTokens(container.token_sealer, time.time)):
        if needed := handler.opt.get(ROLES_NEEDED):
            (path,), (method,) = handler.paths, handler.http_methods
            shown = re.sub(r"\{(\w+):\w+\}", r"{\1}", f"/api{path}")
            found.setdefault(_shown(needed), []).append(f"`{method} {shown}`")
    return {roles: ", ".join(sorted(set(calls), key=_by_path)) for roles, calls in sorted(found.items())}


def _shown(roles: tuple[str, ...]) -> str:
    return ", ".join(f"`{role}`" for role in sorted(roles))


def _by_path(call: str) -> list[str]:
    return call.strip("`").split(" ")[::-1]


def test_the_page_lists_each_call_that_needs_a_role() -> None:
    table = PAGE.split("| one of | calls |\n|---|---|\n")[1].split("\n\n")[0]

    assert dict(re.findall(r"^\| (.+?) \| (.+) \|$", table, re.MULTILINE)) == rows()


def test_the_page_explains_each_role_claim_and_setting() -> None:
    assert set(re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", PAGE.split("## Roles")[1], re.MULTILINE)) >= set(ROLES)
    for claim in Claims.__struct_fields__:
        assert f"`{claim}`" in PAGE
    for field in hints():
        if field.startswith("jwt_"):
            assert variable(field) in PAGE
