"""Parts of the Python client alone: the parser of streams, pauses, the bars; and Ctrl-C in a program of its own."""

from __future__ import annotations

import inspect
import io
import itertools
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream_client import AsyncClient, BadAnswer, Client, Retries
from taskstream_client.models import Instant
from taskstream_client.progress import NotebookBar, TerminalBar
from taskstream_client.sse import LARGEST_LINE, Message, Parser
from taskstream_client.updates import read_update
from testkit.processes import Process, environment
from testkit.service import Service, token
from testkit.waiting import wait_until

SOURCES = Path(__file__).parents[3] / "sdk" / "python" / "src"
STREAM = 'retry: 1000\nid: a-1\ndata: {"x": "é"}\n\n: heartbeat\ndata: {"y":1}\r\n\r\nid: a-3\ndata: z\n\n'.encode()
MESSAGES = [Message("a-1", '{"x": "é"}'), Message("", '{"y":1}'), Message("a-3", "z")]


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_a_stream_is_the_same_however_it_is_cut_into_pieces(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    parser = Parser()

    found = [each for start, end in itertools.pairwise(places) for each in parser.feed(STREAM[start:end])]

    assert found == MESSAGES


def test_half_a_message_is_none_and_an_endless_line_ends_the_stream() -> None:
    parser = Parser()

    assert parser.feed(STREAM[:-1])[-1] == MESSAGES[1]
    for _ in range(LARGEST_LINE // 2**20 - 1):
        parser.feed(b"x" * 2**20)
    with pytest.raises(BadAnswer, match="longer than"):
        parser.feed(b"x" * 2**21)


@given(st.integers(0, 100), st.floats(0, 1), st.none() | st.floats(0, 1000))
def test_a_pause_is_never_shorter_than_asked_and_bounded(tries: int, chance: float, asked: float | None) -> None:
    pause = Retries(chance=lambda: chance).pause(tries, asked)

    assert pause >= (asked or 0)
    assert pause <= (asked or 0) + 8


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def reports() -> list[Any]:
    at = "2026-01-01T00:00:00Z"
    about = {"taskId": "t", "sequence": 1, "at": at, "by": {}}
    events = [
        {"type": "AttemptStarted", "attempt": 1, "server_id": "one"},
        {"type": "ProgressReported", "progress": 40, "message": "half\x1b[31m <b>"},
        {"type": "TaskFailed", "kind": "rejected", "error": "no"},
    ]
    return [read_update({"type": event["type"], "event": event, **about}, "x-1") for event in events]


def test_a_bar_shows_progress_and_the_end_and_no_control_characters() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for out in (terminal, pipe):
        bar = TerminalBar("shout", out)
        for update in reports():
            bar.show(update)
        bar.close()

    assert "\x1b" not in terminal.getvalue()
    assert terminal.getvalue().endswith("failed: no\n")
    assert pipe.getvalue().count("\n") == 1
    assert "40%" in pipe.getvalue()


def test_a_bar_of_a_notebook_is_an_element_that_changes() -> None:
    pages: list[Any] = []

    class Handle:
        def update(self, page: Any, *, raw: bool) -> None:
            pages.append(page)

    def display(page: Any, *, raw: bool, display_id: bool) -> Handle:
        pages.append(page)
        return Handle()

    bar = NotebookBar("shout", display)
    for update in reports():
        bar.show(update)
    bar.close()

    assert '<progress max="100" value="40">' in pages[-1]["text/html"]
    assert "failed: no" in pages[-1]["text/html"]
    assert not [page for page in pages if "<b>" in page["text/html"]]


def test_both_clients_have_the_same_calls_with_the_same_parameters() -> None:
    def calls(kind: type) -> dict[str, Any]:
        found = {name: each for name, each in vars(kind).items() if inspect.isfunction(each) and each.__doc__}
        return {name: list(inspect.signature(each).parameters) for name, each in found.items() if name[0] != "_"}

    blocking = Client("http://localhost", "token")
    awaited = AsyncClient("http://localhost", "token")
    parts = [name for name, each in vars(blocking).items() if not name.startswith("_")]

    assert calls(Client) == calls(AsyncClient)
    assert len(parts) == 9
    for name in parts:
        assert calls(type(getattr(blocking, name))) == calls(type(getattr(awaited, name)))
        assert all(each.__doc__ for each in vars(type(getattr(blocking, name))).values() if inspect.isfunction(each))
    assert inspect.iscoroutinefunction(AsyncClient.run)
    assert Instant.fromtimestamp(0).year <= 1970
    blocking.close()


@pytest.mark.parametrize("cancels", [True, False])
async def test_ctrl_c_cancels_the_task_only_if_asked(service: Service, tmp_path: Path, cancels: bool) -> None:
    program = f"""
from taskstream_client import Client
with Client() as client:
    client.run("shout", {{}}, delay=3600, cancel_on_exit={cancels}, progress=print)
"""
    (tmp_path / "program.py").write_text(program)
    env = environment({"URL": service.url, "TOKEN": token("alice")}) | {"PYTHONPATH": str(SOURCES)}
    process = Process("program", [sys.executable, "-u", str(tmp_path / "program.py")], env, tmp_path / "log").start()
    try:
        await wait_until(lambda: "TaskSubmitted" in process.output(), "the task")
        process.signal(signal.SIGINT)
        await process.ended()
    finally:
        process.kill()

    async with AsyncClient(service.url, token("alice")) as client:
        (task,) = [each async for each in client.tasks.list()]
    assert "KeyboardInterrupt" in process.output()
    assert task.status == ("CANCELLED" if cancels else "WAITING")
