"""`taskstream demo`: the service, three backend servers, a few hundred tasks, and a kill -9 in the middle."""

from .story import TASKS, run

__all__ = ["TASKS", "run"]
