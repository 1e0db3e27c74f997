"""The schema of a model's input, from what real programs say of it, and from what hostile ones may say."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from taskstream.backends.dialects.input_schema import SOURCES, NoSchema, read_schema, schema_request
from taskstream.errors import InvalidInput
from taskstream.events.exchange import BareExchange, RequestTemplate
from taskstream.events.server import ServerRegistered
from taskstream.submission.payload_schema import PayloadSchema

from .recorded_answers import recorded_answers

RECORDED = Path(__file__).parent / "recorded"
COG = json.dumps(json.loads((RECORDED / "cog" / "openapi.json").read_text())["body"]).encode()
FASTAPI = json.loads((RECORDED / "fastapi" / "openapi.json").read_text())["exchanges"][0]["body"].encode()
KSERVE = recorded_answers("oip", "kserve-0.21.0")["metadata"].body
MLSERVER = recorded_answers("oip", "mlserver-1.7.1")["metadata"].body
TEXT = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["hello"]}
NUMBERS = {"name": "n", "shape": [2], "datatype": "INT64", "data": [[1], [2]]}


def server_at(path: str, dialect: str) -> ServerRegistered:
    return ServerRegistered(server_id="s1", name="", provider="", predict_url=f"http://h:1{path}", dialect=dialect)


def schema_of(dialect: str, body: bytes, path: str = "/predict") -> Any:
    """Return a compiled schema, which the service would accept."""
    schema = read_schema(dialect, server_at(path, dialect), 200, body)
    PayloadSchema(schema)
    return jsonschema_rs.validator_for(schema)


@pytest.mark.parametrize(
    ("dialect", "path", "url"),
    [
        ("cog", "/predictions", "http://h:1/openapi.json"),
        ("cog", "/team/", "http://h:1/team/openapi.json"),
        ("oip", "/v2/models/echo/versions/1/infer", "http://h:1/v2/models/echo/versions/1"),
        ("bare", "/predict", "http://h:1/openapi.json"),
    ],
)
def test_each_dialect_asks_where_its_servers_say_it(dialect: str, path: str, url: str) -> None:
    assert schema_request(dialect, server_at(path, dialect), None).url == url


def test_a_cog_model_takes_its_input() -> None:
    schema = schema_of("cog", COG)

    assert schema.is_valid({"text": "hi", "seconds": 3})
    assert not schema.is_valid({"seconds": 3})
    assert not schema.is_valid({"text": "hi", "seconds": 601})


@pytest.mark.parametrize(("metadata", "inputs"), [(KSERVE, [TEXT]), (MLSERVER, [TEXT, NUMBERS])])
def test_a_model_of_oip_takes_the_tensors_that_it_declares(metadata: bytes, inputs: list[dict[str, Any]]) -> None:
    schema = schema_of("oip", metadata, "/v2/models/echo/infer")

    assert schema.is_valid({"inputs": inputs})
    assert schema.is_valid({"id": "a", "inputs": inputs, "outputs": [{"name": "said"}]})
    assert not schema.is_valid({"inputs": inputs[1:]})
    assert not schema.is_valid({"inputs": [*inputs, {**TEXT, "name": "other"}]})
    assert not schema.is_valid({"inputs": [{**TEXT, "datatype": "FP32"}, *inputs[1:]]})
    assert not schema.is_valid({"inputs": [{**TEXT, "data": [1]}, *inputs[1:]]})


def test_a_route_of_fastapi_takes_its_body() -> None:
    schema = schema_of("bare", FASTAPI)

    assert schema.is_valid({"text": "hi", "voice": "low", "speed": None, "parts": [{"text": "a", "parts": []}]})
    assert not schema.is_valid({"text": "hi", "voice": "loud"})
    assert not schema.is_valid({"text": "hi", "parts": [{"text": "a", "parts": [{}]}]})


def test_null_in_openapi_3_0_is_null_in_json_schema() -> None:
    described = {"Input": {"type": "object", "properties": {"seed": {"type": "integer", "nullable": True}}}}

    schema = schema_of("cog", json.dumps({"components": {"schemas": described}}).encode())

    assert schema.is_valid({"seed": None})
    assert not schema.is_valid({"seed": "x"})


def test_names_of_fields_and_data_are_no_keywords() -> None:
    fields = {"nullable": {"type": "boolean"}, "$ref": {"const": {"$ref": "#/x"}}, "default": {"type": "integer"}}
    described = {"Input": {"type": "object", "required": ["nullable"], "properties": fields}}

    schema = schema_of("cog", json.dumps({"components": {"schemas": described}}).encode())

    assert schema.is_valid({"nullable": True, "$ref": {"$ref": "#/x"}, "default": 1})
    assert not schema.is_valid({"default": 1})
    assert not schema.is_valid({"nullable": True, "default": "x"})


def test_a_schema_that_refers_to_itself_stays_one() -> None:
    tree = {"type": "object", "properties": {"of": {"$ref": "#/components/schemas/Input"}}, "required": ["of"]}

    schema = schema_of("cog", json.dumps({"components": {"schemas": {"Input": tree}}}).encode())

    assert not schema.is_valid({"of": {}})


def with_input(schema: Any) -> dict[str, Any]:
    return {"components": {"schemas": {"Input": schema}}}


DEEP: Any = {"type": "string"}
for _ in range(60):
    DEEP = {"not": DEEP}


@pytest.mark.parametrize(
    ("dialect", "content", "reason"),
    [
        ("cog", {}, "refers to what it does not have"),
        ("cog", with_input({"$ref": "http://elsewhere/x"}), "refers to what it does not have"),
        ("cog", with_input({"$ref": "#/components/schemas/Gone"}), "#/components/schemas/Gone"),
        ("cog", with_input(DEEP), "nested too deep"),
        ("cog", with_input(5), "no schema for Input"),
        ("oip", {"name": "echo", "inputs": []}, "declares no inputs"),
        ("oip", {"inputs": [{"name": "x"}]}, "without `name` or `datatype`"),
        ("bare", {"paths": {"/other": {}}}, "describes no JSON body for POST /v2/models/m/infer"),
    ],
)  # fmt: skip
def test_a_description_without_a_schema_says_why(dialect: str, content: dict[str, Any], reason: str) -> None:
    with pytest.raises(NoSchema, match=reason):
        read_schema(dialect, server_at("/v2/models/m/infer", dialect), 200, json.dumps(content).encode())


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [(503, b"{}", "answered 503"), (200, b"<html>", "not JSON"), (200, b"[]", "not a JSON object")],
)
def test_another_answer_says_what_it_is(status: int, body: bytes, reason: str) -> None:
    with pytest.raises(NoSchema, match=reason):
        read_schema("cog", server_at("/", "cog"), status, body)


@pytest.mark.parametrize("dialect", ["taskstream", "openai"])
def test_servers_of_other_dialects_do_not_describe_their_input(dialect: str) -> None:
    with pytest.raises(NoSchema, match="do not describe"):
        schema_request(dialect, server_at("/", dialect), None)


def test_a_template_around_the_payload_hides_the_schema_of_the_payload() -> None:
    template = BareExchange(request=RequestTemplate(body={"inputs": "$payload"}))
    server = replace(server_at("/predict", "bare"), exchange=template)

    with pytest.raises(NoSchema, match="sends something else"):
        schema_request("bare", server, None)


def test_a_chain_of_definitions_is_followed_only_so_far() -> None:
    schemas = {f"S{n}": {"properties": {"a": {"$ref": f"#/components/schemas/S{n + 1}"}}} for n in range(600)}
    body = json.dumps({"components": {"schemas": {"Input": {"$ref": "#/components/schemas/S0"}, **schemas}}}).encode()

    with pytest.raises(NoSchema):
        read_schema("cog", server_at("/", "cog"), 200, body)


WORDS = ["components", "schemas", "Input", "$ref", "inputs", "name", "properties"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("#/components/schemas/Input"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["components", "schemas", "Input", "$ref", "inputs", "name", "properties"]), inner
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from(sorted(SOURCES)), json_values)
def test_no_description_breaks_the_reader(dialect: str, content: Any) -> None:
    with contextlib.suppress(NoSchema, InvalidInput):
        PayloadSchema(read_schema(dialect, server_at("/v2/models/m", dialect), 200, json.dumps(content).encode()))
