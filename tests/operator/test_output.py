"""What the commands print: on terminals of different widths, into pipes, and of hostile text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

from testkit.cli import Command, run_commands
from testkit.processes import PREFIX, clients_of

from .conftest import HOSTILE, Known, taskstream
from .terminals import Terminal

pytestmark = pytest.mark.timeout(240)


def on_terminal(*arguments: str, env: dict[str, str], columns: int = 80) -> Terminal:
    terminal = Terminal(arguments, env, columns)
    assert terminal.ends() == 0, terminal.output
    return terminal


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_row_takes_one_line_of_the_terminal(known: Known, admin: dict[str, str], columns: int) -> None:
    shown = on_terminal("tasks", "list", env=admin, columns=columns).lines

    assert all(cell_len(line) <= columns for line in shown if "signed with" not in line)
    assert sum(line.startswith("01") for line in shown) == 3


def test_ids_are_never_cut_where_80_columns_are(known: Known, admin: dict[str, str]) -> None:
    assert any(line.startswith(known.failed + " ") for line in on_terminal("tasks", "list", env=admin).lines)


def test_a_wide_terminal_shows_the_whole_error(known: Known, admin: dict[str, str]) -> None:
    shown = on_terminal("tasks", "list", env=admin, columns=200).lines
    assert any("the server answered 422: this is no image" in line for line in shown)


def test_into_a_pipe_nothing_is_cut_or_coloured(known: Known, admin: dict[str, str]) -> None:
    shown = taskstream("tasks", "list", env=admin | {"COLUMNS": "30"})

    (line,) = [line for line in shown.lines if line.startswith(known.failed)]
    assert line.endswith("the server answered 422: this is no image")
    assert "\x1b" not in shown.out
    assert shown.err == ""


def test_states_have_colours_on_a_terminal(known: Known, admin: dict[str, str]) -> None:
    assert "\x1b[31mFAILED" in on_terminal("tasks", "list", env=admin).output


@pytest.mark.parametrize("quiet", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "TERM=dumb"])
def test_colours_can_be_switched_off(known: Known, admin: dict[str, str], quiet: dict[str, str]) -> None:
    from . import terminals

    given = admin | quiet
    terminal = terminals.Terminal(["tasks", "list"], given) if "TERM" not in quiet else None
    if terminal is None:
        shown = subprocess.run(
            ["script", "-qec", f"{sys.executable} -m taskstream tasks list", "/dev/null"],
            env=given,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    else:
        assert terminal.ends() == 0
        shown = terminal.output
    assert "FAILED" in shown
    assert "\x1b[31m" not in shown


def test_a_pipe_closed_early_is_no_error(known: Known, admin: dict[str, str]) -> None:
    for command in ("tasks list --all", "tasks list --json --all", "settings"):
        line = f'set -o pipefail; "{sys.executable}" -m taskstream {command} | head -n 1'
        done = subprocess.run(["bash", "-c", line], env=admin, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command


def test_pages_are_read_to_the_end_with_all(known: Known, admin: dict[str, str]) -> None:
    both = taskstream("tasks", "list", "--json", "--limit", "2", env=admin)
    whole = taskstream("tasks", "list", "--json", "--all", env=admin)

    assert len(both.objects) == 2
    assert {each["id"] for each in whole.objects} == {known.task, known.failed, known.waiting}


async def test_json_is_that_of_the_api_unchanged(known: Known, admin: dict[str, str]) -> None:
    shown = taskstream("tasks", "show", known.failed, "--json", env=admin)
    async with clients_of(known.url) as service:
        (same,) = shown.objects
        assert same == await service.admin.done("GET", f"/api/task/{known.failed}")


async def test_no_control_character_of_a_task_reaches_the_output(
    known: Known, admin: dict[str, str], tmp_path: Path
) -> None:
    async with clients_of(known.url) as service:
        task = await service.alice.submit({"type": "nobody", "payload": {"text": HOSTILE}})
        report = {"metadata": {"status": "FAILED", "message": HOSTILE}}
        assert (await service.admin.call("PUT", f"/api/task/{task}", report)).status == 200
    words = (["list", "--id", task[:26]], ["show", task], ["why", task], ["events", task], ["follow", task])
    calls = [["tasks", *each, *json] for each in words for json in ([], ["--json"])]
    settings = {name.removeprefix(PREFIX): value for name, value in admin.items() if name.startswith(PREFIX)}
    outputs = [tmp_path / f"{at}.out" for at in range(len(calls))]
    commands = [Command(call, settings, None, str(output)) for call, output in zip(calls, outputs, strict=True)]
    await run_commands(tmp_path, commands)
    for call, output in zip(calls, outputs, strict=True):
        shown = output.read_bytes().decode()
        assert "word" in shown, (call, shown)
        assert not set(shown) & set("\x1b\x07\x9b\u202e\r"), call


def test_a_terminal_that_is_not_utf_8_gets_a_table(known: Known, admin: dict[str, str]) -> None:
    shown = taskstream("servers", "list", env=admin | {"PYTHONIOENCODING": "ascii"})
    assert (shown.status, shown.err) == (0, "")
