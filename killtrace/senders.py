"""What is known of well-known senders: timeout, pkill, cron, CI runners, systemd.  Pure words."""

from __future__ import annotations

import re
from functools import lru_cache

from killtrace import signames, text
from killtrace.command_line import base_name, program, signal_of, split, word_set
from killtrace.model import Ancestor, Process

_S = 1_000_000_000
SIGHUP, SIGABRT, SIGKILL, SIGTERM = 1, 6, 9, 15

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_CI = word_set(
    "gitlab-runner gitlab-runner-helper Runner.Worker Runner.Listener Agent.Worker"
    " buildkite-agent circleci-agent circleci-runner woodpecker-agent drone-agent drone-runner"
    " act_runner forgejo-runner travis-worker bamboo-agent teamcity-agent"
)
# By name, and by the 15 characters that the kernel keeps of it.
_SETTINGS = {
    **dict.fromkeys(["cron", "crond", "CRON", "fcron", "cronie", "anacron"], "a cron job"),
    "atd": "an at job",
    **{name[:15]: f"a CI job ({name})" for name in sorted(_CI, reverse=True)},
    **{name: f"a CI job ({name})" for name in _CI},
}
_JENKINS = re.compile(r"(?:jenkins\.war|agent\.jar|remoting\.jar|slave\.jar|swarm-client\.jar)")


# Summaries that say more than who sent it: by a manager that is its own sender, by timeout(1).
_MANAGER = re.compile(r"systemd: |[\w.-]+(?: --user)?: stop timed out, ")
_TIMEOUT = re.compile(r"(?:its|the) time limit of |it outlived |timeout passed on ")


def tells_of_a_manager(summary: str) -> bool:
    """Whether a summary is one of systemd's or of a stop that timed out: its sender is in it."""
    return _MANAGER.match(summary) is not None


def tells_of_a_timeout(summary: str) -> bool:
    """Whether a summary is one of `timeout_words`."""
    return _TIMEOUT.match(summary) is not None


def seconds(count: float) -> str:
    """A limit for people: 0.1 s, 90 s, 10 min, 2 h."""
    for size, least, unit in ((3600, 3600, "h"), (60, 120, "min")):
        if count >= least and count % size == 0:
            return f"{count / size:g} {unit}"
    return f"{count:g} s"


def timeout_words(sender: Process, target: Process, signo: int, age_ns: int | None) -> str | None:
    """Why timeout(1) sent this; None for another sender or a command line that is not understood.

    `age_ns`: how long it had run.  It passes on what it is sent itself, before its time is over.
    """
    name, args = program(sender.cmdline or ())
    if name != "timeout":
        return None
    # What follows the duration is the command, with options of its own.
    valued = frozenset({"-s", "--signal", "-k", "--kill-after"})
    at = 0
    while at < len(args) and args[at].startswith("-") and args[at] != "--":
        at += 2 if args[at] in valued else 1
    at += args[at : at + 1] == ("--",)
    limit = _duration(args[at]) if at < len(args) else None
    if limit is None:
        return None
    _, options = split(args[:at], valued)
    if age_ns is not None and (limit == 0 or age_ns < limit * _S):
        return f"timeout passed on the {signames.name(signo)} that it was sent"
    after = _duration(options.get("-k", options.get("--kill-after", "")))
    first = signal_of(options.get("-s", options.get("--signal")), SIGTERM)
    whose = "the" if target.pid == sender.pid else "its"
    if signo == SIGKILL and first != SIGKILL and after:
        return (
            f"it outlived {whose} time limit of {seconds(limit)} by {seconds(after)} (timeout -k)"
        )
    return f"{whose} time limit of {seconds(limit)} ran out (timeout)"


def _duration(word: str) -> float | None:
    match = re.fullmatch(r"(\d*\.?\d+|\d+\.)([smhd]?)", word)
    return float(match[1]) * _UNITS.get(match[2], 1) if match else None


_PKILL_VALUED = word_set(
    "-g -G -P -s -t -u -U -F -r --pgroup --group --parent --session --terminal --euid --uid"
    " --pidfile --ns --nslist --runstates --signal -q --queue --cgroup --env --older -O"
)
_KILLALL_VALUED = word_set(
    "-s --signal -u --user -o --older-than -y --younger-than -n --ns -Z --context"
)


def pattern(sender: Process) -> str | None:
    """What pkill, killall or fuser was looking for, as it was typed; None for other senders."""
    name, args = program(sender.cmdline or ())
    if name not in ("pkill", "killall", "skill"):
        return None
    words, options = split(args, _PKILL_VALUED if name == "pkill" else _KILLALL_VALUED)
    if words:
        return text.escape(" ".join(words))
    users = [options[key] for key in ("-u", "-U", "--user", "--euid", "--uid") if options.get(key)]
    return f"user {text.escape(users[0])}" if users else None


@lru_cache(maxsize=1024)
def setting(ancestors: tuple[Ancestor, ...]) -> str | None:
    """What the sender was run by, where that says much: a cron job, a CI job (its runner)."""
    for step in ancestors:
        found = _SETTINGS.get(step.comm or "")
        if found is None and step.cmdline:
            found = _SETTINGS.get(base_name(step.cmdline[0]))
            if found is None and step.comm == "java" and any(map(_JENKINS.search, step.cmdline)):
                found = "a CI job (Jenkins)"
        if found is not None:
            return found
    return None


def escalation(who: str, what: str | None, first_signo: int, elapsed_ns: int) -> str:
    """A stop that took too long: `who` sends SIGKILL to what had been asked to end before."""
    of = f" to {text.escape(what)}" if what else ""
    elapsed = round(elapsed_ns / _S, 1 if elapsed_ns < 10 * _S else 0)
    after = f"{seconds(elapsed)} after {signames.name(first_signo)}"
    return f"{who}: stop timed out, final SIGKILL{of} {after}"
