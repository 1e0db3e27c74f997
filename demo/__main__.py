"""`python -m demo`: a few hundred tasks on three servers. `python -m demo queue`: a novel being written."""

from __future__ import annotations

import argparse
import asyncio
import sys

from taskstream.settings import InvalidSettings

from . import novel, tasks


def main() -> int:
    """Run a demo; return its exit status: 0 done, 1 failed, 2 bad arguments."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("tasks", "queue"), default="tasks")
    parser.add_argument("--tasks", type=int, default=tasks.TASKS, help="how many tasks to submit")
    options = parser.parse_args()
    try:
        return asyncio.run(novel.show() if options.what == "queue" else tasks.show(options.tasks))
    except InvalidSettings as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 1


if __name__ == "__main__":
    sys.exit(main())
