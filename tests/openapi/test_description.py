"""The API's description is complete: what a client's author finds in `/openapi.json`."""

from __future__ import annotations

import ast
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import jsonschema_rs
import pytest

from taskstream.api import app
from taskstream.api.auth.stream_tokens import StreamTokens
from taskstream.api.openapi.description import describe, field_texts
from taskstream.api.openapi.examples import FIELD_EXAMPLES
from taskstream.api.routes.system import system_router
from taskstream.api.schemas.shared import ReasonBody
from taskstream.api.schemas.tasks import TaskDetails

API = Path(app.__file__).parent
ROOT = Path(__file__).parents[2]
UPLOADS = {"application/octet-stream", "multipart/form-data"}
"""Media types of a body of any bytes, which has no example."""
UNDESCRIBED = {"console_router", "docs_router", "websocket_router"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    container = MagicMock()  # a description needs routes, and no service behind them
    tokens = StreamTokens(container.token_sealer, time.time)
    routers = [*app.api_routes(container, tokens), system_router(container, "1.0")]
    found: dict[str, Any] = json.loads(describe(routers, "1.0"))
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def handlers() -> list[str]:
    """Return the operation ids of all route handlers in the source: the decorated functions inside functions."""
    makers = [
        function
        for folder in ("routes", "legacy")
        for file in (API / folder).glob("*.py")
        for function in ast.parse(file.read_text()).body
        if isinstance(function, ast.FunctionDef) and function.name not in UNDESCRIBED
    ]
    names = [
        each.name
        for maker in makers
        for each in maker.body
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and each.decorator_list
    ]
    return [re.sub("_(.)", lambda found: found[1].upper(), name) for name in names]


async def test_every_route_in_the_source_is_served_and_described(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]

    assert sorted(ids) == sorted(handlers())
    assert len(ids) == len(set(ids))


async def test_every_route_lists_the_errors_that_all_like_it_have(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        wanted = {"401", "403"} if operation["tags"] != ["System"] else set()
        wanted |= {"400", "413", "415"} if "requestBody" in operation else set()
        wanted |= {"404"} if "_id}" in path else set()
        assert wanted <= operation["responses"].keys(), (method, path)


def without_names(path: str) -> str:
    """Return a path whose parameters are `*`, however a page writes them: `{id}`, `$TASK`."""
    return re.sub(r"\{\w+\}|\$\w+", "*", path)


async def test_every_route_is_in_a_page_of_docs(document: dict[str, Any]) -> None:
    named = set()
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        for line in page.read_text().splitlines():
            last = ""
            for path, sibling in re.findall(r"(/(?:api|health|metrics)[\w/{}$.-]*)|`…?(/[a-z]+)`", line):
                last = path or last.rpartition("/")[0] + sibling
                named.add(without_names(last))

    for path, operations_ in document["paths"].items():
        (tag,) = next(iter(operations_.values()))["tags"]
        if tag != "Queue" and path != "/":  # the queue surface is older than the pages
            assert without_names(path if tag == "System" else f"/api{path}") in named, path


async def test_every_operation_says_what_it_does(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        assert " " in operation["summary"], (method, path)  # Litestar would make one of the handler's name
        assert operation["description"], (method, path)
        assert operation["tags"], (method, path)
        for parameter in operation.get("parameters", ()):
            assert parameter["description"], (method, path, parameter)


async def test_every_body_has_a_schema_and_examples_that_keep_to_it(document: dict[str, Any]) -> None:
    with_body = [
        (path, method, found["requestBody"]) for path, method, found in operations(document) if "requestBody" in found
    ]

    assert with_body
    for path, method, body in with_body:
        if body["content"].keys() == UPLOADS:
            continue
        media = body["content"]["application/json"]
        schema = {**media["schema"], "components": document["components"]}
        assert media["examples"], (method, path)
        for name, example in media["examples"].items():
            assert jsonschema_rs.is_valid(schema, example["value"]), (method, path, name)


async def test_every_error_answer_is_a_problem_document(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        for status, answer in operation["responses"].items():
            assert answer["description"], (method, path, status)
            if int(status) >= 400 and path != "/health/ready":
                (media,) = answer["content"].items()
                assert media[0] == "application/problem+json", (method, path, status)
                assert media[1]["schema"]["$ref"] == "#/components/schemas/Problem"
                assert media[1]["example"]["status"] == int(status)


async def test_a_submission_documents_its_429(document: dict[str, Any]) -> None:
    refused = document["paths"]["/task"]["post"]["responses"]["429"]

    assert refused["headers"].keys() == {"Retry-After", "RateLimit", "RateLimit-Policy"}
    assert refused["content"]["application/problem+json"]["example"]["violated-policies"] == ["waiting"]


async def test_readiness_documents_its_503(document: dict[str, Any]) -> None:
    answers = document["paths"]["/health/ready"]["get"]["responses"]

    assert answers["503"]["content"]["application/json"]["schema"]["$ref"] == "#/components/schemas/Ready"


async def test_every_reference_resolves(document: dict[str, Any]) -> None:
    found = set(references(document))

    assert found
    for reference in found:
        assert reference.rsplit("/", 1)[1] in document["components"]["schemas"], reference


async def test_every_example_of_a_field_keeps_to_its_schema(document: dict[str, Any]) -> None:
    shown = set()
    for shape, schema in document["components"]["schemas"].items():
        for name, field in schema.get("properties", {}).items():
            for example in field.get("examples", ()):
                shown |= {name, f"{shape}.{name}"}
                assert jsonschema_rs.is_valid({**field, "components": document["components"]}, example), (shape, name)

    assert FIELD_EXAMPLES.keys() <= shown, "an example of a field that no answer has"


async def test_the_strings_beneath_fields_are_their_descriptions(document: dict[str, Any]) -> None:
    details = document["components"]["schemas"]["TaskDetails"]["properties"]

    assert details["request"]["description"] == "The payload as submitted."
    assert details["nextAttemptAt"]["description"].startswith("When the next attempt is due")
    assert field_texts(TaskDetails)["nextAttemptAt"] == details["nextAttemptAt"]["description"]
    assert field_texts(ReasonBody) == {"reason": "Recorded in the log."}


def test_every_list_has_pages_and_a_largest_page(document: dict[str, Any]) -> None:
    paged = []
    for path, methods in document["paths"].items():
        if "get" not in methods:
            continue
        answer = methods["get"]["responses"]["200"]["content"].get("application/json", {}).get("schema", {})
        shape = document["components"]["schemas"].get(answer.get("$ref", "").rpartition("/")[2], {})
        has_next = {"nextCursor", "nextAfter"} & shape.get("properties", {}).keys()
        has_things = any(
            each.get("type") == "array" and "$ref" in each["items"] for each in shape.get("properties", {}).values()
        )
        limits = [each["schema"] for each in methods["get"].get("parameters", []) if each["name"] == "limit"]
        assert bool(has_next) == bool(limits), path
        bounded = ("/alarms", "/presets", "/quotas", "/stats", "/dead-letters/groups", "/settings")
        assert not has_things or limits or "{" in path or path in bounded, path
        for schema in limits:
            assert 1 <= schema["default"] <= schema["maximum"] <= 5_000, path
        paged += [path] * len(limits)
    assert len(paged) >= 14
