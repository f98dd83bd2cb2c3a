#!/bin/sh
# Installs killtrace in the guest as the README says, and what its tests ask for.
set -eu
cd /killtrace
export DEBIAN_FRONTEND=noninteractive
if ! command -v make >/dev/null || ! command -v podman >/dev/null; then
	# A public box: bare, but with a network.
	apt-get update
	apt-get install -y make
	apt-get install -y --no-install-recommends acct auditd bpftrace busybox-static crun gcc \
		iproute2 libc6-dev podman procps psmisc python3-audit python3-hypothesis \
		python3-jsonschema python3-pytest python3-pytest-timeout python3-systemd tmux util-linux
	mkdir -p /var/log/journal
	systemctl restart systemd-journald
fi
make install
