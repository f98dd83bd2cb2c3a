from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from killtrace.enrich import cgroup
from killtrace.enrich.containers import Containers
from killtrace.model import Container

ID = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970"
POD = "2f5e3a3c-6b1e-4b0a-9a0e-0123456789ab"
POD_PATH = f"/kubepods/burstable/pod{POD}"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def write(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def docker_config(name: str = "/web", **labels: str) -> dict[str, Any]:
    return {"ID": ID, "Name": name, "Config": {"Image": "nginx:1.25", "Labels": labels}}


def test_docker(tmp_path: Path) -> None:
    write(tmp_path / f"var/lib/docker/containers/{ID}/config.v2.json", docker_config())
    found = Containers(tmp_path).describe(cgroup.place(f"/system.slice/docker-{ID}.scope"))
    assert found == Container("docker", ID, "web", "nginx:1.25")


def test_docker_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "etc/docker/daemon.json", {"data-root": "/srv/docker"})
    write(tmp_path / f"srv/docker/containers/{ID}/config.v2.json", docker_config())
    found = Containers(tmp_path).describe(cgroup.place(f"/docker/{ID}"))
    assert found == Container("docker", ID, "web", "nginx:1.25")


def test_docker_rootless(tmp_path: Path) -> None:
    write(
        tmp_path / f"home/alice/.local/share/docker/containers/{ID}/config.v2.json",
        docker_config(),
    )
    path = f"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ID}.scope"
    containers = Containers(tmp_path, home=lambda uid: Path("/home/alice"))
    found = containers.describe(cgroup.place(path))
    assert found == Container("docker", ID, "web", "nginx:1.25")


def test_docker_in_kubernetes(tmp_path: Path) -> None:
    labels = {
        "io.kubernetes.container.name": "app",
        "io.kubernetes.pod.name": "web-0",
        "io.kubernetes.pod.namespace": "prod",
    }
    write(
        tmp_path / f"var/lib/docker/containers/{ID}/config.v2.json",
        docker_config("/k8s_app_web-0_prod_x_0", **labels),
    )
    found = Containers(tmp_path).describe(cgroup.place(f"{POD_PATH}/{ID}"))
    assert found == Container("docker", ID, "app", "nginx:1.25", "web-0", "prod")


def test_an_id_in_no_known_folder_is_looked_up_everywhere(tmp_path: Path) -> None:
    write(tmp_path / f"var/lib/docker/containers/{ID}/config.v2.json", docker_config())
    found = Containers(tmp_path).describe(cgroup.place(f"/actions_job/{ID}"))
    assert found == Container("docker", ID, "web", "nginx:1.25")


@pytest.mark.parametrize("state", ["run/containerd", "run/k3s/containerd"])
def test_containerd_cri(tmp_path: Path, state: str) -> None:
    annotations = {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": "app",
        "io.kubernetes.cri.image-name": "docker.io/library/nginx:1.25",
        "io.kubernetes.cri.sandbox-name": "web-0",
        "io.kubernetes.cri.sandbox-namespace": "prod",
    }
    write(
        tmp_path / state / f"io.containerd.runtime.v2.task/k8s.io/{ID}/config.json",
        {"annotations": annotations},
    )
    found = Containers(tmp_path).describe(cgroup.place(f"{POD_PATH}/{ID}"))
    image = "docker.io/library/nginx:1.25"
    assert found == Container("containerd", ID, "app", image, "web-0", "prod")


def test_the_pause_container(tmp_path: Path) -> None:
    annotations = {
        "io.kubernetes.cri.container-type": "sandbox",
        "io.kubernetes.cri.sandbox-name": "web-0",
        "io.kubernetes.cri.sandbox-namespace": "prod",
    }
    write(
        tmp_path / f"run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json",
        {"annotations": annotations},
    )
    found = Containers(tmp_path).describe(cgroup.place(f"{POD_PATH}/{ID}"))
    assert found == Container("containerd", ID, "POD", None, "web-0", "prod")


def test_nerdctl(tmp_path: Path) -> None:
    write(
        tmp_path / f"run/containerd/io.containerd.runtime.v2.task/default/{ID}/config.json",
        {"annotations": {"nerdctl/name": "web"}},
    )
    found = Containers(tmp_path).describe(cgroup.place(f"/system.slice/nerdctl-{ID}.scope"))
    assert found == Container("containerd", ID, "web")


def storage_entry(metadata: dict[str, Any], name: str = "web") -> list[Any]:
    return [7, {"id": ID, "names": [name], "metadata": json.dumps(metadata)}, {"names": []}]


@pytest.mark.parametrize("listing", ["containers.json", "volatile-containers.json"])
def test_podman(tmp_path: Path, listing: str) -> None:
    write(
        tmp_path / "var/lib/containers/storage/overlay-containers" / listing,
        storage_entry({"image-name": "docker.io/library/nginx:1.25", "name": "web"}),
    )
    found = Containers(tmp_path).describe(
        cgroup.place(f"/machine.slice/libpod-{ID}.scope/container")
    )
    assert found == Container("podman", ID, "web", "docker.io/library/nginx:1.25")


def test_podman_rootless(tmp_path: Path) -> None:
    write(
        tmp_path / "home/a/.local/share/containers/storage/vfs-containers/containers.json",
        storage_entry({"image-name": "nginx"}),
    )
    path = f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container"
    containers = Containers(tmp_path, home=lambda uid: Path("/home/a"))
    assert containers.describe(cgroup.place(path)) == Container("podman", ID, "web", "nginx")


def test_cri_o(tmp_path: Path) -> None:
    folder = tmp_path / "var/lib/containers/storage/overlay-containers"
    metadata = {
        "pod-id": "x",
        "pod-name": "web-0",
        "namespace": "prod",
        "metadata-name": "app",
    }
    write(folder / "containers.json", storage_entry(metadata, "k8s_app_web-0_prod_x_0"))
    write(
        folder / ID / "userdata/config.json",
        {"annotations": {"io.kubernetes.cri-o.ImageName": "quay.io/app:1"}},
    )
    found = Containers(tmp_path).describe(cgroup.place(f"{POD_PATH}/crio-{ID}"))
    assert found == Container("cri-o", ID, "app", "quay.io/app:1", "web-0", "prod")


def test_the_kubelets_links(tmp_path: Path) -> None:
    logs = tmp_path / "var/log/containers"
    logs.mkdir(parents=True)
    (logs / f"web-0_prod_app-{ID}.log").symlink_to("/nowhere")
    (logs / f"web-0_prod_other-{ID[::-1]}.log").symlink_to("/nowhere")
    found = Containers(tmp_path).describe(cgroup.place(f"{POD_PATH}/{ID}"))
    assert found == Container("containerd", ID, "app", None, "web-0", "prod")


def test_the_kubelets_folders(tmp_path: Path) -> None:
    folder = tmp_path / f"var/log/pods/prod_web-0_{POD}"
    (folder / "app").mkdir(parents=True)
    assert Containers(tmp_path).describe(cgroup.place(f"{POD_PATH}/{ID}")) == Container(
        "containerd", ID, "app", None, "web-0", "prod"
    )
    (folder / "sidecar").mkdir()
    assert Containers(tmp_path).describe(cgroup.place(f"{POD_PATH}/{ID}")) == Container(
        "containerd", ID, None, None, "web-0", "prod"
    )


def test_a_removed_container_is_still_named(tmp_path: Path) -> None:
    path = write(tmp_path / f"var/lib/docker/containers/{ID}/config.v2.json", docker_config())
    containers = Containers(tmp_path)
    containers.warm()
    path.unlink()
    found = containers.describe(cgroup.place(f"/docker/{ID}"))
    assert found == Container("docker", ID, "web", "nginx:1.25")


def test_warm_knows_all_runtimes(tmp_path: Path) -> None:
    other = ID[::-1]
    task = tmp_path / f"run/containerd/io.containerd.runtime.v2.task/default/{other}/config.json"
    write(task, {"annotations": {"nerdctl/name": "job"}})
    store = tmp_path / "var/lib/containers/storage/overlay-containers/containers.json"
    write(store, storage_entry({"image-name": "nginx"}))
    containers = Containers(tmp_path)
    containers.warm()
    task.unlink()
    store.unlink()
    assert containers.describe(cgroup.place(f"/default/{other}")) == Container(
        "containerd", other, "job"
    )
    assert containers.describe(cgroup.place(f"/libpod_parent/libpod-{ID}")) == Container(
        "podman", ID, "web", "nginx"
    )


def test_an_unknown_container_is_looked_for_again_later(tmp_path: Path) -> None:
    clock = Clock()
    containers = Containers(tmp_path, monotonic=clock)
    place = cgroup.place(f"/docker/{ID}")
    assert containers.describe(place) == Container("docker", ID)
    write(tmp_path / f"var/lib/docker/containers/{ID}/config.v2.json", docker_config())
    assert containers.describe(place) == Container("docker", ID)
    clock.now += 3
    assert containers.describe(place) == Container("docker", ID, "web", "nginx:1.25")


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"Name": 5, "Config": []}'])
def test_broken_files_say_nothing(tmp_path: Path, content: str) -> None:
    write(tmp_path / f"var/lib/docker/containers/{ID}/config.v2.json", content)
    write(tmp_path / "etc/docker/daemon.json", content)
    found = Containers(tmp_path).describe(cgroup.place(f"/docker/{ID}"))
    assert found == Container("docker", ID)


def test_a_name_from_the_path_needs_no_file(tmp_path: Path) -> None:
    containers = Containers(tmp_path)
    assert containers.describe(cgroup.place("/lxc/web")) == Container("lxc", "web", "web")
    assert containers.describe(cgroup.place("/system.slice/cron.service")) is None
