"""Command lines read as requests."""

from __future__ import annotations

import shlex

import pytest

from killtrace.command_line import Request, program, split
from killtrace.commands import parse


def request(line: str) -> Request | None:
    return parse(tuple(shlex.split(line)))


@pytest.mark.parametrize(
    ("line", "name", "args"),
    [
        ("/usr/bin/systemctl stop x", "systemctl", ("stop", "x")),
        ("/bin/sh /usr/sbin/service nginx stop", "service", ("nginx", "stop")),
        ("/usr/bin/python3 -Es /usr/bin/supervisorctl stop a", "supervisorctl", ("stop", "a")),
        ("/usr/bin/python3.11 -s /usr/bin/podman-compose down", "podman-compose", ("down",)),
        ("/bin/sh /etc/init.d/nginx stop", "service", ("nginx", "stop")),
        ("sh -c 'systemctl stop x'", "sh", ("-c", "systemctl stop x")),
        ("-bash", "bash", ()),
        ("python3 -c 'x'", "python3", ("-c", "x")),
    ],
)
def test_program(line: str, name: str, args: tuple[str, ...]) -> None:
    assert program(shlex.split(line)) == (name, args)


def test_program_of_nothing() -> None:
    assert program(()) == ("", ())
    assert parse(()) is None


def test_split() -> None:
    valued = frozenset({"-s", "-t", "--signal"})
    words, options = split(["-rf", "a", "-s", "KILL", "--signal=TERM", "-t5", "--", "-x"], valued)
    assert words == ["a", "-x"]
    assert options == {"-r": "f", "-f": "", "-s": "KILL", "--signal": "TERM", "-t": "5"}


def test_split_an_option_at_the_end_has_no_value() -> None:
    assert split(["kill", "-s"], frozenset({"-s"})) == (["kill"], {"-s": ""})


@pytest.mark.parametrize(
    ("line", "kind", "verb", "names", "signo"),
    [
        ("systemctl stop nginx", "systemd", "stop", ("nginx",), None),
        ("systemctl --no-block restart a b.socket", "systemd", "restart", ("a", "b.socket"), None),
        ("systemctl --user stop app", "systemd-user", "stop", ("app",), None),
        ("systemctl kill nginx", "systemd", "kill", ("nginx",), 15),
        ("systemctl kill -s KILL nginx", "systemd", "kill", ("nginx",), 9),
        ("systemctl kill --signal=SIGHUP nginx", "systemd", "kill", ("nginx",), 1),
        ("systemctl -sINT kill nginx", "systemd", "kill", ("nginx",), 2),
        ("systemctl disable --now nginx", "systemd", "disable --now", ("nginx",), None),
        ("systemctl reload nginx", "systemd", "reload", ("nginx",), None),
        ("service nginx stop", "systemd", "stop", ("nginx",), None),
        ("loginctl terminate-session 3", "session", "terminate-session", ("3",), None),
        ("loginctl kill-user -s 9 alice", "session", "kill-user", ("alice",), 9),
        ("machinectl terminate box", "machine", "terminate", ("box",), None),
        ("machinectl kill -s KILL box", "machine", "kill", ("box",), 9),
        ("docker stop web db", "container", "stop", ("web", "db"), None),
        ("docker --context x container stop -t 5 web", "container", "stop", ("web",), None),
        ("docker kill web", "container", "kill", ("web",), 9),
        ("docker kill --signal=HUP web", "container", "kill", ("web",), 1),
        ("docker rm -f web", "container", "rm", ("web",), None),
        ("podman stop --time 3 web", "container", "stop", ("web",), None),
        ("podman pod stop stack", "pod", "stop", ("stack",), None),
        ("nerdctl -n k8s.io kill -s TERM 1f2e", "container", "kill", ("1f2e",), 15),
        ("crictl stop -t 1 abcdef", "container", "stop", ("abcdef",), None),
        ("crictl stopp podid", "pod", "stopp", ("podid",), None),
        ("ctr -n moby tasks kill -s 9 abc", "container", "kill", ("abc",), 9),
        ("runc --root /run/x kill abc KILL", "container", "kill", ("abc",), 9),
        ("docker stack rm shop", "container", "stack rm", ("shop*",), None),
        ("kubectl -n shop delete pod web-1 web-2", "pod", "delete", ("web-1", "web-2"), None),
        ("kubectl delete deploy/web", "pod", "delete", ("web-*",), None),
        ("kubectl rollout restart deployment web", "pod", "rollout restart", ("web-*",), None),
        ("k3s kubectl delete ns shop", "pod", "delete", ("namespace/shop",), None),
        ("supervisorctl stop web:api", "supervisord", "stop", ("api",), None),
        ("supervisorctl -c x signal HUP web", "supervisord", "signal", ("web",), 1),
        ("sv stop /etc/service/web/", "runit", "stop", ("web",), None),
        ("sv d web", "runit", "d", ("web",), None),
        ("sv -w 5 force-stop web", "runit", "force-stop", ("web",), None),
        ("sv hup web", "runit", "hup", ("web",), 1),
        ("s6-svc -d /run/service/web", "s6", "down", ("web",), None),
        ("s6-svc -k /run/service/web", "s6", "-k", ("web",), 9),
    ],
)
def test_requests(
    line: str, kind: str, verb: str, names: tuple[str, ...], signo: int | None
) -> None:
    found = request(line)
    assert found is not None
    assert (found.kind, found.verb, found.names) == (kind, verb, names)
    assert (found.signo, found.starts, found.everything) == (signo, False, False)


@pytest.mark.parametrize(
    "line",
    [
        "systemctl reboot",
        "systemctl poweroff --force",
        "systemctl isolate rescue.target",
        "reboot",
        "halt -p",
        "shutdown -h now",
        "shutdown -r +0",
        "init 6",
        "telinit 0",
        "docker stop --all",
        "podman stop -a",
        "kubectl drain node1 --ignore-daemonsets",
        "kubectl delete pods --all",
        "supervisorctl stop all",
        "supervisorctl shutdown",
    ],
)
def test_requests_for_everything(line: str) -> None:
    found = request(line)
    assert found is not None and found.everything


@pytest.mark.parametrize(
    "line",
    [
        "systemctl status nginx",
        "systemctl",
        "systemctl -H other stop nginx",
        "systemctl --root=/mnt disable --now nginx",
        "systemctl disable nginx",
        "systemctl reboot --when=tomorrow",
        "systemctl daemon-reload",
        "service --status-all",
        "service nginx status",
        "shutdown -c",
        "shutdown -k now",
        "shutdown -r 23:30",
        "halt --wtmp-only",
        "init",
        "init 3",
        "docker ps",
        "docker",
        "docker image rm x",
        "docker service ls",
        "crictl ps",
        "runc state x",
        "runc delete x",
        "kubectl get pods",
        "kubectl delete configmap x",
        "k3s server",
        "supervisorctl status",
        "sv status web",
        "sv s web",
        "loginctl list-sessions",
        "machinectl list",
        "sleep 100",
    ],
)
def test_no_requests(line: str) -> None:
    assert request(line) is None


@pytest.mark.parametrize(
    "line",
    [
        "systemctl start nginx",
        "systemctl enable --now nginx",
        "service nginx start",
        "docker start web",
        "sv up web",
        "s6-svc -u web",
        "supervisorctl start web",
    ],
)
def test_starts(line: str) -> None:
    found = request(line)
    assert found is not None and found.starts


def test_shutdown_waits_a_minute_unless_told() -> None:
    for line, delay_s in (("shutdown -r", 60), ("shutdown now", 0), ("shutdown -h +10", 600)):
        found = request(line)
        assert found is not None and found.delay_s == delay_s


def test_a_signal_that_is_none_matches_none() -> None:
    found = request("docker kill -s NOPE web")
    assert found is not None and found.signo == -1


def test_compose_names_are_globs_of_project_and_service() -> None:
    found = request("docker compose -f x.yml -p shop stop web")
    assert found is not None and found.names == ("shop-web-*", "shop_web_*")
    found = request("docker-compose down")
    assert found is not None and found.names == ("?*-?*-*", "?*_?*_*")


def test_another_machine() -> None:
    found = request("systemctl -M box stop nginx")
    assert found is not None and found.machine == "box"
    found = request("systemctl --user -M alice@ stop app")
    assert found is not None and found.machine is None
