"""The pages say what is so."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cli_page

from killtrace.model import ORIGIN_KINDS

CHECKOUT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted([CHECKOUT / "README.md", *(CHECKOUT / "docs").glob("*.md")])


def _words(text: str) -> list[str]:
    """Versions of click wrap and space differently; the words are the same."""
    return re.sub(r"[\[\]]", " ", text).split()


def test_the_cli_page_is_the_help() -> None:
    written = (CHECKOUT / "docs/cli.md").read_text()
    assert _words(written) == _words(cli_page.page())


def test_every_kind_of_origin_is_explained() -> None:
    page = (CHECKOUT / "docs/origins.md").read_text()
    assert [kind for kind in ORIGIN_KINDS if f"| `{kind}` |" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_has_the_two_commands() -> None:
    readme = (CHECKOUT / "README.md").read_text()
    assert (
        len(re.findall(r"^sudo apt-get update && .* && sudo make (install|test)$", readme, re.M))
        == 2
    )
