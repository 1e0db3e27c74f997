"""What a failure is to whoever started the process: an exit status and one line."""

from __future__ import annotations

import errno

from ..errors import TaskstreamError
from ..settings import InvalidSettings

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
"""128 and the number of SIGINT, as shells have it."""
REMEDIES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "choose another place, or run the command as the user who owns it"),
    errno.EROFS: "choose a place on another file system",
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "choose another place"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, or choose a place on another disk"),
    errno.EFBIG: "raise the limit of file sizes (`ulimit -f`)",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (`ulimit -n`)"),
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "the disk may be failing: see the system's log",
}
"""What to do about an error of the operating system."""


class ProcessFailed(TaskstreamError):
    """A process of `taskstream up` failed at its start, with that exit status and text."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(text)


def explained(error: BaseException) -> tuple[int, str] | None:
    """Return the exit status and the text for a failure that comes from outside of the program; None for a defect."""
    match error:
        case InvalidSettings():
            return EXIT_USAGE, str(error)
        case ProcessFailed():
            return error.status, str(error)
        case TaskstreamError():
            return EXIT_FAILED, str(error)
        case KeyboardInterrupt():
            return EXIT_INTERRUPTED, "interrupted"
        case OSError(strerror=str(reason)):
            place = f"{error.filename2 or error.filename}: " if error.filename else ""
            remedy = REMEDIES.get(error.errno or 0)
            return EXIT_FAILED, f"{place}{reason}" + (f": {remedy}" if remedy else "")
        case BaseExceptionGroup(exceptions=[first, *_]):
            return explained(first)
        case _:
            return None
