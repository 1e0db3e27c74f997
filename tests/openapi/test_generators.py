"""What generators of clients and linters need of `/openapi.json`; `make test-ecosystem` runs some of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema_rs
import pytest

from taskstream.events.task import TaskEvent
from taskstream.submission.body import OPTIONS
from tests.ecosystem.description.write_description import description

GOLDEN = Path(__file__).parents[1] / "events" / "golden"
OPEN = {"/", "/api/health", "/health/live", "/health/ready", "/metrics"}
METHODS = {"get", "put", "post", "patch", "delete"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(description())
    return found


def schemas_in(document: dict[str, Any], part: Any, seen: set[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield every object in a part of the document, and in the schemas it refers to."""
    seen = set() if seen is None else seen
    if isinstance(part, list):
        for each in part:
            yield from schemas_in(document, each, seen)
    elif isinstance(part, dict):
        yield part
        reference = part.get("$ref")
        if isinstance(reference, str) and reference not in seen:
            seen.add(reference)
            yield from schemas_in(document, document["components"]["schemas"][reference.rsplit("/", 1)[1]], seen)
        for value in part.values():
            yield from schemas_in(document, value, seen)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert method in METHODS
            yield path, operation


def test_no_field_of_a_request_has_a_default_that_would_make_it_required(document: dict[str, Any]) -> None:
    bodies = [operation["requestBody"] for _, operation in operations(document) if "requestBody" in operation]

    assert len(bodies) > 20
    for schema in schemas_in(document, bodies):
        for name, field in schema.get("properties", {}).items():
            assert not (isinstance(field, dict) and "default" in field), name
    kind = document["components"]["schemas"]["Submission"]["properties"]["type"]
    assert kind["description"].endswith('Default: "default".')


def test_every_route_says_whether_it_needs_a_token(document: dict[str, Any]) -> None:
    for path, operation in operations(document):
        assert operation["security"] == ([] if path in OPEN else [{"bearer": []}]), path
        assert any(status.startswith("4") for status in operation["responses"]), path


def test_a_field_of_an_answer_that_is_always_there_is_required(document: dict[str, Any]) -> None:
    shapes = document["components"]["schemas"]

    assert set(shapes["TaskDetails"]["required"]) == set(shapes["TaskDetails"]["properties"]) - {"withheld"}
    assert set(shapes["BulkAnswer"]["required"]) == set(shapes["BulkAnswer"]["properties"])
    assert "path" not in shapes["Problem"]["required"]


def test_a_bare_payload_has_no_option_and_any_other_field(document: dict[str, Any]) -> None:
    full, bare = document["paths"]["/api/task"]["post"]["requestBody"]["content"]["application/json"]["schema"]["anyOf"]

    assert full == {"$ref": "#/components/schemas/Submission"}
    assert bare["properties"] == dict.fromkeys(sorted(OPTIONS), False)
    assert jsonschema_rs.is_valid(bare, {"mimeType": "video/mp4", "enable_upscale": True})
    assert not jsonschema_rs.is_valid(bare, {"priority": "high"})


def test_events_results_and_messages_are_unions_with_a_discriminator(document: dict[str, Any]) -> None:
    shapes = document["components"]["schemas"]
    names = {event.__name__ for event in get_args(TaskEvent)}

    assert shapes["TaskEvent"]["discriminator"]["mapping"].keys() == names
    for name in names:
        assert shapes[name]["properties"]["type"] == {"enum": [name]}
    assert shapes["StreamMessage"]["discriminator"]["mapping"].keys() > names | {"state", "reached", "gap", "reset"}
    assert shapes["RecordedEvent"]["properties"]["event"]["$ref"].endswith("/TaskEvent")
    assert shapes["TaskDetails"]["properties"]["result"]["anyOf"][0]["$ref"].endswith("/TaskResult")
    for path in ("/api/task/{task_id}/stream", "/api/tasks/stream", "/api/batches/{batch_id}/stream"):
        content = document["paths"][path]["get"]["responses"]["200"]["content"]
        assert content["text/event-stream"]["schema"]["$ref"].endswith("/StreamMessage")


def test_a_union_without_a_discriminator_lets_its_shapes_overlap(document: dict[str, Any]) -> None:
    one_of = [schema for schema in schemas_in(document, document["paths"]) if "oneOf" in schema]
    assert [schema for schema in one_of if "discriminator" not in schema] == []


def test_webhooks_and_the_calls_of_servers_are_described(document: dict[str, Any]) -> None:
    message = document["webhooks"]["taskEvent"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    callbacks = document["paths"]["/api/servers"]["post"]["callbacks"]

    assert message["$ref"].endswith("/WebhookMessage")
    assert list(callbacks["predict"]) == ["{$request.body#/endpoints/predict}"]


def test_every_schema_is_used_and_every_reference_resolves(document: dict[str, Any]) -> None:
    found = [
        schema["$ref"] for schema in schemas_in(document, [document["paths"], document["webhooks"]]) if "$ref" in schema
    ]

    names = {reference.rsplit("/", 1)[1] for reference in found if isinstance(reference, str)}
    assert names == set(document["components"]["schemas"])


@pytest.mark.parametrize("event", get_args(TaskEvent), ids=lambda event: event.__name__)
def test_every_recorded_event_keeps_to_its_schema(document: dict[str, Any], event: type) -> None:
    schema = {**document["components"]["schemas"]["TaskEvent"], "components": document["components"]}

    for file in sorted(GOLDEN.glob(f"{event.__name__}.*")):
        content = json.loads(file.read_bytes())["event"]
        if "object_name" not in str(content):  # clients see a link in its place
            jsonschema_rs.validate(schema, content)
