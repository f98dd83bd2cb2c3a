from __future__ import annotations

import pytest

from killtrace.enrich import cgroup
from killtrace.model import Container

ID = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970"
ID2 = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d"
POD = "2f5e3a3c-6b1e-4b0a-9a0e-0123456789ab"
POD_ = POD.replace("-", "_")
USER = "/user.slice/user-1000.slice/user@1000.service"


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/", None),
        ("", None),
        ("/system.slice", None),
        ("/init.scope", "init.scope"),
        ("/system.slice/nginx.service", "nginx.service"),
        ("/system.slice/nginx.service/worker", "nginx.service"),
        ("/../../system.slice/nginx.service", "nginx.service"),
        (r"/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
        (
            r"/system.slice/system-systemd\x2dfsck.slice/systemd-fsck@dev-sda1.service",
            "systemd-fsck@dev-sda1.service",
        ),
        (r"/system.slice/my\x2dapp.service", r"my\x2dapp.service"),
        ("/system.slice/dev-hugepages.mount", "dev-hugepages.mount"),
        ("/system.slice/foo@.service", None),
        ("/system.slice/_cpu.service", "cpu.service"),
        ("/_cpu.slice/_tasks.service", "tasks.service"),
        ("/foo.slice/foo-bar.slice/run-u12.scope", "run-u12.scope"),
        ("/-.slice/cron.service", "cron.service"),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
        (USER, "user@1000.service"),
        (f"{USER}/init.scope", "user@1000.service"),
        (f"{USER}/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1.scope", "vte-spawn-1.scope"),
        (f"{USER}/app.slice/syncthing.service", "syncthing.service"),
        (f"{USER}/gnome-shell-wayland.service", "gnome-shell-wayland.service"),
        (r"/system.slice/snap.lxd.daemon.service", "snap.lxd.daemon.service"),
        ("/batch/job-1", None),
        ("/system.slice/not a unit.service", None),
        (f"/system.slice/{'a' * 300}.service", None),
    ],
)
def test_unit(path: str, unit: str | None) -> None:
    found = cgroup.place(path)
    assert found.unit == unit
    assert found.container is None


@pytest.mark.parametrize(
    ("path", "runtime", "ident", "unit"),
    [
        (f"/docker/{ID}", "docker", ID, None),
        (f"/system.slice/docker-{ID}.scope", "docker", ID, f"docker-{ID}.scope"),
        (f"/system.slice/docker.service/docker/{ID}", "docker", ID, "docker.service"),
        (f"{USER}/user.slice/docker-{ID}.scope", "docker", ID, f"docker-{ID}.scope"),
        (f"/docker/{ID}/system.slice/nginx.service", "docker", ID, "nginx.service"),
        (f"/docker/{ID}/init.scope", "docker", ID, "init.scope"),
        (f"/system.slice/docker-{ID}.scope/init.scope", "docker", ID, f"docker-{ID}.scope"),
        (f"/docker/{ID2}/docker/{ID}", "docker", ID, None),
        (f"/ecs/0f5e3a3c6b1e4b0a9a0e0123456789ab/{ID}", "docker", ID, None),
        (f"/system.slice/containerd.service/system.slice:docker:{ID}", "docker", ID, None),
        (f"/machine.slice/libpod-{ID}.scope", "podman", ID, f"libpod-{ID}.scope"),
        (f"/machine.slice/libpod-{ID}.scope/container", "podman", ID, f"libpod-{ID}.scope"),
        (
            f"/machine.slice/libpod-{ID}.scope/container/system.slice/sshd.service",
            "podman",
            ID,
            "sshd.service",
        ),
        (
            f"/machine.slice/machine-libpod_pod_{ID2}.slice/libpod-{ID}.scope",
            "podman",
            ID,
            f"libpod-{ID}.scope",
        ),
        (f"{USER}/user.slice/libpod-{ID}.scope/container", "podman", ID, f"libpod-{ID}.scope"),
        (f"/system.slice/web.service/libpod-payload-{ID}", "podman", ID, "web.service"),
        (f"{USER}/app.slice/web.service/libpod-payload-{ID}", "podman", ID, "web.service"),
        (f"/libpod_parent/libpod-{ID}", "podman", ID, None),
        (f"/libpod_parent/{ID}", "podman", ID, None),
        (
            f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{POD_}.slice/"
            f"cri-containerd-{ID}.scope",
            "containerd",
            ID,
            f"cri-containerd-{ID}.scope",
        ),
        (f"/kubepods/besteffort/pod{POD}/{ID}", "containerd", ID, None),
        (f"/kubepods/pod{POD}/{ID}", "containerd", ID, None),
        (f"/kubepods/burstable/pod{POD}/crio-{ID}", "cri-o", ID, None),
        (
            f"/kubepods.slice/kubepods-pod{POD_}.slice/crio-{ID}.scope/container",
            "cri-o",
            ID,
            f"crio-{ID}.scope",
        ),
        (
            f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/"
            f"kubelet-kubepods-besteffort-pod{POD_}.slice/cri-containerd-{ID}.scope",
            "containerd",
            ID,
            f"cri-containerd-{ID}.scope",
        ),
        (
            f"/system.slice/containerd.service/kubepods-burstable-pod{POD_}.slice:"
            f"cri-containerd:{ID}",
            "containerd",
            ID,
            "containerd.service",
        ),
        (f"/kubepods.slice/kubepods-pod{POD_}.slice/docker-{ID}.scope", "docker", ID, None),
        (f"/system.slice/nerdctl-{ID}.scope", "containerd", ID, f"nerdctl-{ID}.scope"),
        (f"/default/{ID}", "containerd", ID, None),
        (f"/k8s.io/{ID}", "containerd", ID, None),
        (f"/{ID}", "oci", ID, None),
        (f"/actions_job/{ID}", "oci", ID, None),
    ],
)
def test_container_by_id(path: str, runtime: str, ident: str, unit: str | None) -> None:
    found = cgroup.place(path)
    assert found.container == Container(runtime, ident)
    if unit is not None:
        assert found.unit == unit


@pytest.mark.parametrize(
    ("path", "runtime", "name", "unit"),
    [
        ("/lxc/web", "lxc", "web", None),
        ("/lxc.payload/web", "lxc", "web", None),
        ("/lxc.payload.web", "lxc", "web", None),
        ("/lxc.payload.web/system.slice/nginx.service", "lxc", "web", "nginx.service"),
        ("/lxc.payload.web/init.scope", "lxc", "web", "init.scope"),
        ("/lxc/101/ns/system.slice/cron.service", "lxc", "101", "cron.service"),
        ("/lxc.payload.proj_web-1/.lxc", "lxc", "proj_web-1", None),
        (
            "/user.slice/user-1000.slice/session-3.scope/lxc.payload.mine",
            "lxc",
            "mine",
            "session-3.scope",
        ),
        (
            r"/machine.slice/machine-deb\x2dbox.scope",
            "systemd-nspawn",
            "deb-box",
            r"machine-deb\x2dbox.scope",
        ),
        (
            r"/machine.slice/machine-deb\x2dbox.scope/payload/system.slice/ssh.service",
            "systemd-nspawn",
            "deb-box",
            "ssh.service",
        ),
        (
            "/machine.slice/systemd-nspawn@deb-box.service/payload",
            "systemd-nspawn",
            "deb-box",
            "systemd-nspawn@deb-box.service",
        ),
        (
            r"/machine.slice/machine-lxc\x2d4242\x2dweb.scope",
            "libvirt-lxc",
            "web",
            r"machine-lxc\x2d4242\x2dweb.scope",
        ),
    ],
)
def test_container_by_name(path: str, runtime: str, name: str, unit: str | None) -> None:
    found = cgroup.place(path)
    assert found.container == Container(runtime, name, name)
    assert found.unit == unit


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        (f"/machine.slice/libpod-conmon-{ID}.scope", f"libpod-conmon-{ID}.scope"),
        ("/libpod_parent/conmon", None),
        ("/system.slice/web.service/supervisor", "web.service"),
        (f"/system.slice/crio-conmon-{ID}.scope", f"crio-conmon-{ID}.scope"),
        (f"/kubepods/burstable/pod{POD}/crio-conmon-{ID}", None),
        ("/lxc.monitor.web", None),
        ("/lxc.monitor/101", None),
        (
            "/machine.slice/systemd-nspawn@deb.service/supervisor",
            "systemd-nspawn@deb.service",
        ),
        (
            r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator",
            r"machine-qemu\x2d1\x2dvm.scope",
        ),
        (f"/system.slice/docker-{ID}.service", f"docker-{ID}.service"),
        ("/docker/buildkit", None),
        ("/docker", None),
        (f"/batch/x{ID}", None),
    ],
)
def test_beside_a_container_is_not_in_it(path: str, unit: str | None) -> None:
    found = cgroup.place(path)
    assert found.container is None
    assert found.unit == unit


@pytest.mark.parametrize(
    ("path", "pod_uid"),
    [
        (f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{POD_}.slice", POD),
        (f"/kubepods.slice/kubepods-pod{POD_}.slice/crio-{ID}.scope", POD),
        (f"/kubepods/besteffort/pod{POD}/{ID}", POD),
        (
            f"/kubepods/burstable/pod0123456789abcdef0123456789abcdef/{ID}",
            "0123456789abcdef0123456789abcdef",
        ),
        (f"/docker/{ID2}/kubelet.slice/kubelet-kubepods-pod{POD_}.slice/x", POD),
        ("/podman/x", None),
        (f"/docker/{ID}", None),
    ],
)
def test_pod(path: str, pod_uid: str | None) -> None:
    assert cgroup.place(path).pod_uid == pod_uid


def test_owner() -> None:
    assert cgroup.place(f"{USER}/user.slice/libpod-{ID}.scope").owner_uid == 1000
    assert cgroup.place("/user.slice/user-0.slice/session-1.scope").owner_uid == 0
    assert cgroup.place("/system.slice/cron.service").owner_uid is None


def test_unescape() -> None:
    assert cgroup.unescape(r"a\x2db-c") == "a-b/c"
    assert cgroup.unescape(r"caf\xc3\xa9") == "café"
    assert cgroup.unescape(r"bad\xff") == "bad\udcff"
