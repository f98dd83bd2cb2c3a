"""`killtrace run`: run a command, and say what killed it or anything that it started."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from killtrace import clock, signames
from killtrace.errors import OutputError
from killtrace.model import Death, Lost, Record

if TYPE_CHECKING:
    from killtrace.run.child import Inheritance
    from killtrace.run.job import Job
    from killtrace.tracer import Tracer


@click.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--summary",
    "shape",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="What is said at the end: lines for people, or death records.",
)
@click.option(
    "--summary-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Say it there, not on stderr.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD [ARG]…")
@click.pass_context
def run(ctx: click.Context, shape: str, summary_file: Path | None, command: tuple[str, ...]) -> int:
    """Run CMD, and say what killed it or anything that it started.

    CMD gets stdin, stdout, the terminal and all signals as if killtrace were not there.  Nothing
    is said when all went well.

    \b
    Examples:
      sudo killtrace run -- make -j8
      sudo killtrace run --summary json --summary-file deaths.jsonl -- pytest

    Exit status: CMD's own; 128+n when it died of signal n; 126 it can't be executed, 127 there is
    no such command.
    """
    # Imported here: --help and usage errors come at once.
    from killtrace.privileges import require_privileges
    from killtrace.probe.bpf_calls import host_tgid
    from killtrace.run.child import inheritance
    from killtrace.run.job import Job

    given = inheritance()
    require_privileges()
    own_tgid = host_tgid()
    report = _Report(shape == "json", _open(summary_file), own_tgid)
    job = Job(given)
    tracer = _start_tracer(bool(ctx.find_root().params.get("debug")))
    try:
        job.check_not_interrupted()
        status = _attend(job, given, tracer, command, report, own_tgid)
    finally:
        tracer.close()
    report.close()
    return status


def _open(path: Path | None) -> IO[str]:
    if path is None:
        return sys.stderr
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"the summary file {path} can't be written ({error.strerror})",
            "give --summary-file a path that can be written",
        ) from error


def _start_tracer(debug: bool) -> Tracer:
    from killtrace.cli import session
    from killtrace.probe import source

    options = source.Options(
        signal_mask=session.mask_of(signames.fatal()), only_targets=True, follow=True
    )
    return session.start_tracer(options, debug=debug)


def _attend(
    job: Job,
    given: Inheritance,
    tracer: Tracer,
    command: tuple[str, ...],
    report: _Report,
    own_tgid: int,
) -> int:
    """Start the command and stay with it to its end; its exit status, as a shell has it."""
    from killtrace.run import child
    from killtrace.run.follower import Follower

    # What is watched is followed when it forks: so is the command, from its first moment.
    tracer.watch([(own_tgid, clock.boot_ns())])
    pid = child.start(command, given, job.changed)
    follower = Follower(tracer, report, own_tgid, pid)
    status = job.attend(pid, follower.covered)
    follower.finish()
    report.failure = follower.failure
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


class _Report:
    """Takes in deaths while the command runs, and tells them when it has ended."""

    def __init__(self, is_json: bool, out: IO[str], own_tgid: int) -> None:
        from killtrace.run.story import Story

        self._is_json, self._out = is_json, out
        self._story = Story(own_tgid)
        self._lost: list[Lost] = []
        self.failure: BaseException | None = None

    def death(self, death: Death, *, is_command: bool) -> None:
        """One process ended; called from the follower's thread."""
        from killtrace.run.story import End, worth_telling

        end = End(death, is_command)
        if not worth_telling(end):
            return
        if self._is_json and self._out is not sys.stderr:
            self._write(_json(death))  # in a file of its own nothing needs to wait
        else:
            self._story.add(end)

    def lost(self, record: Lost) -> None:
        """Some events never came; called from the follower's thread."""
        self._lost.append(record)

    def close(self) -> None:
        """The command has ended: tell."""
        for line in self._json_lines() if self._is_json else self._text_lines():
            self._write(line)
        if self.failure is not None:
            name = type(self.failure).__name__
            print(f"killtrace: tracing failed ({name}: {self.failure})", file=sys.stderr)
        try:
            self._out.flush()
        except OSError:
            pass

    def _text_lines(self) -> Iterator[str]:
        for line in self._story.lines(sum(record.count for record in self._lost)):
            yield f"killtrace: {line}"

    def _json_lines(self) -> Iterator[str]:
        for end in self._story.ends():
            yield _json(end.death)
        for record in self._lost:
            yield _json(record)
        if self._story.left_out:
            yield _json(
                Lost(clock.boot_ns() + clock.wall_offset_ns(), self._story.left_out, "summary")
            )

    def _write(self, line: str) -> None:
        try:
            self._out.write(line + "\n")
        except OSError:
            pass  # CMD's status is what the caller waits for: a closed stderr must not change it


def _json(record: Record) -> str:
    from killtrace.wire import record_to_json

    return json.dumps(record_to_json(record), separators=(",", ":"))
