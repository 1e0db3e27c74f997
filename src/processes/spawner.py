"""The spawner: a process that has imported the whole program, and forks the children of `taskstream up`.

Forked children share the memory of what is imported, and start in milliseconds. The spawner has no event loop and no
threads, and opens nothing: a fork of it is clean. The kernel ends it with the supervisor, and its children with it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable

import msgspec

from ..nats_server.server import LIBC, die_with_parent
from ..runtime import logs
from ..runtime.failures import explained
from ..settings import Settings
from ..vault.key_file import ensure_key_file
from .messages import (
    LINK_AND_LISTENER,
    Check,
    Checked,
    Exited,
    Fork,
    Forked,
    GaveUp,
    MakeKey,
    Message,
    ToSpawner,
    frame,
    receive_blocking,
)

PR_SET_NAME = 15
"""From <sys/prctl.h>."""
LONGEST_NAME = 15
"""Bytes of a process' name, as `ps -o comm` shows it."""


def main(descriptor: int) -> None:
    """Serve the supervisor at the other end of a socket pair until it is gone."""
    for number in (signal.SIGTERM, signal.SIGINT):  # the supervisor says when; Ctrl-C and systemd may signal us all
        signal.signal(number, signal.SIG_IGN)
    _set_name("spawner")
    gc.disable()  # until a fork: a collection would leave holes in pages that are to be shared
    with socket.socket(fileno=descriptor) as control:
        ForkServer(control).run()


class ForkServer:
    """Serves the messages `ToSpawner`."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)

    def run(self) -> None:
        signal.set_wakeup_fd(self._wake.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            ready, _, _ = select.select([self._control, self._woken], [], [])
            if self._woken in ready:
                self._reap()
            if self._control in ready:
                received = receive_blocking(self._control, LINK_AND_LISTENER)
                if received is None:
                    return  # the supervisor is gone
                self._serve(msgspec.msgpack.decode(received[0], type=ToSpawner), received[1])

    def _serve(self, message: ToSpawner, descriptors: list[int]) -> None:
        match message:
            case Check():
                self._answer(lambda: _checked(message))
                preload()
            case MakeKey():
                self._answer(lambda: ensure_key_file(message.settings))
            case Fork():
                self._fork(message, *descriptors)

    def _answer(self, work: Callable[[], Settings]) -> None:
        try:
            self._say(Checked(settings=work()))
        except Exception as error:
            failure = explained(error)
            if failure is None:
                raise
            self._say(GaveUp(status=failure[0], text=failure[1]))

    def _fork(self, order: Fork, link: int, listener: int) -> None:
        spawner = os.getpid()
        pid = os.fork()
        if pid:
            os.close(link)
            os.close(listener)
            self._say(Forked(name=order.name, pid=pid))
            return
        status = 1
        try:
            die_with_parent(spawner, signal.SIGKILL)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (self._control, self._woken, self._wake):
                end.close()
            _set_name(order.name)
            from . import child  # noqa: PLC0415 - has been imported

            gc.enable()
            status = child.run(order, socket.socket(fileno=link), socket.socket(fileno=listener))
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                self._say(Exited(pid=pid, status=os.waitstatus_to_exitcode(status)))

    def _say(self, message: Message) -> None:
        with contextlib.suppress(OSError):  # the supervisor is gone: the next read says so
            self._control.sendall(frame(message))


def preload() -> None:
    """Import all that a child runs, and keep it out of garbage collection, which would unshare its memory."""
    from . import child  # noqa: F401, PLC0415 - after the check, whose outcome the supervisor waits for

    gc.collect()
    gc.freeze()


def _checked(order: Check) -> Settings:
    from ..api.settings_check import check_settings  # noqa: PLC0415 - as little as possible before the check

    logs.configure(order.settings, order.name)
    check_settings(order.settings)
    return order.settings


def _set_name(name: str) -> None:
    """Have `ps -o comm` and `top` show this name."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_NAME, name.encode()[:LONGEST_NAME], 0, 0, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
