"""Every record against docs/schema.json, with a message that names the field."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

SCHEMA_FILE = Path(__file__).resolve().parent.parent / "docs" / "schema.json"


def schema() -> dict[str, Any]:
    return json.loads(SCHEMA_FILE.read_text("utf-8"))  # type: ignore[no-any-return]


@cache
def _validator(kind: str) -> jsonschema.Draft7Validator:
    whole = schema()
    return jsonschema.Draft7Validator(
        {"$ref": f"#/definitions/{kind}", "definitions": whole["definitions"]}
    )


def faults(record: Any) -> list[str]:
    """What is wrong with a record, one line a fault; [] where it is valid."""
    kinds = schema_kinds()
    kind = record.get("type") if isinstance(record, dict) else None
    if kind not in kinds:
        return [f"type {kind!r} is none of {', '.join(kinds)}"]
    return [
        f"{kind}.{'.'.join(str(step) for step in error.absolute_path) or '*'}: {error.message}"
        for error in _validator(kind).iter_errors(record)
    ]


@cache
def schema_kinds() -> tuple[str, ...]:
    """The record types of the contract, as the schema names them."""
    return tuple(part["$ref"].rpartition("/")[2] for part in schema()["oneOf"])
