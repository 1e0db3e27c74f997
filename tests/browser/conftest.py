from __future__ import annotations

from tests.acceptance.conftest import processes
from tests.api.conftest import api

__all__ = ["api", "processes"]
