"""What an operator's command fails with: an exit status and one line that says what to do.

0    done
1    failed: a server error, a task that failed, a problem that `doctor` found
2    wrong usage, settings or arguments; also what the API answers with 400, 413, 415 or 422
3    not found (404)
4    refused: no valid token (401), or one that may not do this (403)
5    the service cannot be reached
6    conflict: the present state does not allow it (409, 412)
7    too busy: try again later (429, 503)
130  interrupted (Ctrl-C)
"""

from __future__ import annotations

from ..runtime.failures import EXIT_FAILED, EXIT_USAGE

EXIT_NOT_FOUND = 3
EXIT_REFUSED = 4
EXIT_UNREACHABLE = 5
EXIT_CONFLICT = 6
EXIT_BUSY = 7

STATUSES = {
    **dict.fromkeys((400, 405, 413, 415, 422), EXIT_USAGE),
    404: EXIT_NOT_FOUND,
    **dict.fromkeys((401, 403), EXIT_REFUSED),
    **dict.fromkeys((409, 412), EXIT_CONFLICT),
    **dict.fromkeys((429, 503), EXIT_BUSY),
}
"""Exit status for each status of an HTTP answer; for others 1."""


class CommandFailed(Exception):
    """A command cannot go on. `status` is the exit status; the text is one line."""

    def __init__(self, text: str, status: int = EXIT_FAILED) -> None:
        self.status = status
        super().__init__(text)


class WrongUsage(CommandFailed):
    """The arguments do not fit together or to the service."""

    def __init__(self, text: str) -> None:
        super().__init__(text, EXIT_USAGE)


class ServiceRefused(CommandFailed):
    """The service answered with an error. `http_status` and `path` are those of its problem document."""

    def __init__(self, text: str, http_status: int, path: str = "") -> None:
        self.http_status = http_status
        self.path = path
        super().__init__(text, STATUSES.get(http_status, EXIT_FAILED))


class Unreachable(CommandFailed):
    """The service gave no answer. A command that changes something may have been done."""

    def __init__(self, text: str) -> None:
        super().__init__(text, EXIT_UNREACHABLE)
