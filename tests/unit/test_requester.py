"""Who asked: matched from what was executed before, and from the sender's ancestors."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest

from killtrace.model import Ancestor, Container, Process
from killtrace.requester import Execution, Requester, find, is_systemd, proxy

S = 1_000_000_000
NOW = 1000 * S
ID = "3f" * 32

SYSTEMD = Process(
    pid=1, ns_pid=1, comm="systemd", exe="/usr/lib/systemd/systemd", cmdline=("/sbin/init",)
)
USER_MANAGER = Process(
    pid=700, ns_pid=700, comm="systemd", exe="/usr/lib/systemd/systemd", uid=1000
)
NGINX = Process(pid=50, comm="nginx", cgroup="/system.slice/nginx.service", unit="nginx.service")
WEB = Process(pid=60, comm="web", container=Container("docker", ID, "web"))
RUNC = Process(
    pid=900,
    comm="runc",
    cmdline=("runc", "kill", ID, "15"),
    ancestors=(Ancestor(800, "containerd-shim", ("containerd-shim-runc-v2", "-id", ID)),),
)


def ran(line: str, ago_s: float = 0.05, pid: int = 4711, **changes: Any) -> Execution:
    at = NOW - int(ago_s * S)
    made = Execution(pid, at - S, at, 4700, 0, "/usr/bin/x", tuple(shlex.split(line)))
    return replace(made, **changes)


def asked(
    sender: Process, target: Process, *executions: Execution, signo: int = 15, runs: bool = False
) -> Requester | None:
    return find(sender, target, signo, NOW, executions, lambda _: runs)


def pid_of(found: Requester | None) -> int | None:
    return None if found is None or found.execution is None else found.execution.pid


# --- systemd -----------------------------------------------------------------------------------


def test_systemctl_stop() -> None:
    found = asked(SYSTEMD, NGINX, ran("systemctl stop nginx"))
    assert found is not None and found.execution is not None
    assert (found.via, found.certain, found.execution.pid) == ("systemd", False, 4711)


def test_nobody_asked() -> None:
    assert asked(SYSTEMD, NGINX) is None


@pytest.mark.parametrize(
    "line",
    [
        "systemctl stop nginx.service",
        "systemctl restart -q nginx",
        "systemctl stop 'ngin*'",
        "systemctl stop system.slice",
        "service nginx restart",
        "/bin/sh /usr/sbin/service nginx stop",
        "systemctl isolate rescue.target",
        "systemctl kill nginx",
        "reboot",
        "shutdown now",
    ],
)
def test_commands_that_reach_the_unit(line: str) -> None:
    assert pid_of(asked(SYSTEMD, NGINX, ran(line))) == 4711


@pytest.mark.parametrize(
    "line",
    [
        "systemctl stop apache2",
        "systemctl stop nginx.socket",
        "systemctl stop 'apache*'",
        "systemctl --user stop nginx",
        "systemctl -M box stop nginx",
        "systemctl status nginx",
        "systemctl kill -s HUP nginx",
        "systemctl reload nginx",
        "docker stop nginx",
        "supervisorctl stop nginx",
        "shutdown -r",
        "loginctl terminate-user alice",
    ],
)
def test_commands_that_do_not(line: str) -> None:
    assert asked(SYSTEMD, NGINX, ran(line)) is None


def test_a_glob_means_units_and_not_what_they_are_in() -> None:
    inside = Process(
        pid=51,
        cgroup="/user.slice/user-1000.slice/user@1000.service/app.slice/a.service",
        unit="a.service",
    )
    assert asked(SYSTEMD, inside, ran("systemctl stop 'user@*'")) is None
    assert asked(SYSTEMD, inside, ran("systemctl stop user@1000")) is not None


def test_what_was_executed_after_the_signal_did_not_ask_for_it() -> None:
    assert asked(SYSTEMD, NGINX, ran("systemctl stop nginx", ago_s=-0.001)) is None


def test_the_latest_counts() -> None:
    found = asked(
        SYSTEMD,
        NGINX,
        ran("systemctl stop nginx", 60, pid=1001),
        ran("systemctl kill -s KILL nginx", 1, pid=1002),
        ran("systemctl stop apache2", 0.1, pid=1003),
        signo=9,
    )
    assert pid_of(found) == 1002


def test_a_start_since_makes_the_stop_void() -> None:
    stop, start = ran("systemctl stop nginx", 60), ran("systemctl start nginx", 50, pid=2)
    assert asked(SYSTEMD, NGINX, stop) is not None
    assert asked(SYSTEMD, NGINX, stop, start) is None
    assert asked(SYSTEMD, NGINX, stop, replace(start, cmdline=("systemctl", "start", "b")))


def test_too_long_ago_unless_it_still_runs() -> None:
    restart = ran("systemctl restart nginx", 30)
    assert asked(SYSTEMD, NGINX, restart) is None
    assert asked(SYSTEMD, NGINX, restart, runs=True) is not None
    stop = ran("systemctl stop nginx", 300)
    assert asked(SYSTEMD, NGINX, stop) is None
    assert asked(SYSTEMD, NGINX, stop, runs=True) is not None


def test_executed_before_tracing_began() -> None:
    early = ran("systemctl stop nginx", exec_time_ns=0)
    assert asked(SYSTEMD, NGINX, early) is None
    assert asked(SYSTEMD, NGINX, early, runs=True) is not None


def test_a_delayed_shutdown() -> None:
    assert asked(SYSTEMD, NGINX, ran("shutdown -r", 50)) is None
    assert asked(SYSTEMD, NGINX, ran("shutdown -r", 62)) is not None


def test_the_target_is_not_who_asked() -> None:
    assert asked(SYSTEMD, NGINX, ran("systemctl stop nginx", pid=NGINX.pid)) is None


def test_user_manager_takes_its_own_users_commands() -> None:
    app = Process(pid=70, unit="app.service", cgroup="/user.slice/x/app.service")
    mine, others = ran("systemctl --user stop app", uid=1000), ran("systemctl --user stop app")
    found = asked(USER_MANAGER, app, mine)
    assert found is not None and found.via == "systemd --user"
    assert asked(USER_MANAGER, app, others) is None
    assert asked(USER_MANAGER, app, ran("systemctl stop app", uid=1000)) is None


def test_sessions() -> None:
    shell = Process(
        pid=71,
        user="alice",
        unit="session-3.scope",
        cgroup="/user.slice/user-1000.slice/session-3.scope",
    )
    for line in (
        "loginctl terminate-session 3",
        "loginctl terminate-user alice",
        "loginctl terminate-user 1000",
        "loginctl kill-session 3",
    ):
        assert asked(SYSTEMD, shell, ran(line)) is not None, line
    for line in ("loginctl terminate-session 4", "loginctl terminate-user bob"):
        assert asked(SYSTEMD, shell, ran(line)) is None, line


def test_exec_reload_is_a_tool_that_systemd_started() -> None:
    tool = Process(
        pid=901, ppid=1, comm="kill", cmdline=("/bin/kill", "-HUP", "50"), unit="nginx.service"
    )
    found = asked(tool, NGINX, ran("systemctl reload nginx"), signo=1)
    assert found is not None and found.via == "systemd"
    assert asked(replace(tool, unit=None), NGINX, ran("systemctl reload nginx"), signo=1) is None


def test_machines() -> None:
    box = Process(pid=80, container=Container("systemd-nspawn", "box", "box"))
    machined = Process(pid=81, comm="systemd-machine", cmdline=("/lib/systemd/systemd-machined",))
    assert asked(machined, box, ran("machinectl terminate box")) is not None
    assert asked(SYSTEMD, box, ran("machinectl poweroff box")) is not None
    assert asked(SYSTEMD, box, ran("machinectl poweroff other")) is None


# --- containers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "docker stop web",
        "docker stop -t 1 db web",
        f"docker rm -f {ID[:12]}",
        "docker kill -s TERM web",
        "docker restart web",
        "kubectl drain node1",
    ],
)
def test_commands_that_reach_the_container(line: str) -> None:
    target = replace(WEB, container=Container("docker", ID, "web", pod="web-1", namespace="shop"))
    found = asked(RUNC, target, ran(line))
    assert found is not None and (found.via, found.certain) == ("runc", False)


@pytest.mark.parametrize(
    "line",
    [
        "docker stop we",
        "docker stop db",
        "docker stop ffff",
        "docker kill web",
        "docker kill -s HUP web",
        "podman stop web",
        "docker ps",
        "systemctl stop web",
        "kubectl delete pod web-1",
    ],
)
def test_commands_that_do_not_reach_it(line: str) -> None:
    assert asked(RUNC, WEB, ran(line)) is None


def test_podman_is_an_ancestor_of_its_runtime_and_proven() -> None:
    crun = replace(
        RUNC,
        comm="crun",
        cmdline=("crun", "kill", ID, "15"),
        ancestors=(
            Ancestor(4711, "podman", ("podman", "stop", "web")),
            Ancestor(4700, "bash", ("bash",)),
        ),
    )
    target = replace(WEB, container=Container("podman", ID))
    found = asked(crun, target, ran("podman stop web", pid=1))
    assert found is not None and found.ancestor is not None
    assert (found.certain, found.ancestor.pid, found.via) == (True, 4711, "crun")


def test_pods() -> None:
    target = replace(WEB, container=Container("containerd", ID, "c", None, "web-7d4-x2", "shop"))
    shim = Process(pid=5, comm="containerd-shim", cmdline=("containerd-shim-runc-v2",))
    for line in (
        "kubectl delete pod web-7d4-x2",
        "kubectl delete deploy web",
        "kubectl rollout restart deploy/web",
        "kubectl delete ns shop",
    ):
        assert asked(shim, target, ran(line)) is not None, line
    for line in ("kubectl delete pod other", "kubectl delete ns web", "kubectl get pod web-7d4-x2"):
        assert asked(shim, target, ran(line)) is None, line


def test_compose() -> None:
    target = replace(WEB, container=Container("docker", ID, "shop-web-1"))
    assert asked(RUNC, target, ran("docker compose stop web")) is not None
    assert asked(RUNC, target, ran("docker compose -p shop down")) is not None
    assert asked(RUNC, target, ran("docker compose -p other down")) is None
    assert asked(RUNC, target, ran("docker compose stop db")) is None


# --- supervisors -------------------------------------------------------------------------------


def test_supervisord_programs_do_not_bear_their_names() -> None:
    boss = Process(
        pid=6, comm="supervisord", cmdline=("/usr/bin/python3", "/usr/bin/supervisord", "-n")
    )
    child = Process(pid=7, comm="gunicorn", cmdline=("gunicorn", "shop.wsgi"))
    stop = ran("/usr/bin/python3 /usr/bin/supervisorctl stop api")
    found = asked(boss, child, stop)
    assert found is not None and (found.via, found.certain) == ("supervisord", False)
    other = ran("supervisorctl stop gunicorn", 1, pid=8)
    assert pid_of(asked(boss, child, stop, other)) == 8  # it names the target
    assert asked(boss, child, stop, ran("supervisorctl stop b", pid=9)) is None  # either of two


def test_runit_service_is_the_argument_of_runsv() -> None:
    runsv = Process(pid=6, comm="runsv", cmdline=("runsv", "web"))
    child = Process(
        pid=7,
        comm="sleep",
        cmdline=("sleep", "9"),
        ancestors=(Ancestor(6, "runsv", runsv.cmdline),),
    )
    assert asked(runsv, child, ran("sv stop /etc/service/web")) is not None
    assert asked(runsv, child, ran("sv stop sleep")) is None


# --- sudo --------------------------------------------------------------------------------------


def typed(*above: str, **changes: Any) -> Process:
    steps = tuple(Ancestor(100 + n, None, tuple(line.split())) for n, line in enumerate(above))
    made = Process(pid=99, comm="pkill", cmdline=("pkill", "sleep"), ancestors=steps)
    return replace(made, **changes)


def test_pkill_under_sudo() -> None:
    found = asked(typed("sudo pkill sleep", "bash"), NGINX)
    assert found is not None and found.ancestor is not None
    assert (found.via, found.certain, found.ancestor.pid) == ("sudo", True, 100)


def test_a_shell_under_su_on_a_terminal() -> None:
    shell = typed("su -", "bash", cmdline=("-bash",), comm="bash", tty="/dev/pts/1")
    found = asked(shell, NGINX)
    assert found is not None and found.via == "su"


def test_not_behind_programs_of_their_own_will() -> None:
    assert asked(typed("bash", "sshd"), NGINX) is None
    daemon = typed("sudo mydaemon", cmdline=("mydaemon",), comm="mydaemon")
    assert asked(daemon, NGINX) is None
    script = typed("sudo x", cmdline=("sh", "x"), comm="x")
    assert asked(script, NGINX) is None


# --- proxies -----------------------------------------------------------------------------------


def test_proxies_by_name() -> None:
    names = {
        "/usr/bin/containerd-shim-runc-v2 -id x": "containerd-shim",
        "/usr/sbin/start-stop-daemon --stop": "start-stop-daemon",
        "/usr/bin/conmon --api-version 1": "conmon",
        "/usr/bin/dockerd -H fd://": "dockerd",
        "/lib/systemd/systemd-shutdown reboot": "systemd-shutdown",
        "/lib/systemd/systemd-logind": "systemd-logind",
    }
    for line, via in names.items():
        found = proxy(Process(pid=9, cmdline=tuple(line.split())))
        assert found is not None and found.via == via
    assert proxy(Process(pid=9, comm="bash", cmdline=("bash",))) is None
    assert proxy(Process(pid=9)) is None


def test_pid_1_that_is_no_systemd() -> None:
    tini = Process(pid=1, ns_pid=1, comm="tini", exe="/usr/bin/tini", cmdline=("/usr/bin/tini",))
    assert not is_systemd(tini) and asked(tini, NGINX, ran("systemctl stop nginx")) is None
    bare = Process(pid=1, comm="systemd", cmdline=("/sbin/init",))
    assert is_systemd(bare)
