"""The metrics page of several processes."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from taskstream.runtime import metrics
from taskstream.runtime.metrics import labelled


def test_pages_of_several_processes_become_one_page() -> None:
    labelled(metrics.webhook_tries, "delivered").inc()
    metrics.webhook_lag_seconds.observe(1)
    one, two = metrics.page("api-1"), metrics.page("worker-1")

    merged = metrics.merged([one, two, "", "junk"])

    families = list(text_string_to_metric_families(merged))
    alone = list(text_string_to_metric_families(metrics.page()))
    assert [family.name for family in families] == [family.name for family in alone]
    assert merged.count("# TYPE taskstream_webhook_tries_total counter") == 1
    for family, own in zip(families, alone, strict=True):
        shown = [(sample.name, sample.labels) for sample in family.samples]
        assert shown == [
            (sample.name, {**sample.labels, "process": name})
            for name in ("api-1", "worker-1")
            for sample in own.samples
        ]


def test_a_page_of_one_process_stays_as_it_is() -> None:
    page = metrics.page()
    assert metrics.merged([page]) == page
    assert "process=" not in page


def test_no_metric_has_a_series_for_its_creation() -> None:
    labelled(metrics.webhook_tries, "delivered").inc()
    metrics.webhook_lag_seconds.observe(1)

    assert "_created" not in metrics.page()
