from __future__ import annotations

from tests.acceptance.conftest import processes

__all__ = ["processes"]
