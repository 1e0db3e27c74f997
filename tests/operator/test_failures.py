"""Failures: one line that says what to do, and an exit status for each kind."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from testkit.cli import Command, run_commands
from testkit.processes import PREFIX
from testkit.service import SECRET, token

from .conftest import Known, Ran, settings_for, taskstream

pytestmark = pytest.mark.timeout(240)


def refused(ran: Ran, status: int, *texts: str) -> None:
    """Assert that a command failed with this status and one line that has these texts."""
    assert ran.status == status, ran
    assert ran.out == ""
    (line,) = ran.err.splitlines()
    assert line.startswith("taskstream: ")
    assert all(text in line for text in texts), line


@contextlib.contextmanager
def answering(status: int, headers: dict[str, str], body: bytes, asked: list[str] | None = None) -> Iterator[str]:
    """Yield the URL of a server that gives every request this answer; `asked` gets the paths."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if asked is not None:
                asked.append(self.path)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_what_does_not_exist_is_status_3(known: Known, admin: dict[str, str]) -> None:
    refused(taskstream("tasks", "show", "nope", env=admin), 3, "no task")
    refused(taskstream("servers", "show", "../pools", env=admin), 3)


def test_a_removed_server_is_status_3_with_the_way_back(known: Known, admin: dict[str, str]) -> None:
    assert taskstream("servers", "register", "gone", "http://127.0.0.1:9/predict", env=admin).status == 0
    assert taskstream("servers", "remove", "gone", "--yes", env=admin).status == 0

    refused(taskstream("servers", "show", "gone", env=admin), 3, "gone was removed", "servers restore gone")


def test_a_refused_token_is_status_4_and_is_named(known: Known, admin: dict[str, str]) -> None:
    user = admin | {"TASKSTREAM_TOKEN": token("alice")}
    refused(taskstream("servers", "show", "sync", env=user), 4, "TASKSTREAM_TOKEN")
    forged = admin | {"TASKSTREAM_TOKEN": token("alice")[:-3] + "abc"}
    refused(taskstream("tasks", "list", env=forged), 4, "TASKSTREAM_TOKEN")


def test_without_a_token_it_says_how_to_give_one(known: Known, admin: dict[str, str]) -> None:
    none = {name: value for name, value in admin.items() if name != "TASKSTREAM_TOKEN"}
    refused(taskstream("tasks", "list", env=none), 4, "TASKSTREAM_TOKEN_FILE", "TASKSTREAM_JWT_SECRET", "--token")


def test_a_token_can_come_from_a_file_an_option_or_the_secret(
    known: Known, admin: dict[str, str], folder: Path
) -> None:
    none = {name: value for name, value in admin.items() if name != "TASKSTREAM_TOKEN"}
    file = folder / "token"
    file.write_text(token("root", "admin") + "\n")
    for given, options in (
        ({"TASKSTREAM_TOKEN_FILE": str(file)}, []),
        ({}, ["--token", token("root", "admin")]),
        ({"TASKSTREAM_JWT_SECRET": SECRET}, []),
        ({"TASKSTREAM_JWT_SECRET": SECRET}, ["--as", "alice", "--role", "user"]),
    ):
        found = taskstream("tasks", "count", *options, env=none | given)
        assert (found.status, found.err) == (0, ""), found
    wrong = none | {"TASKSTREAM_TOKEN_FILE": str(folder / "none")}
    refused(taskstream("tasks", "list", env=wrong), 2, "TASKSTREAM_TOKEN_FILE", "No such file")
    twice = admin | {"TASKSTREAM_TOKEN_FILE": str(file)}
    refused(taskstream("tasks", "list", env=twice), 2, "both set")
    refused(taskstream("tasks", "list", "--as", "bob", env=admin), 2, "--as")


def test_a_signed_token_acts_as_the_user_it_names(known: Known, admin: dict[str, str]) -> None:
    signed = {name: value for name, value in admin.items() if name != "TASKSTREAM_TOKEN"}
    signed |= {"TASKSTREAM_JWT_SECRET": SECRET}
    found = taskstream("tasks", "list", "--json", "--as", "nobody-else", "--role", "user", env=signed)
    assert (found.status, found.objects) == (0, [])


def test_a_service_that_is_away_is_status_5(known: Known, admin: dict[str, str]) -> None:
    away = admin | {"TASKSTREAM_URL": "http://127.0.0.1:9"}
    refused(taskstream("tasks", "list", env=away), 5, "Connection refused", "TASKSTREAM_URL")
    unknown = taskstream("tasks", "list", "--url", "http://no-such-host.invalid", env=admin)
    refused(unknown, 5, "--url")


async def test_wrong_arguments_are_status_2_and_name_the_option(
    known: Known, admin: dict[str, str], tmp_path: Path
) -> None:
    wrong = [
        (["tasks", "list", "--since", "yesterday"], "--since"),
        (["tasks", "list", "--status", "done"], "--status"),
        (["tasks", "list", "--limit", "0"], "--limit"),
        (["tasks", "list", "--label", "gpu"], "NAME=VALUE"),
        (["tasks", "list", "--min-run", "long"], "--min-run"),
        (["tasks", "retry"], "--since"),
        (["tasks", "retry", "x", "--since", "1h"], "not both"),
        (["tasks", "submit", "{"], "PAYLOAD"),
        (["servers", "register", "x"], "ADDRESS"),
        (["limits", "set", "bob"], "--concurrency"),
        (["types", "set", "x"], "--file"),
        (["schedules", "create", "@daily"], "PAYLOAD"),
        (["top"], "terminal"),
        (["tasks", "list", "--url", "ftp://x"], "--url"),
        (["tasks"], "--help"),
    ]
    settings = {name.removeprefix(PREFIX): value for name, value in admin.items() if name.startswith(PREFIX)}
    ran = await run_commands(tmp_path, [Command(words, settings) for words, _ in wrong])
    for (words, text), done in zip(wrong, ran, strict=True):
        assert (done.status, len(done.lines)) == (2, 1), (words, done)
        assert text in done.said, (words, done)


def test_a_conflict_is_status_6(known: Known, admin: dict[str, str]) -> None:
    refused(taskstream("types", "delete", "default", "--yes", env=admin), 6, "always exists")


def test_a_busy_service_is_status_7_and_says_when_to_try_again(admin: dict[str, str]) -> None:
    problem = b'{"type":"about:blank","title":"x","status":503,"detail":"the store is full"}'
    with answering(503, {"Content-Type": "application/problem+json", "Retry-After": "7"}, problem) as url:
        busy = taskstream("tasks", "list", env=settings_for(url))
    refused(busy, 7, "the store is full", "try again in 7 s")


@pytest.mark.parametrize(
    ("status", "headers", "body", "text"),
    [
        (200, {"Content-Type": "application/json"}, b'{"tasks": [{"id": 5}]}', "same version"),
        (200, {}, b"<html>hello</html>", "Taskstream"),
        (200, {}, b'{"tasks": 7}', "Taskstream"),
        (404, {}, b"<html>not here</html>", "Taskstream"),
        (302, {"Location": "https://elsewhere.example/"}, b"", "--url"),
        (500, {}, b"\x1b[31m", "Taskstream"),
    ],
    ids=["a page", "other rows", "another shape", "no problem document", "a redirect", "escape sequences"],
)
def test_another_program_at_the_url_is_one_line(
    admin: dict[str, str], status: int, headers: dict[str, str], body: bytes, text: str
) -> None:
    with answering(status, headers, body) as url:
        found = taskstream("tasks", "list", env=settings_for(url))
    assert found.status != 0
    (line,) = found.err.splitlines()
    assert text in line
    assert "\x1b" not in line


def test_a_redirect_does_not_get_the_token(admin: dict[str, str]) -> None:
    asked: list[str] = []
    with (
        answering(200, {}, b'{"tasks": []}', asked) as elsewhere,
        answering(302, {"Location": elsewhere}, b"") as url,
    ):
        assert taskstream("tasks", "list", env=settings_for(url)).status == 1
    assert asked == []


def test_a_closed_output_is_no_fault_of_the_program() -> None:
    ran = subprocess.run(
        ["bash", "-c", 'exec "$0" -m taskstream settings >&- 2>&-', sys.executable], capture_output=True, check=False
    )

    assert ran.returncode == 0
