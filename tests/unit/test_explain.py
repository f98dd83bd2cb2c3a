"""Origins completed with who asked and why; the executions are made up."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import replace

from killtrace.explain import Act, Explainer
from killtrace.model import Ancestor, Container, Origin, Process
from killtrace.requester import Execution, Requester

S = 1_000_000_000
T0 = 1000 * S
SYSTEMD = Process(pid=1, ns_pid=1, comm="systemd", cmdline=("/sbin/init",))
WEB = Process(pid=50, cgroup="/system.slice/web.service", unit="web.service")
RUNC = Process(pid=900, comm="runc", cmdline=("runc", "kill", "3f" * 32, "15"))
BOX = Process(pid=60, container=Container("docker", "3f" * 32, "box"))
PLAIN = Origin("process", "1 (/sbin/init) sent it with kill(2)", True, {"syscall": "kill"})


class Ran:
    """Executions as a list; those whose pid is in `running` still run."""

    def __init__(self) -> None:
        self.list: list[Execution] = []
        self.running: set[int] = set()
        self.asked = 0

    def add(self, line: str, at: int, pid: int = 4711) -> None:
        cmdline = tuple(shlex.split(line))
        self.list.append(Execution(pid, at - S, at, 4700, 0, "/usr/bin/x", cmdline))

    def before(self, time_ns: int) -> Iterable[Execution]:
        self.asked += 1
        return self.list

    def runs(self, execution: Execution) -> bool:
        return execution.pid in self.running

    def process(self, requester: Requester) -> Process | None:
        if requester.execution is not None:
            return Process(requester.execution.pid, cmdline=requester.execution.cmdline)
        assert requester.ancestor is not None
        return Process(requester.ancestor.pid, cmdline=requester.ancestor.cmdline)

    def typist(self, process: Process) -> str | None:
        return "alice"


def act(
    signo: int = 15,
    at: int = T0,
    target: Process = WEB,
    sender: Process = SYSTEMD,
    target_start_ns: int = 7,
) -> Act:
    return Act(sender, target, signo, at, at, 0, target_start_ns)


def pid_of(origin: Origin) -> int | None:
    requester = origin.detail.get("requester")
    return requester.pid if isinstance(requester, Process) else None


def test_who_asked_systemd() -> None:
    ran = Ran()
    ran.add("systemctl stop web", T0 - S // 100)
    told = Explainer(ran).explain(PLAIN, act())
    assert told.summary == (
        "systemd: SIGTERM to web.service; probably asked by 4711 (systemctl stop web), run by alice"
    )
    assert (pid_of(told), told.detail["via"], told.certain) == (4711, "systemd", False)
    assert told.detail["syscall"] == "kill"


def test_nobody_asked() -> None:
    told = Explainer(Ran()).explain(PLAIN, act())
    assert told.summary == "systemd: SIGTERM to web.service"
    assert told.certain and pid_of(told) is None


def test_a_stop_that_times_out_is_asked_for_by_who_asked_first() -> None:
    ran, target = Ran(), act()
    ran.add("systemctl stop web", T0 - S // 100)
    explainer = Explainer(ran)
    explainer.explain(PLAIN, target)
    ran.list.clear()  # evicted since
    told = explainer.explain(PLAIN, act(9, T0 + 90 * S))
    assert told.summary == (
        "systemd: stop timed out, final SIGKILL to web.service 90 s after SIGTERM;"
        " probably asked by 4711 (systemctl stop web), run by alice"
    )
    assert pid_of(told) == 4711


def test_a_stop_that_times_out_with_nobody_who_asked() -> None:
    explainer = Explainer(Ran())
    explainer.explain(PLAIN, act())
    told = explainer.explain(PLAIN, act(9, T0 + 2 * S))
    assert told.summary == "systemd: stop timed out, final SIGKILL to web.service 2 s after SIGTERM"


def test_kill_after_the_stop_began_is_an_act_of_its_own() -> None:
    ran = Ran()
    ran.add("systemctl stop web", T0 - S // 100)
    ran.running = {4711}
    explainer = Explainer(ran)
    explainer.explain(PLAIN, act())
    ran.add("systemctl kill -s KILL web", T0 + 5 * S, pid=4712)
    told = explainer.explain(PLAIN, act(9, T0 + 5 * S + 1))
    assert told.summary.startswith("systemd: SIGKILL to web.service; probably asked by 4712 ")


def test_nothing_follows_a_single_signal() -> None:
    ran = Ran()
    ran.add("systemctl kill -s TERM web", T0 - S // 100)
    explainer = Explainer(ran)
    explainer.explain(PLAIN, act())
    told = explainer.explain(PLAIN, act(9, T0 + 20 * S))
    assert told.summary == "systemd: SIGKILL to web.service" and pid_of(told) is None


def test_a_new_process_of_the_unit_is_another_story() -> None:
    ran = Ran()
    ran.add("systemctl restart web", T0 - S // 100)
    explainer = Explainer(ran)
    explainer.explain(PLAIN, act())
    started_later = replace(WEB, pid=51)
    told = explainer.explain(PLAIN, act(9, T0 + 20 * S, started_later, target_start_ns=T0 + S))
    assert told.summary == "systemd: SIGKILL to web.service" and pid_of(told) is None


def test_the_rest_of_a_unit_is_killed_when_its_main_process_is_gone() -> None:
    ran = Ran()
    ran.add("systemctl stop web", T0 - S // 100)
    explainer = Explainer(ran)
    explainer.explain(PLAIN, act())
    told = explainer.explain(PLAIN, act(9, T0 + S, replace(WEB, pid=51)))
    assert told.summary.startswith(
        "systemd: SIGKILL to what its main process left of web.service (KillMode=mixed); probably"
    )


def test_hangup_beside_the_stop() -> None:
    explainer = Explainer(Ran())
    explainer.explain(PLAIN, act())
    told = explainer.explain(PLAIN, act(1, T0 + 1000))
    assert told.summary == "systemd: SIGHUP to web.service beside its SIGTERM (SendSIGHUP=)"


def test_watchdog() -> None:
    told = Explainer(Ran()).explain(PLAIN, act(6))
    assert told.summary == (
        "systemd: watchdog of web.service ran out, or a timeout that is set to abort"
    )


def test_a_container_whose_stop_times_out() -> None:
    ran = Ran()
    ran.add("docker stop box", T0 - S // 100)
    explainer = Explainer(ran)
    first = explainer.explain(PLAIN, act(target=BOX, sender=RUNC))
    assert first.summary.startswith(PLAIN.summary + "; probably asked by 4711 (docker stop box)")
    again = replace(RUNC, pid=901)
    told = explainer.explain(PLAIN, act(9, T0 + 10 * S, BOX, again))
    assert told.summary.startswith("docker: stop timed out, final SIGKILL 10 s after SIGTERM; prob")
    assert pid_of(told) == 4711 and told.detail["via"] == "runc"


def test_exec_reload_is_told_as_it_is() -> None:
    ran = Ran()
    ran.add("systemctl reload web", T0 - S // 100)
    tool = Process(pid=7, ppid=1, cmdline=("/bin/kill", "-HUP", "50"), unit="web.service")
    told = Explainer(ran).explain(replace(PLAIN, summary="7 (kill) x"), act(1, sender=tool))
    assert told.summary.startswith("7 (kill) x; probably asked by 4711 (systemctl reload web)")


def test_sudo_is_proven() -> None:
    steps = (Ancestor(70, "sudo", ("sudo", "pkill", "web")), Ancestor(69, "bash", ("bash",)))
    pkill = Process(pid=71, comm="pkill", cmdline=("pkill", "web"), ancestors=steps)
    told = Explainer(Ran()).explain(replace(PLAIN, summary="71 (pkill web) x"), act(sender=pkill))
    assert told.summary == (
        '71 (pkill web) x, as to all that match "web"; asked by 70 (sudo pkill web), run by alice'
    )
    assert told.certain and told.detail["via"] == "sudo"


def test_timeout_and_cron() -> None:
    timeout = Process(pid=9, cmdline=("timeout", "1", "x"))
    told = Explainer(Ran()).explain(PLAIN, replace(act(sender=timeout), sender_start_ns=T0 - 2 * S))
    assert told.summary == "its time limit of 1 s ran out (timeout)"
    cron = Ancestor(8, "cron", ("/usr/sbin/CRON", "-f"))
    script = Process(pid=10, comm="sh", cmdline=("sh", "x"), ancestors=(cron,))
    told = Explainer(Ran()).explain(PLAIN, act(sender=script))
    assert told.summary == PLAIN.summary + ", in a cron job"


def test_ordinary_senders_cost_no_look_at_the_executions() -> None:
    ran = Ran()
    explainer = Explainer(ran)
    bash = Process(pid=9, comm="bash", cmdline=("bash",))
    assert explainer.explain(PLAIN, act(sender=bash)) == PLAIN
    assert explainer.explain(Origin("timer", "x"), act()) == Origin("timer", "x")
    assert ran.asked == 0


def test_reason_of_a_userspace_oom_killer() -> None:
    daemon = Process(pid=3, comm="earlyoom")
    origin = Origin("userspace-oom", "userspace OOM killer 3 (earlyoom) chose it", True, {})
    told = Explainer(Ran(), lambda *_: "mem\x1b 5 %").explain(origin, act(sender=daemon))
    assert told.detail["reason"] == "mem\x1b 5 %"
    assert told.summary == "userspace OOM killer 3 (earlyoom) chose it: mem\\x1b 5 %"
    assert Explainer(Ran()).explain(origin, act(sender=daemon)) == origin
