"""The flow's input schema (JSON Schema draft-7), from the same types that build the input."""

from __future__ import annotations

from typing import Any

from pydantic import JsonValue

from flows.inputs import FlowInput

OPTIONAL = ("search", "permission")
Schema = dict[str, Any]


def input_schema() -> Schema:
    """Schema of the document a run starts with, `{"input": {...}}`; no references, no unknown fields.

    Parameters keep their defaults (the step's own parser fills them in); what the definition reads by path is
    required, since Globus Flows fills in no defaults.
    """
    schema = FlowInput.model_json_schema()
    inner = _draft7(schema, schema.get("$defs", {}))
    inner["propertyOrder"] = list(inner["properties"])
    for name in OPTIONAL:
        inner["properties"][name] = next(
            option for option in inner["properties"][name]["anyOf"] if option.get("type") != "null"
        )
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "required": ["input"],
        "properties": {"input": inner},
        "additionalProperties": False,
    }


def _draft7(node: Any, definitions: dict[str, Any]) -> Any:
    """Inline references and write fixed-length arrays the draft-7 way."""
    if isinstance(node, list):
        return [_draft7(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[1]]
        return _draft7(target | {k: v for k, v in node.items() if k != "$ref"}, definitions)
    converted = {key: _draft7(value, definitions) for key, value in node.items() if key != "$defs"}
    if "prefixItems" in converted:
        converted["items"] = converted.pop("prefixItems")
    return converted


def check_input(document: JsonValue) -> list[str]:
    """What of an input document the schema refuses, one line each, naming the field."""
    from jsonschema import Draft7Validator

    errors = sorted(Draft7Validator(input_schema()).iter_errors(document), key=lambda error: error.json_path)
    return [f"{error.json_path.removeprefix('$.')}: {error.message}" for error in errors]
