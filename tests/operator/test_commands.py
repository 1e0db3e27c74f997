"""Every operators' command, run once as a person and once as a script."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskstream import cli
from testkit.cli import Command, run_commands
from testkit.processes import PREFIX, clients_of

from .conftest import Known, taskstream

pytestmark = pytest.mark.timeout(240)


def leaves(parser: argparse.ArgumentParser, *names: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command that has no commands below it."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield names
    for action in below:
        for name, each in action.choices.items():
            yield from leaves(each, *names, name)


def scenario(known: Known) -> list[list[str]]:
    """Return a call of each command, in an order in which all succeed."""
    hook, schedule = known.webhook, known.schedule
    lines = f"""
        tasks list|tasks count|tasks count --by status|tasks show {known.task}|tasks why {known.waiting}
        tasks events {known.task}|tasks follow {known.task}|tasks retry --status failed --dry-run
        tasks cancel {known.waiting} --dry-run|tasks delete --status finished --dry-run
        tasks submit {{"number":3}}|tasks submit {{"number":3}} --wait|tasks submit {{"number":3}} --follow
        dead-letters list|dead-letters retry --since 1h --dry-run|dead-letters discard --kind rejected --dry-run
        operations list|operations show {known.operation}|operations wait {known.operation}
        errors|servers list|servers list --removed|servers show sync|servers events sync|servers pause sync
        servers resume sync|servers drain sync|servers drain sync --wait|servers resume sync|servers detect sync
        servers try sync {{"number":4}}
        servers register s-2 http://127.0.0.1:9/p --dialect bare --health http://127.0.0.1:9/h --label gpu=a
        servers remove s-2 --yes|servers restore s-2|servers remove s-2 --yes
        pools list|pools show default|pools demand default|pools pause default --reason tests|pools resume default
        types list|types show default|types set default --timeout 60|types pause default|types resume default
        types set spare --attempts 1|types delete spare --yes
        limits list|limits show carol|limits set dora --waiting 5|limits remove dora
        schedules list|schedules show {schedule}|schedules pause {schedule}|schedules resume {schedule}
        schedules run {schedule}
        webhooks list|webhooks show {hook}|webhooks test {hook}|webhooks deliveries {hook}
        webhooks delivery {hook} {known.delivery}|webhooks delivery {hook} {known.delivery} --body
        webhooks resend {hook} --dry-run|webhooks disable {hook}|webhooks enable {hook}|webhooks rotate {hook}
        top --json|doctor --api-only
    """
    calls = [call.split() for line in lines.strip().splitlines() for call in line.strip().split("|")]
    address = f"http://127.0.0.1:{known.up.port}/hook"  # never called
    return [
        *calls,
        ["schedules", "create", "@daily", "{}", "--name", "spare"],
        ["webhooks", "create", address, "--event", "task.failed"],
        ["keys", "create", "a spare", "--type", "nobody", "--expires", "90d", "--rate", "5", "--no-payloads"],
        ["keys", "list"],
        ["files", "upload", __file__, "--expires-in", "2h", "--key", "tests"],
        ["files", "list"],
        ["webhooks", "resend", hook, known.delivery],
    ]


NOT_HERE = {"console"}
"""Commands with tests of their own."""
MAKES_ANOTHER = {
    ("schedules", "delete"),
    ("webhooks", "delete"),
    ("files", "show"),
    ("files", "download"),
    ("files", "link"),
    ("files", "delete"),
    ("keys", "show"),
    ("keys", "revoke"),
    ("operations", "pause"),
    ("operations", "resume"),
    ("operations", "stop"),
}
"""Commands that need the id of what another call has made: the tests below."""


def test_every_command_is_called_by_these_tests(known: Known) -> None:
    called = {tuple(call[: 1 if call[0] in ("errors", "top", "doctor") else 2]) for call in scenario(known)}
    shipped = {
        words for words in leaves(cli._parser()) if words[0] in cli.OPERATORS_COMMANDS and words[0] not in NOT_HERE
    }
    assert shipped - called - MAKES_ANOTHER == set()


@pytest.mark.parametrize("as_json", [False, True], ids=["tables", "json"])
async def test_every_command_succeeds_and_prints(
    known: Known, admin: dict[str, str], tmp_path: Path, as_json: bool
) -> None:
    calls = [
        [*call, *(["--json"] if as_json and "--json" not in call else [])]
        for call in scenario(known)
        if as_json or "--json" not in call
    ]
    settings = {name.removeprefix(PREFIX): value for name, value in admin.items() if name.startswith(PREFIX)}
    outputs = [tmp_path / f"{at}.out" for at in range(len(calls))]
    ran = await run_commands(
        tmp_path,
        [Command(call, settings, None, str(output)) for call, output in zip(calls, outputs, strict=True)],
    )
    wrong = [
        (" ".join(call), done.status, done.said)
        for call, done in zip(calls, ran, strict=True)
        if done.status != (1 if call[0] == "doctor" else 0)  # the tests leave alarms behind
    ]
    assert wrong == []
    silent = {"servers list --removed", "webhooks resend", "dead-letters list"}
    for call, output in zip(calls, outputs, strict=True):
        text = output.read_text()
        assert text or any(" ".join(call).startswith(each) for each in silent), call
        if as_json:
            assert all(isinstance(json.loads(line), dict) for line in text.splitlines()), call
        else:
            assert "\x1b" not in text, call


def test_what_was_made_is_deleted(known: Known, admin: dict[str, str]) -> None:
    made = taskstream("schedules", "create", "@daily", "{}", env=admin)
    assert taskstream("schedules", "delete", made.out.strip(), "--yes", env=admin).status == 0
    made = taskstream("webhooks", "create", f"http://127.0.0.1:{known.up.port}/hook", env=admin)
    assert taskstream("webhooks", "delete", made.out.split()[0], "--yes", env=admin).status == 0


def test_a_file_is_uploaded_downloaded_in_two_goes_and_deleted(admin: dict[str, str], tmp_path: Path) -> None:
    source, target = tmp_path / "big.bin", tmp_path / "copy.bin"
    source.write_bytes(bytes(range(256)) * 4_000)
    file = taskstream("files", "upload", str(source), "--purpose", "tests", env=admin).out.strip()

    assert file in taskstream("files", "list", "--purpose", "tests", env=admin).out
    assert "1,024,000" in taskstream("files", "show", file, env=admin).out
    assert f"/api/files/{file}?token=" in taskstream("files", "link", file, "--for", "60", env=admin).out
    (tmp_path / "copy.bin.part").write_bytes(source.read_bytes()[:300_000])
    downloaded = taskstream("files", "download", file, "--to", str(target), env=admin)
    assert (downloaded.status, downloaded.out.strip()) == (0, str(target)), downloaded
    assert target.read_bytes() == source.read_bytes()
    assert not (tmp_path / "copy.bin.part").exists()
    assert taskstream("files", "upload", str(tmp_path / "none"), env=admin).status == 2
    assert taskstream("files", "delete", file, "--yes", env=admin).status == 0
    assert taskstream("files", "show", file, env=admin).status != 0


async def test_a_key_is_printed_once_and_revoked(known: Known, admin: dict[str, str]) -> None:
    made = taskstream("keys", "create", "a program", "--owner", "keyed", "--expires", "2h", env=admin)
    assert made.out.startswith("tsk_"), made
    key_id = taskstream("keys", "list", "--owner", "keyed", "--json", env=admin).objects[0]["id"]

    with_key = {**admin, "TASKSTREAM_TOKEN": made.out.strip()}
    assert taskstream("tasks", "list", env=with_key).status == 0
    shown = taskstream("keys", "show", key_id, env=admin).out
    assert made.out.strip() not in shown
    assert "a program" in shown
    assert taskstream("keys", "revoke", key_id, "--yes", "--reason", "a test", env=admin).status == 0
    assert taskstream("tasks", "list", env=with_key).status != 0
    assert "a test" in taskstream("keys", "show", key_id, env=admin).out


async def test_a_detached_command_is_an_operation_of_the_service(known: Known, admin: dict[str, str]) -> None:
    async with clients_of(known.url) as service:
        for _ in range(3):
            await service.client("operated").submit({"type": "nobody", "payload": {}})
    words = ["tasks", "cancel", "--owner", "operated", "--type", "nobody", "--detach"]
    started = taskstream(*words, env=admin)
    assert started.status == 0, started
    ended = taskstream("operations", "wait", started.out.strip(), "--json", env=admin)
    assert (ended.status, ended.objects[0]["counts"]["done"]) == (0, 3)
    for verb in ("pause", "resume", "stop"):  # of one that has ended: refused, or already so
        assert taskstream("operations", verb, started.out.strip(), env=admin).status in (0, 6)
