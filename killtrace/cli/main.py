"""The killtrace command: dispatches, and turns every fault into one line and an exit status."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from killtrace import __version__, text
from killtrace.cli.live import live_options, run_live
from killtrace.cli.output import ClosedOutputError, guarded_stdout
from killtrace.errors import KilltraceError

_COMMANDS = {
    "doctor": "what this machine can and cannot tell",
    "history": "what was recorded",
    "oom": "who would be killed next for lack of memory",
    "record": "flight recorder, for a service",
    "run": "run a command, and say what killed it",
    "why": "after the fact: what killed a process",
}


class Commands(click.Group):
    """The commands, each loaded when it is called: `why` needs no bcc, `--help` nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, sorted."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One command, or None."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"killtrace.cli.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in --help, without loading anything."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="killtrace %(version)s")
@click.option(
    "--debug", is_flag=True, help="Show a traceback, and the compiler's words, on faults."
)
@live_options
@click.pass_context
def cli(ctx: click.Context, /, **options: object) -> None:
    """What killed my process, and why?

    With no command: a live tail of every SIGHUP, SIGINT, SIGQUIT, SIGKILL and SIGTERM on this
    machine, each with its true origin, and of every death that one caused, until Ctrl-C.

    \b
    Examples:
      sudo killtrace                       everything, live
      sudo killtrace --pid 1234 --wait     wait for 1234 to end, and say how and by whom
      sudo killtrace --comm 'nginx*'       only what nginx sends or gets
      killtrace why nginx                  what killed nginx, after the fact
    """
    if ctx.invoked_subcommand is None:
        run_live(options)


def entry() -> NoReturn:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run a command line; returns its exit status (docs/cli.md)."""
    debug = "--debug" in arguments
    try:
        with guarded_stdout():
            status = cli.main(list(arguments), prog_name="killtrace", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except ClosedOutputError:
        return 0
    except click.ClickException as error:
        return _fail(_usage_text(error), 2 if isinstance(error, click.UsageError) else 1, debug)
    except KilltraceError as error:
        return _fail(str(error), error.exit_status, debug)
    except (click.Abort, KeyboardInterrupt):
        return 0
    except OSError as error:
        if debug:
            raise
        return _fail(f"{error}; see --debug", 1, debug)
    except Exception as error:
        if debug:
            raise
        name = type(error).__name__
        return _fail(
            f"a fault of killtrace's own ({name}: {error}); report it with --debug", 1, debug
        )


def _usage_text(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    if "; " in message:
        return message
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "killtrace"
    return f"{message}; see `{command} --help`"


def _fail(message: str, status: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    line = text.escape(" ".join(message.split("\n")))
    try:
        print(f"killtrace: error: {line}", file=sys.stderr)
    except OSError:
        pass
    return status
