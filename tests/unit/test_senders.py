"""What well-known senders mean by their signals."""

from __future__ import annotations

import shlex

import pytest

from killtrace import senders
from killtrace.model import Ancestor, Process

S = 1_000_000_000
CHILD = Process(pid=2)


def by(line: str) -> Process:
    return Process(pid=1000, cmdline=tuple(shlex.split(line)))


@pytest.mark.parametrize(
    ("line", "signo", "age_s", "words"),
    [
        ("timeout 0.1 sleep 5", 15, 0.1, "its time limit of 0.1 s ran out (timeout)"),
        (
            "/usr/bin/timeout -s INT 2m make -j4",
            2,
            120,
            "its time limit of 2 min ran out (timeout)",
        ),
        ("timeout --signal=KILL .5 x", 9, 1, "its time limit of 0.5 s ran out (timeout)"),
        (
            "timeout -v --foreground 1h x -k 3",
            15,
            3601,
            "its time limit of 1 h ran out (timeout)",
        ),
        (
            "timeout -k 5 10 x",
            9,
            15,
            "it outlived its time limit of 10 s by 5 s (timeout -k)",
        ),
        ("timeout -k5 10 x", 15, 10, "its time limit of 10 s ran out (timeout)"),
        ("timeout 10 x", 15, 9.9, "timeout passed on the SIGTERM that it was sent"),
        ("timeout 0 x", 2, 99, "timeout passed on the SIGINT that it was sent"),
        ("timeout -- 3 x", 15, 4, "its time limit of 3 s ran out (timeout)"),
        ("timeout soon x", 15, 4, None),
        ("timeout", 15, 4, None),
        ("sleep 5", 15, 4, None),
    ],
)
def test_timeout(line: str, signo: int, age_s: float, words: str | None) -> None:
    assert senders.timeout_words(by(line), CHILD, signo, int(age_s * S)) == words


def test_timeout_signals_its_own_group() -> None:
    words = senders.timeout_words(by("timeout 1 x"), by("timeout 1 x"), 15, S)
    assert words == "the time limit of 1 s ran out (timeout)"


@pytest.mark.parametrize(
    ("line", "sought"),
    [
        ("pkill sleep", "sleep"),
        ("pkill -9 -f 'python train'", "python train"),
        ("pkill -TERM -u alice sshd", "sshd"),
        ("pkill -u alice", "user alice"),
        ("pkill -t pts/3 -x bash", "bash"),
        ("killall -s KILL -q a b", "a b"),
        ("killall -u alice", "user alice"),
        ("pkill 'a\tb'", "a\\x09b"),
        ("pkill -P 12", None),
        ("kill 12", None),
    ],
)
def test_pattern(line: str, sought: str | None) -> None:
    assert senders.pattern(by(line)) == sought


@pytest.mark.parametrize(
    ("comm", "cmdline", "words"),
    [
        ("cron", "/usr/sbin/CRON -f", "a cron job"),
        ("crond", "/usr/sbin/crond -n", "a cron job"),
        ("atd", "/usr/sbin/atd", "an at job"),
        ("gitlab-runner", "/usr/bin/gitlab-runner run", "a CI job (gitlab-runner)"),
        ("Runner.Worker", "/opt/runner/bin/Runner.Worker spawnclient", "a CI job (Runner.Worker)"),
        ("buildkite-agent", "buildkite-agent start", "a CI job (buildkite-agent)"),
        ("gitlab-runner-h", "", "a CI job (gitlab-runner-helper)"),
        ("gitlab-runner-h", "/usr/bin/gitlab-runner-helper x", "a CI job (gitlab-runner-helper)"),
        ("forgejo-runner", "", "a CI job (forgejo-runner)"),
        ("java", "java -jar /usr/share/jenkins/jenkins.war", "a CI job (Jenkins)"),
        ("java", "java -jar server.jar", None),
        ("sshd", "sshd: alice", None),
    ],
)
def test_setting(comm: str, cmdline: str, words: str | None) -> None:
    steps = (Ancestor(5, "sh", ("sh",)), Ancestor(4, comm, tuple(cmdline.split()) or None))
    assert senders.setting(steps) == words


def test_escalation() -> None:
    assert (
        senders.escalation("systemd", "web.service", 15, 90_012_000_000)
        == "systemd: stop timed out, final SIGKILL to web.service 90 s after SIGTERM"
    )
    assert (
        senders.escalation("docker", None, 3, 1_490_000_000)
        == "docker: stop timed out, final SIGKILL 1.5 s after SIGQUIT"
    )
