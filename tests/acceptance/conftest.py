from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.processes import Processes


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts the shipped command; whatever it started is ended with the test, by its process id."""
    started = Processes(tmp_path)
    yield started
    started.stop()
