"""docs/cli.md, from the commands' own help: `python3 tests/docs/cli_page.py > docs/cli.md`."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(CHECKOUT))

import click

from killtrace.cli.main import _COMMANDS, cli

HEAD = """# Commands

Made from `--help` by tests/docs/cli_page.py; a test compares.

stdout carries records only; all else goes to stderr. When all probes are attached, one line says
so: `killtrace: tracing SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGTERM (Ctrl-C to stop)`.

| Exit status | means |
|---|---|
| 0 | done; Ctrl-C and SIGTERM included |
| 1 | a fault of killtrace's own |
| 2 | the command line makes no sense |
| 3 | no such target; `why` and `history`: nothing found |
| 69 | the kernel or the machine lacks what is needed |
| 74 | output failed |
| 77 | not permitted |
| 124 | `--timeout` ran out |

Every error is one line, `killtrace: error: WHAT; MEND`; a traceback only with `--debug`.
"""


def page() -> str:
    """The whole page."""
    os.environ["COLUMNS"] = "100"
    parts = [HEAD, _section("killtrace", cli)]
    with click.Context(cli, info_name="killtrace") as context:
        for name in sorted(_COMMANDS):
            if importlib.util.find_spec(f"killtrace.cli.{name}") is None:
                continue
            command = cli.get_command(context, name)
            assert command is not None
            parts.append(_section(f"killtrace {name}", command))
    return "\n".join(parts)


def _section(name: str, command: click.Command) -> str:
    with click.Context(
        command, info_name=name, max_content_width=100, terminal_width=100
    ) as context:
        text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    return f"## {name}\n\n```\n{text}\n```\n"


if __name__ == "__main__":
    sys.stdout.write(page())
