"""`taskstream demo` and `taskstream demo-queue`: real processes, seen at work, and a kill -9 in the middle."""

from .novel import run as run_novel
from .story import TASKS, run

__all__ = ["TASKS", "run", "run_novel"]
