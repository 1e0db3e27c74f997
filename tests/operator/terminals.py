"""A command on a terminal of the test's own."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence

from .conftest import COMMAND, PATIENCE_SECONDS

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """Runs the shipped command with a terminal as stdin, stdout and stderr."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], columns: int = 80, rows: int = 24) -> None:
        given = {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES")}
        given |= {"TERM": "xterm-256color"}
        self.output = ""
        self.status: int | None = None
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.execvpe(COMMAND[0], [*COMMAND, *arguments], given)
        self.resize(columns, rows)
        self.modes: list[int] = [self._modes()]
        """Local modes of the terminal (echo, whole lines, signals) at the start and at the end."""

    def _modes(self) -> int:
        return int(termios.tcgetattr(self._terminal)[3])

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def shows(self, text: str, *, times: int = 1, after: int = 0) -> None:
        """Read until a text is there, `times` after that place. Raises AssertionError with what came instead."""
        self._read(lambda: self.output.count(text, after) >= times, text)

    def ends(self) -> int:
        """Read to the end; return the exit status."""
        self._read(lambda: False, "the end")
        if self.status is None:
            _, raw = os.waitpid(self.pid, 0)
            self.status = os.waitstatus_to_exitcode(raw)
            self.modes.append(self._modes())
            os.close(self._terminal)
        return self.status

    @property
    def lines(self) -> list[str]:
        """The output without escape sequences."""
        return ESCAPES.sub("", self.output).replace("\r", "").splitlines()

    def _read(self, is_enough: Callable[[], bool], wanted: str) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while not is_enough():
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError(f"no {wanted!r} in:\n{self.output[-3000:]!r}")
            if not select.select([self._terminal], [], [], 0.5)[0]:
                continue
            try:
                part = os.read(self._terminal, 65536)
            except OSError:  # its other end is closed
                part = b""
            if not part:
                if wanted != "the end":
                    raise AssertionError(f"no {wanted!r} in:\n{self.output[-3000:]!r}")
                return
            self.output += part.decode(errors="replace")
