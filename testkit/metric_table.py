"""The metrics that are exported, and those of the table in docs/operations.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from taskstream.runtime import metrics

OPERATIONS = Path(__file__).parents[1] / "docs" / "operations.md"


class MetricRow(NamedTuple):
    type: str
    labels: tuple[str, ...]


def exported_metrics() -> dict[str, MetricRow]:
    """Return the metrics of the registry by the names that they are exported with."""
    found: dict[str, MetricRow] = {}
    for collector in set(metrics.REGISTRY._collector_to_names):
        labels = tuple(getattr(collector, "_labelnames", ()))
        for family in collector.collect():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = MetricRow(family.type, labels)
    return found


def documented_metrics() -> dict[str, MetricRow]:
    """Return the metrics of the table; a row has one metric."""
    section = OPERATIONS.read_text().split("\n## Metrics\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([a-z_]+)(?:\{([a-z,]+)\})?` \| (\w+) \| \S.*\|$", section, re.MULTILINE)
    assert len({name for name, _, _ in rows}) == len(rows)
    return {name: MetricRow(kind, tuple(labels.split(",")) if labels else ()) for name, labels, kind in rows}


def series_of(name: str, row: MetricRow) -> list[str]:
    """Return the names of the series that a metric has."""
    if row.type == "histogram":
        return [f"{name}_bucket", f"{name}_sum", f"{name}_count"]
    return [name]
