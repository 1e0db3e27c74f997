"""Spans are exported only if OpenTelemetry's variables ask for them, and cost no import otherwise."""

from __future__ import annotations

import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from taskstream.runtime.tracing import start_tracing
from taskstream.settings import wants_traces

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, False),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "console"}, False),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "TRUE"}, False),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "false"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1"}, False),
        ({"OTEL_SERVICE_NAME": "tasks"}, False),
    ],
)
def test_the_standard_variables_switch_traces_on_and_off(environ: dict[str, str], wanted: bool) -> None:
    assert wants_traces(environ) is wanted


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in ENDPOINT.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_a_protocol_that_is_not_supported_is_named_and_exports_nothing(asked: pytest.MonkeyPatch) -> None:
    asked.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")

    with capture_logs() as entries:
        assert start_tracing("1") is None

    assert [(entry["event"], entry["reason"]) for entry in entries] == [
        ("tracing.off", "OTLP by grpc is not supported")
    ]


def test_without_the_package_the_service_starts_and_says_what_to_install(asked: pytest.MonkeyPatch) -> None:
    asked.setitem(sys.modules, "taskstream.runtime.otel", None)  # type: ignore[arg-type]

    with capture_logs() as entries:
        assert start_tracing("1") is None

    assert [entry["action"] for entry in entries] == ["install taskstream[otel]"]


def test_nothing_of_opentelemetry_is_imported_unless_it_is_asked_for() -> None:
    program = """
import sys, taskstream.cli, taskstream.running, taskstream.processes.supervisor, taskstream.processes.child
from taskstream.runtime.tracing import start_tracing
assert start_tracing("1") is None
print([name for name in sys.modules if name.startswith(("opentelemetry", "google.protobuf", "requests"))])
"""
    ran = subprocess.run([sys.executable, "-c", program], env={}, capture_output=True, text=True, check=True)

    assert ran.stdout == "[]\n"
