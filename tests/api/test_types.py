"""Task types over HTTP: admins define them, all users read them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from taskstream.commands.task_type import DefineType
from taskstream.events.envelope import Actor
from taskstream.events.limits import Limits
from taskstream.events.task_type import TypeDefined
from testkit.service import Service

RESIZE = {
    "schema": {"type": "object", "required": ["url"]},
    "schemaFrom": None,
    "attempts": 5,
    "backoffBase": 0.5,
    "backoffCap": 60,
    "timeout": 120,
    "priority": "low",
    "pool": "gpu",
    "description": "makes images smaller",
    "concurrency": 20,
    "perSecond": 2.5,
    "burst": 10,
    "keyConcurrency": 2,
    "onConflict": "replace",
    "accepts": "json",
    "busyFor": 600,
    "indexed": ["$.customer"],
    "dialect": "taskstream",
    "sessionAffinity": False,
    "model": "acme/resize",
}


async def test_a_type_is_put_once_read_listed_and_deleted(api: Service) -> None:
    put = await api.admin.put("/api/types/resize", RESIZE)
    assert (await api.admin.put("/api/types/resize", RESIZE)).body == put.body
    assert len(await api.container.commands.types.log.load("type.resize")) == 1
    read = await api.alice.get("/api/types/resize")
    listed = await api.alice.get("/api/types")
    deleted = await api.admin.delete("/api/types/resize")

    assert put.status == 200
    own = {name: value for name, value in RESIZE.items() if name not in ("schema", "schemaFrom", "sessionAffinity")}
    assert put.body == read.body == {"name": "resize", "defined": True, "pause": None, "own": own, **RESIZE}
    assert [found["name"] for found in listed["types"]] == ["default", "resize"]
    assert listed["types"][1] == read.body
    assert (deleted.status, deleted.body) == (200, {"name": "resize", "success": True})
    assert (await api.alice.get("/api/types/resize")).status == 404
    assert (await api.admin.delete("/api/types/resize")).status == 404


async def test_own_settings_of_a_type_define_it_again_and_pin_no_default(api: Service) -> None:
    await api.admin.done("PUT", "/api/types/resize", {"attempts": 5, "perSecond": 2, "indexed": ["$.a"]})
    own = (await api.alice.get("/api/types/resize"))["own"]
    history = await api.container.commands.types.log.load("type.resize")

    await api.admin.done("PUT", "/api/types/resize", own)

    assert own == {"pool": "resize", "attempts": 5, "perSecond": 2, "indexed": ["$.a"]}
    assert await api.container.commands.types.log.load("type.resize") == history
    assert (await api.alice.get("/api/types/default"))["own"] is None


async def test_settings_left_out_of_a_type_are_those_of_the_service(api: Service) -> None:
    settings = api.container.settings

    found = (await api.admin.put("/api/types/plain", {})).body

    assert found["schema"] is None
    assert (found["attempts"], found["timeout"]) == (settings.attempts, settings.attempt_timeout)
    assert (found["backoffBase"], found["backoffCap"]) == (settings.retry_base, settings.retry_cap)
    assert (found["priority"], found["pool"], found["description"]) == ("normal", "plain", "")
    assert (found["concurrency"], found["perSecond"], found["burst"]) == (None, None, None)
    assert (found["keyConcurrency"], found["onConflict"]) == (1, "wait")


async def test_a_type_has_the_limits_it_was_given_and_a_burst_of_a_second(api: Service) -> None:
    put = await api.admin.put("/api/types/resize", {"concurrency": 3, "perSecond": 2.5})

    assert (put["concurrency"], put["perSecond"], put["burst"]) == (3, 2.5, 3)
    assert api.container.fleet.type_limits("resize") == Limits(concurrency=3, per_second=2.5)
    await api.admin.put("/api/types/resize", {})
    assert not api.container.fleet.type_limits("resize").is_any


async def test_the_default_type_is_always_there(api: Service) -> None:
    before = await api.alice.get("/api/types/default")
    await api.admin.put("/api/types/default", {"attempts": 9})
    after = await api.alice.get("/api/types/default")
    deleted = await api.admin.delete("/api/types/default")

    assert (before.status, before["defined"], before["pool"]) == (200, False, "default")
    assert (after["defined"], after["attempts"], after["pool"]) == (True, 9, "default")
    assert deleted.status == 409
    assert "always exists" in deleted["error"]
    assert [found["name"] for found in (await api.alice.get("/api/types"))["types"]] == ["default"]


async def test_a_type_sets_how_its_tasks_are_tried(api: Service) -> None:
    """The task's own options come first, then those of its type, then the service's settings."""
    await api.admin.put("/api/types/resize", RESIZE | {"schema": None})
    await api.admin.put("/api/types/default", {"attempts": 9, "timeout": 7})
    await api.admin.put("/api/types/gone", RESIZE)
    await api.admin.delete("/api/types/gone")
    settings = api.container.settings
    service = (settings.attempts, settings.attempt_timeout, settings.retry_base, settings.retry_cap)

    for body, pool, priority, policy in [
        ({"type": "resize", "payload": 1}, "gpu", "low", (5, 120, 0.5, 60)),
        (
            {"type": "resize", "payload": 1, "attempts": 2, "priority": "high", "timeout": 1.5},
            "gpu", "high", (2, 1.5, 0.5, 60),
        ),
        ({"a": 1}, "default", "normal", (9, 7, settings.retry_base, settings.retry_cap)),
        ({}, "default", "normal", (9, 7, settings.retry_base, settings.retry_cap)),
        *[({"type": name, "payload": 1}, "default", "normal", service) for name in ("nobody knows it", "gone")],
    ]:  # fmt: skip
        (event,) = await api.alice.history(await api.alice.submit(body))
        assert (event["pool"], event["priority"], event["policy"]["attempts"]) == (pool, priority, policy[0]), body
        names = ("timeout", "backoff_base", "backoff_cap")
        seconds = [msgspec.convert(event["policy"][name], timedelta).total_seconds() for name in names]
        assert seconds == list(policy[1:]), body


async def test_a_wrong_type_is_refused_by_its_path(api: Service) -> None:
    for body, path in [
        ({"schema": True}, "$.schema"),
        ({"attempts": 0}, "$.attempts"),
        ({"timeout": -1}, "$.timeout"),
        ({"timeout": 604_801}, "$.timeout"),
        ({"priority": "urgent"}, "$.priority"),
        ({"pool": "a.b"}, "$.pool"),
        ({"pool": "*"}, "$.pool"),
        ({"pool": None}, "$.pool"),
        ({"backoff": 1}, "$.backoff"),
        ({"concurrency": 0}, "$.concurrency"),
        ({"perSecond": 0}, "$.perSecond"),
        ({"perSecond": 1e-300}, "$.perSecond"),
        ({"perSecond": 1, "burst": 0}, "$.burst"),
        ({"burst": 5}, "$.burst"),
        ({"keyConcurrency": 0}, "$.keyConcurrency"),
        ({"keyConcurrency": None}, "$.keyConcurrency"),
        ({"onConflict": "fail"}, "$.onConflict"),
    ]:
        assert await api.admin.refusal("PUT", "/api/types/resize", body) == (400, path), body
    assert (await api.admin.get("/api/types/resize")).status == 404


async def test_an_invalid_name_is_refused_with_the_rule(api: Service) -> None:
    for name in ("a b", "-a", "é", "a" * 65, "*", ">", "a~b", "a%0A"):
        answer = await api.admin.put(f"/api/types/{name}", {})
        assert (answer.status, answer["path"]) == (400, "name"), name
        assert "letters, digits, dots, dashes and underscores" in answer["error"]


async def test_a_list_of_types_pages_by_name(api: Service) -> None:
    for name in ("a", "b", "e"):
        await api.admin.put(f"/api/types/{name}", {})

    pages = await api.alice.pages("/api/types", "types", "limit=3")

    assert [[found["name"] for found in page] for page in pages] == [["a", "b", "default"], ["e"]]


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"pattern": "(?=.*[0-9]).{8,}"}, "$.schema.pattern"),
        ({"properties": {"a": {"pattern": "^(?!x)y"}}}, "$.schema.properties.a.pattern"),
        ({"items": {"allOf": [{"pattern": r"(a)\1"}]}}, "$.schema.items.allOf[0].pattern"),
        ({"patternProperties": {"(?<=a)b": {}}}, "$.schema.patternProperties.(?<=a)b"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "not": {"pattern": "(?<!a)b"}}, "$.schema.not.pattern"),
        ({"propertyNames": {"pattern": "(?>a)"}}, "$.schema.propertyNames.pattern"),
        ({"$defs": {"a": {"pattern": "(?=a)"}}, "$ref": "#/$defs/a"}, "$.schema.$defs.a.pattern"),
    ],
)
async def test_patterns_that_could_backtrack_are_refused_with_their_place(
    api: Service, schema: dict[str, Any], path: str
) -> None:
    answer = await api.admin.put("/api/types/slow", {"schema": schema})

    assert (answer.status, answer["path"]) == (400, path)
    assert "look-around" in answer["error"]
    assert "allOf" in answer["error"]


HANGS = "(?=.*[0-9]).{8,}"
"""Its search in 60,000 letters took seconds, in which this process did nothing else."""


async def test_a_stored_type_with_look_around_refuses_payloads_and_hinders_nobody(api: Service) -> None:
    """An earlier version took such a type. What cannot be checked is never accepted; a PUT of the type ends that."""
    definition = TypeDefined(name="old", pool="old", payload_schema=Raw(msgspec.json.encode({"pattern": HANGS})))
    await api.container.commands.types.handle("old", DefineType(definition=definition), by=Actor("user", "root"))
    text = "x" * 60_000

    async def others() -> int:
        return [(await api.bob.post("/api/task", {"a": 1})).status for _ in range(5)].count(200)

    for body in ({"type": "old", "payload": text}, {"type": "old", "payload": "a1234567"}):
        refusal, taken = await asyncio.gather(api.alice.post("/api/task", body), others())
        assert (refusal.status, refusal["path"], taken) == (400, "$.type", 5)
        assert "PUT the type again" in refusal["error"]
        assert "$.schema.pattern" in refusal["error"]
    assert (await api.alice.get("/api/types/old"))["schema"] == {"pattern": HANGS}
    await api.admin.done("PUT", "/api/types/old", {"schema": {"allOf": [{"pattern": "[0-9]"}, {"pattern": ".{8,}"}]}})
    assert await api.alice.refusal("POST", "/api/task", {"type": "old", "payload": text}) == (400, "$.payload")
    await api.alice.done("POST", "/api/task", {"type": "old", "payload": "a1234567"})


async def test_an_invalid_schema_is_refused_and_no_reference_fetched(api: Service) -> None:
    for schema in (
        {"type": "nonsense"},
        {"properties": 5},
        {"pattern": "("},
        {"minimum": "3"},
        {"$schema": 5},
        {"$schema": "http://example.org/own"},
        {"$ref": "#/nowhere"},
        {"$ref": "other.json"},
        {"$ref": "//host/s"},
        {"$ref": "http://169.254.169.254/schema"},
        {"$ref": "https://example.com/s.json"},
        {"$ref": "file:///etc/passwd"},
    ):
        answer = await api.admin.put("/api/types/resize", {"schema": schema})
        assert (answer.status, answer["path"]) == (400, "$.schema"), schema
        assert "not a valid JSON Schema" in answer["error"]
        if "://" in str(schema.get("$ref")):
            assert "other documents are not fetched" in answer["error"], schema


async def test_a_model_belongs_to_one_type(api: Service) -> None:
    await api.admin.done("PUT", "/api/types/resize", {"model": "acme/resize"})

    refused = await api.admin.put("/api/types/shrink", {"model": "acme/resize"})

    assert (refused.status, refused["detail"]) == (
        409,
        "the type resize has the `model` acme/resize; choose another, or take it from that type first",
    )
    assert (await api.alice.get("/api/types/shrink")).status == 404
    assert (await api.admin.put("/api/types/resize", {"model": "acme/resize", "attempts": 1})).status == 200


async def test_a_model_is_free_again_once_its_type_gives_it_up(api: Service) -> None:
    await api.admin.done("PUT", "/api/types/resize", {"model": "acme/resize"})

    await api.admin.done("PUT", "/api/types/resize", {})

    assert (await api.admin.put("/api/types/shrink", {"model": "acme/resize"}))["model"] == "acme/resize"
    await api.admin.done("DELETE", "/api/types/shrink")
    assert (await api.admin.put("/api/types/other", {"model": "acme/resize"})).status == 200


@pytest.mark.parametrize("model", ["", "a b", "acme//flux", "acme/", "/flux", "a\n", "x" * 201, "acme/flux?v"])
async def test_a_model_that_cannot_stand_in_an_address_is_refused(api: Service, model: str) -> None:
    refused = await api.admin.put("/api/types/resize", {"model": model})

    assert refused.status == 400
    assert "$.model" in refused["detail"]
