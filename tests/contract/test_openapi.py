"""The OpenAPI document: complete, true to itself, and the same wherever it is found."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ai_agent.api.guards import SCOPE
from tests.conftest import Server
from tests.contract.document import DOCUMENT, Operation, faults, operations, resolved
from tests.integration.test_commands import ai_agent
from tests.integration.test_identity import operations as handled

OPERATIONS = [
    pytest.param(method, path, operation, id=operation["operationId"]) for method, path, operation in operations()
]
SCHEMAS = DOCUMENT["components"]["schemas"]


def test_the_document_that_is_checked_in_is_the_one_that_is_served(server: Server) -> None:
    with httpx.Client(base_url=server.url) as nobody:
        served, as_yaml = nobody.get("/openapi.json"), nobody.get("/openapi.yaml")
    assert served.headers["content-type"] == "application/json"
    assert served.json() == DOCUMENT, "The API has changed: `just openapi` writes the document anew"
    assert as_yaml.headers["content-type"] == "application/yaml"
    assert yaml.safe_load(as_yaml.text) == DOCUMENT


def test_the_command_prints_the_document_without_a_database(tmp_path: Path) -> None:
    checked_in = Path(__file__).parents[2] / "docs" / "openapi.json"
    assert ai_agent(tmp_path, "openapi").stdout == checked_in.read_text()
    assert yaml.safe_load(ai_agent(tmp_path, "openapi", "--yaml").stdout) == DOCUMENT


def test_the_document_says_what_it_is() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert (DOCUMENT["info"]["title"], DOCUMENT["info"]["version"]) == ("AI Agent API", "1.0.0")
    sections = re.findall(r"^## (.*)$", DOCUMENT["info"]["description"], re.MULTILINE)
    assert sections == ["Features", "Authentication", "Rate Limiting", "Error Handling"]
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert (schemes["ApiKeyAuth"]["type"], schemes["ApiKeyAuth"]["in"], schemes["ApiKeyAuth"]["name"]) == (
        "apiKey",
        "header",
        "Authorization",
    )
    assert (schemes["JWTAuth"]["type"], schemes["JWTAuth"]["scheme"]) == ("http", "bearer")
    assert DOCUMENT["security"] == [{"ApiKeyAuth": []}, {"JWTAuth": []}]


def test_every_operation_of_the_application_is_documented_with_its_scope() -> None:
    documented = {(method, path.removeprefix("/api/v1")): operation for method, path, operation in operations()}
    served = {(method, path): scope for method, path, scope in handled()}
    assert documented.keys() == served.keys()
    for key, scope in served.items():
        assert (documented[key].get("security") == []) == (scope is None), key
        told = f"`{scope}`" if scope else "" if scope is None else "Needs credentials"
        assert told in documented[key]["description"], f"{key} does not tell its {SCOPE}"


def test_operation_ids_are_unique() -> None:
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_an_operation_is_described(method: str, path: str, operation: Operation) -> None:
    assert re.fullmatch(r"[a-z]+([A-Z][a-z]+)+", operation["operationId"])
    assert operation["summary"], "The first line of the handler's docstring"
    assert not operation["description"].startswith("Needs the scope"), "More lines of the handler's docstring"
    assert set(operation["tags"]) <= {tag["name"] for tag in DOCUMENT["tags"]}
    for parameter in operation["parameters"]:
        assert resolved(parameter)["description"], f"What {parameter['name']} means belongs into the glossary"


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_an_operation_lists_its_errors(method: str, path: str, operation: Operation) -> None:
    expected = {"ValidationError", "InternalServerError"}
    if operation.get("security") != []:
        expected |= {"UnauthorizedError", "RateLimitError", "ServiceUnavailableError"}
    if "Needs the scope" in operation["description"]:
        expected.add("ForbiddenError")
    if "{" in path:
        expected.add("NotFoundError")
    names = {reply["$ref"].rpartition("/")[2] for reply in operation["responses"].values() if "$ref" in reply}
    assert expected <= names
    assert any(status.startswith("2") for status in operation["responses"])


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_the_examples_of_an_operation_are_valid(method: str, path: str, operation: Operation) -> None:
    bodies = [resolved(response) for response in operation["responses"].values()]
    bodies += [operation["requestBody"]] if "requestBody" in operation else []
    contents = [content for body in bodies for content in body.get("content", {}).items()]
    assert all(re.fullmatch(r"[a-z]+/[a-z.+-]+", media_type) for media_type, _ in contents)
    for described in [*(content for _, content in contents), *map(resolved, operation["parameters"])]:
        if "in" not in described:
            assert "example" in described, f"{operation['operationId']} has a body without an example"
        if "example" in described:
            assert faults(described["schema"], described["example"]) == []


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_described_and_honest(name: str) -> None:
    assert "__" not in name
    assert SCHEMAS[name].get("description"), "The docstring of the Struct"
    for field, schema in SCHEMAS[name].get("properties", {}).items():
        assert schema.get("description"), f"What {name}.{field} means belongs into the glossary"
        assert schema.keys() - {"description", "default"}, f"{name}.{field} has no type"


def test_a_request_refuses_unknown_fields_and_an_answer_is_whole() -> None:
    for _, _, operation in operations():
        for schema in _objects(operation.get("requestBody", {})):
            assert schema["additionalProperties"] is False
        for status, response in operation["responses"].items():
            for schema in _objects(response) if status.startswith("2") else ():
                optional = set(schema["properties"]) - set(schema["required"])
                assert not optional, f"{operation['operationId']} may leave out {optional}"


def _objects(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The schemas of the objects that a JSON body is made of, or that its items are."""
    schema = resolved(body.get("content", {}).get("application/json", {}).get("schema", {}))
    if schema.get("type") == "array":
        schema = resolved(schema["items"])
    return [schema] if "properties" in schema else []


def test_events_are_told_apart_by_their_type() -> None:
    union = SCHEMAS["EventFrame"]
    mapping = union["discriminator"]["mapping"]
    assert union["discriminator"]["propertyName"] == "type"
    assert [option["$ref"] for option in union["oneOf"]] == list(mapping.values())
    for kind, reference in mapping.items():
        assert resolved({"$ref": reference})["properties"]["type"]["const"] == kind


def test_rows_and_events_of_streams_are_as_described(api: httpx.Client) -> None:
    model = {"provider": "openai", "model": "scripted"}
    agent = api.post("/agents", json={"name": "streams", "model_config": model}).json()["id"]
    stream = api.post(f"/agents/{agent}/execute/stream", json={"message": "hello"})
    events = [json.loads(line.removeprefix("data: ")) for line in stream.text.splitlines() if line.startswith("data: ")]
    assert events[-1]["type"] == "execution.completed"
    assert [fault for event in events for fault in faults({"$ref": "#/components/schemas/EventFrame"}, event)] == []
    session = api.get(stream.headers["content-location"].removeprefix("/api/v1")).json()["session_id"]
    for accept in ("application/x-ndjson", "text/plain"):
        export = api.get(f"/sessions/{session}/export", headers={"Accept": accept})
        assert export.headers["content-type"].startswith(accept)
        described = DOCUMENT["paths"]["/api/v1/sessions/{session_id}/export"]["get"]["responses"]["200"]["content"]
        lines = [json.loads(line) for line in export.text.splitlines()]
        assert [line["type"] for line in lines] == ["session", "message", "message", "execution"]
        assert [fault for line in lines for fault in faults(described[accept]["schema"], line)] == []


def test_the_page_needs_nothing_but_this_server(server: Server) -> None:
    with httpx.Client(base_url=server.url) as nobody:
        page = nobody.get("/docs")
        assert page.status_code == nobody.get("/docs/").status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == "'self'"
        wanted = re.findall(r'(?:src|href|spec-url)="([^"]+)"', page.text)
        assert wanted
        for address in wanted:
            assert address.startswith(("/", "data:"))
            assert address.startswith("data:") or nobody.get(address).status_code == 200
        for outside in ("/docs/nothing.js", "/docs/..%2Fdocuments.py", "/docs/openapi-explorer.LICENSE", "/schema"):
            assert nobody.get(outside).status_code == 404
        assert nobody.post("/docs").status_code == 405
        assert nobody.head("/openapi.json").status_code == 200
