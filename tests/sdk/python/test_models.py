"""The values of the Python client follow the description of the API."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from taskstream_client import models
from tests.ecosystem.description.write_description import description

PAIRS = [
    (models.Task, "TaskDetails"),
    (models.Task, "TaskSummary"),
    (models.Task, "BatchTask"),
    (models.NewTask, "Submission"),
    (models.Batch, "BatchSummary"),
    (models.Batch, "ListedBatch"),
    (models.BulkDone, "BulkAnswer"),
    (models.RecordedEvent, "RecordedEvent"),
    (models.Why, "WhyAnswer"),
    (models.Schedule, "ScheduleDetail"),
    (models.Schedule, "ScheduleSummary"),
    (models.Preview, "SchedulePreview"),
    (models.Webhook, "WebhookSummary"),
    (models.WebhookSecret, "WebhookSecret"),
    (models.Delivery, "DeliverySummary"),
    (models.Server, "ServerSummary"),
    (models.TaskType, "TypeSummary"),
    (models.Me, "Me"),
    (models.StoredFile, "FileSummary"),
    (models.FileLink, "FileLink"),
    (models.Count, "TaskCounts"),
    (models.ApiKey, "KeySummary"),
    (models.NewApiKey, "NewKey"),
]


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(description())["components"]["schemas"]
    return found


@pytest.mark.parametrize(("model", "name"), PAIRS, ids=[f"{model.__name__}-{name}" for model, name in PAIRS])
def test_a_value_takes_all_that_the_api_may_answer(model: Any, name: str, schemas: dict[str, Any]) -> None:
    schema = schemas[name]
    for field in msgspec.structs.fields(model):
        given = schema["properties"].get(field.encode_name)
        if given is None:
            assert not field.required, f"{name} has no {field.encode_name}"
            continue
        if field.required:
            assert field.encode_name in schema["required"], field.name
        if _may_be_null(given, schemas):
            msgspec.convert(None, field.type, dec_hook=models.decode_hook)


def _may_be_null(schema: dict[str, Any], schemas: dict[str, Any]) -> bool:
    kinds = schema.get("type")
    if kinds == "null" or (isinstance(kinds, list) and "null" in kinds) or None in schema.get("enum", []):
        return True
    return any(_may_be_null(each, schemas) for each in schema.get("anyOf", []) + schema.get("oneOf", []))


def test_a_new_task_has_all_options_of_a_submission(schemas: dict[str, Any]) -> None:
    named = {field.encode_name for field in msgspec.structs.fields(models.NewTask)}

    assert named == schemas["Submission"]["properties"].keys()
