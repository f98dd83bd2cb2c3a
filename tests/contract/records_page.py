"""Writes the tables of docs/records.md from docs/schema.json.

    python3 tests/contract/records_page.py --write

The prose of the page is kept; each table stands between a pair of markers that names a definition.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
PAGE, SCHEMA = DOCS / "records.md", DOCS / "schema.json"
_BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_TIME = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{9}Z$"


def rendered(page: str, schema: dict[str, Any]) -> str:
    """The page with every table as the schema has it; KeyError for a table of no definition."""
    definitions = schema["definitions"]

    def table(match: re.Match[str]) -> str:
        name = match["name"]
        body = _kinds(definitions) if name == "origin-kinds" else _table(definitions[name])
        return match[1] + body + match[3]

    return _BLOCK.sub(table, page)


def named_in(page: str) -> set[str]:
    """The definitions that the page has a table of."""
    return {match["name"] for match in _BLOCK.finditer(page)}


def _table(definition: dict[str, Any]) -> str:
    lines = [definition["description"], "", "| field | type | meaning |", "|---|---|---|"]
    for field, shape in definition["properties"].items():
        lines.append(f"| `{field}` | {_type(shape)} | {shape['description']} |")
    return "\n" + "\n".join(lines) + "\n\n"


def _kinds(definitions: dict[str, Any]) -> str:
    lines = ["| kind | the signal came from | beside | type | meaning |", "|---|---|---|---|---|"]
    for kind in definitions["origin"]["properties"]["kind"]["enum"]:
        of_kind = definitions[f"origin-{kind}"]
        head = f"| `{kind}` | {of_kind['description']} |"
        if not of_kind["properties"]:
            lines.append(f"{head} | | |")
        for field, shape in of_kind["properties"].items():
            lines.append(f"{head} `{field}` | {_type(shape)} | {shape['description']} |")
            head = "| | |"
    return "\n" + "\n".join(lines) + "\n\n"


def _type(shape: dict[str, Any]) -> str:
    if "const" in shape:
        return f'"{shape["const"]}"'
    if "enum" in shape:
        words = ["null" if value is None else f'"{value}"' for value in shape["enum"]]
        return "a kind" if len(words) > 6 else " or ".join(words)
    if "allOf" in shape or "$ref" in shape:
        return _of(shape["allOf"][0] if "allOf" in shape else shape)
    if "anyOf" in shape:
        return " or ".join(_type(part) for part in shape["anyOf"])
    types = [shape["type"]] if isinstance(shape["type"], str) else list(shape["type"])
    return " or ".join(_plain(kind, shape) for kind in types)


def _of(reference: dict[str, Any]) -> str:
    name = reference["$ref"].rpartition("/")[2]
    return f"[{name}](#{name})"


def _plain(kind: str, shape: dict[str, Any]) -> str:
    if kind == "array":
        return f"list of {_type(shape['items'])}"
    if kind == "string" and shape.get("pattern") == _TIME:
        return "time"
    if kind in ("integer", "number") and "minimum" in shape:
        return f"{kind} {shape['minimum']}..{shape.get('maximum', '')}"
    return kind


def main() -> int:
    page = PAGE.read_text("utf-8")
    wanted = rendered(page, json.loads(SCHEMA.read_text("utf-8")))
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(wanted, "utf-8")
        return 0
    return int(wanted != page)


if __name__ == "__main__":
    sys.exit(main())
