"""What docker, podman, crictl, kubectl and their like are asked to end.  Pure."""

from __future__ import annotations

from collections.abc import Sequence

from killtrace.command_line import SIGKILL, SIGTERM, Request, option, signal_of, split, word_set

_DOCKER_VALUED = word_set(
    "-H --host -c --context --config -l --log-level --url --connection --identity --namespace -n"
    " --address -a -t --time --timeout -s --signal --cidfile --filter -f --file -p --project-name"
    " --project-directory --profile --env-file --root --runroot --pod-id-file"
)
_RUNTIME_STOPS = frozenset({"stop", "restart", "rm", "remove", "kill"})


def docker(tool: str, args: Sequence[str]) -> Request | None:
    """Docker, podman and nerdctl: one command line in three programs."""
    # In front of the verb -f and -a have no value, after it -f is --force and -a is --all.
    words, options = split(args, _DOCKER_VALUED - {"-f", "-a"})
    if not words:
        return None
    if words[0] == "compose":
        return compose(tool, list(args[list(args).index("compose") + 1 :]))
    group = words[0] if words[0] in ("container", "pod", "stack", "service") else None
    verb, names = (
        (words[1] if len(words) > 1 else "", words[2:]) if group else (words[0], words[1:])
    )
    if group in ("stack", "service"):
        # The names of a service's containers begin with its own.
        if verb in ("rm", "remove", "down", "scale", "update"):
            begins = tuple(f"{name.partition('=')[0]}*" for name in names)
            return Request(tool, "container", f"{group} {verb}", begins, lingers=True)
        return None
    everything = bool({"-a", "--all", "-l", "--latest"} & set(options))
    if verb in ("start", "run"):
        return Request(tool, "container", verb, tuple(names), everything, starts=True)
    if verb not in _RUNTIME_STOPS:
        return None
    signo = None
    if verb == "kill":
        signo = signal_of(option(options, "-s", "--signal"), SIGKILL)
    kind = "pod" if group == "pod" else "container"
    return Request(tool, kind, verb, tuple(names), everything, signo)


def compose(tool: str, args: Sequence[str]) -> Request | None:
    """`docker compose stop web`: containers are called PROJECT-SERVICE-NUMBER, or with _."""
    words, options = split(args, _DOCKER_VALUED - {"-a"})
    if not words or words[0] not in ("down", "stop", "kill", "restart", "rm", "up"):
        return None
    verb, services = words[0], words[1:]
    project = option(options, "-p", "--project-name") or "?*"
    signo = signal_of(option(options, "-s", "--signal"), SIGKILL) if verb == "kill" else None
    names = tuple(
        f"{project}{mark}{service}{mark}*" for service in services or ("?*",) for mark in "-_"
    )
    return Request(tool, "container", f"compose {verb}", names, signo=signo)


def crictl(tool: str, args: Sequence[str]) -> Request | None:
    """Crictl, and containerd's own ctr."""
    valued = word_set(
        "-r --runtime-endpoint -i --image-endpoint -t --timeout -c --config -n --namespace -a"
        " --address -s --signal"
    )
    words, options = split(args, valued - {"-a"} if tool == "crictl" else valued)
    if words and words[0] in ("task", "tasks", "t", "container", "containers", "c"):
        words = words[1:]
    if not words:
        return None
    verb, names = words[0], tuple(words[1:])
    if verb == "start":
        return Request(tool, "container", verb, names, starts=True)
    if verb in ("stopp", "rmp"):
        return Request(tool, "pod", verb, names, lingers=True)
    if verb not in _RUNTIME_STOPS | {"delete"}:
        return None
    signo = signal_of(option(options, "-s", "--signal"), SIGTERM) if verb == "kill" else None
    everything = bool({"-a", "--all"} & set(options))
    return Request(tool, "container", verb, names, everything, signo)


def runc(tool: str, args: Sequence[str]) -> Request | None:
    """The OCI runtimes' own command line: `runc kill ID TERM`."""
    words, options = split(args, word_set("--root --log --log-format --criu"))
    if len(words) < 2 or words[0] not in ("kill", "delete"):
        return None
    signo = None
    if words[0] == "kill":
        signo = signal_of(words[2] if len(words) > 2 else None, SIGTERM)
    elif not {"-f", "--force"} & set(options):
        return None
    return Request(tool, "container", words[0], (words[1],), signo=signo)


_WORKLOADS = word_set(
    "deployment deployments deploy statefulset statefulsets sts daemonset daemonsets ds replicaset"
    " replicasets rs job jobs cronjob cronjobs cj replicationcontroller rc"
)


def kubectl(tool: str, args: Sequence[str]) -> Request | None:
    """Kubectl and what is called like it: pods, by name or by the workload that owns them."""
    if tool in ("k3s", "microk8s"):
        args = args[1:] if args[:1] == ("kubectl",) else ()
    valued = word_set(
        "-n --namespace --context --cluster --kubeconfig -s --server --user --as --token -l"
        " --selector --field-selector --grace-period --timeout -f --filename -k --kustomize"
        " --replicas -o --output -c --container"
    )
    words, options = split(args, valued)
    if not words:
        return None
    verb, rest = words[0], words[1:]
    if verb == "rollout" and rest[:1] in (["restart"], ["undo"]):
        verb, rest = f"rollout {rest[0]}", rest[1:]
    elif verb == "drain":
        return Request(tool, "pod", verb, everything=True, lingers=True)
    elif verb not in ("delete", "scale", "replace"):
        return None
    names = _pods(rest)
    everything = bool({"--all", "-l", "--selector"} & set(options)) and rest[:1] in (
        ["pod"],
        ["pods"],
        ["po"],
    )
    if not names and not everything:
        return None
    return Request(tool, "pod", verb, names, everything, lingers=True)


def _pods(words: Sequence[str]) -> tuple[str, ...]:
    """Globs of pod names, from `pod NAME`, `deploy/NAME`; `namespace/…` for a whole one."""
    if words and "/" not in words[0]:
        words = [f"{words[0]}/{name}" for name in words[1:]]
    names = []
    for word in words:
        sort, _, name = word.partition("/")
        sort = sort.partition(".")[0]
        if sort in ("pod", "pods", "po"):
            names.append(name)
        elif sort in _WORKLOADS:
            names.append(f"{name}-*")
        elif sort in ("namespace", "namespaces", "ns"):
            names.append(f"namespace/{name}")
    return tuple(names)
