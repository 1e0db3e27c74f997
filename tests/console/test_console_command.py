"""`taskstream console`: the link that signs in, and the way it reaches a browser."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from urllib.parse import unquote

import jwt
from playwright.async_api import expect

from testkit.processes import python, run_to_end
from testkit.service import SECRET, Service

from .conftest import Console

BROWSER = """
import http.client, sys, urllib.parse
address = sys.argv[1]
parts = urllib.parse.urlsplit(address)
answers = []
for _ in range(2):
    connection = http.client.HTTPConnection(parts.hostname, parts.port)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        answers.append((answer.status, answer.getheader("Location")))
    except OSError:
        answers.append((0, None))
open(sys.argv[2], "w").write(repr((address, answers)))
"""


async def test_the_printed_link_opens_the_console_as_the_user_that_was_named(
    console: Console, stocked: Service, tmp_path: Path
) -> None:
    command = python("taskstream", "console", "--url", stocked.url, "--as", "alice", "--role", "user", "--ttl", "600")
    printed = await run_to_end(tmp_path, [*command, "--no-browser"], TASKSTREAM_JWT_SECRET=SECRET)
    assert printed.status == 0, printed.tail()
    link = printed.output().strip()

    claims = jwt.decode(unquote(link.partition("token=")[2]), SECRET, algorithms=["HS256"])
    assert (claims["sub"], claims["roles"], claims["exp"] - claims["iat"]) == ("alice", ["user"], 600)
    page = await console.go(link)
    await expect(page.get_by_text("alice", exact=False).first).to_be_visible()
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()


async def test_a_browser_gets_the_token_once_and_not_among_its_arguments(stocked: Service, tmp_path: Path) -> None:
    script, seen = tmp_path / "browser.py", tmp_path / "seen"
    script.write_text(BROWSER)
    command = python("taskstream", "console", "--url", stocked.url)
    run = await run_to_end(
        tmp_path, command, TASKSTREAM_JWT_SECRET=SECRET, BROWSER=f"{sys.executable} {script} %s {seen} &"
    )
    assert run.status == 0, run.tail()

    address, answers = eval(seen.read_text())  # what the script wrote
    assert "token" not in address
    assert answers[0] == (303, run.output().strip())
    assert answers[1][1] is None, "the address worked twice"


async def test_a_given_token_is_passed_on_and_a_refused_one_is_said(stocked: Service, tmp_path: Path) -> None:
    given = stocked.alice.bearer or ""
    command = python("taskstream", "console", "--url", stocked.url, "--json", "--token", given)
    run = await run_to_end(tmp_path, command)
    assert json.loads(run.output())["url"].endswith(f"/console/#/token={given}")

    refused = await run_to_end(tmp_path, [*command[:-1], f"{given}x"])
    assert refused.status not in (0, None)
    assert "token" in refused.tail()
