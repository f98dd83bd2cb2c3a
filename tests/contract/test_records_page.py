"""docs/records.md says what docs/schema.json does."""

from __future__ import annotations

import records_page
import schema_check


def test_every_table_is_as_the_schema_has_it() -> None:
    page = records_page.PAGE.read_text("utf-8")
    assert page == records_page.rendered(page, schema_check.schema()), (
        "run: python3 tests/contract/records_page.py --write"
    )


def test_every_definition_has_its_table() -> None:
    definitions = set(schema_check.schema()["definitions"])
    of_kinds = {name for name in definitions if name.startswith("origin-")}
    page = records_page.PAGE.read_text("utf-8")
    assert records_page.named_in(page) == (definitions - of_kinds) | {"origin-kinds"}


def test_every_link_leads_to_a_heading() -> None:
    page = records_page.PAGE.read_text("utf-8")
    headings = {line[3:] for line in page.splitlines() if line.startswith("## ")}
    links = set(records_page.re.findall(r"\]\(#([\w-]+)\)", page))
    assert links <= headings
