# killtrace: install, and test.  Run as root; nothing here calls sudo.
#   make install     killtrace into /opt/killtrace, and its command into /usr/local/bin
#   make test        all of the tests: the four below, one after the other, and the bench in small
#   make check       lint, types, unit
#   make kernel-test real signals on this machine's kernel
#   make matrix      they, on every kernel of vagrant/kernels.toml; make matrix KERNEL=6.1: one of them
#   make vm-test     the tests in the Vagrant VM;  make vm: a shell in it;  make vm-clean: destroyed
# ARGS="-k NAME" goes on to pytest (kernel-test, vm-test).  docs/contributing.md has more.

PREFIX ?= /opt/killtrace
BIN ?= /usr/local/bin
VENV := .venv
PYTHON := /usr/bin/python3
APT := DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends
RUN_DEPENDS := python3-bpfcc python3-click python3-tabulate python3-venv python3-pip \
	python3-setuptools python3-wheel
TEST_DEPENDS := $(RUN_DEPENDS) gcc libc6-dev git clang-format bpftrace psmisc procps tmux \
	util-linux iproute2 openssh-server openssh-client python3-systemd python3-audit acct
MATRIX_DEPENDS := mmdebstrap qemu-system-x86 busybox-static e2fsprogs cpio kmod xz-utils zstd
VM_DEPENDS := $(MATRIX_DEPENDS) qemu-utils vagrant vagrant-libvirt libvirt-daemon-system \
	libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients rsync openssh-client

.PHONY: install uninstall test check kernel-test matrix vm vm-test vm-clean vm-depends \
	depends clean

install:
	$(APT) $(RUN_DEPENDS)
	$(PYTHON) -m venv --system-site-packages --clear $(PREFIX)
	# A copy is built, so that the checkout stays as it is.
	# Where setuptools is older than 61 (Ubuntu 22.04) pip builds with a newer one, from PyPI.
	copy=$$(mktemp -d) && trap 'rm -rf "$$copy"' EXIT && \
	cp -r pyproject.toml README.md LICENSE killtrace bpf "$$copy" && \
	if $(PREFIX)/bin/python -c 'import setuptools as s; exit(int(s.__version__.split(".")[0]) < 61)'; \
	then offline="--no-index --no-build-isolation"; else offline=; fi && \
	$(PREFIX)/bin/python -m pip install --quiet --no-deps $$offline "$$copy"
	ln -sf $(PREFIX)/bin/killtrace $(BIN)/killtrace
	@echo "installed: try  sudo killtrace"

uninstall:
	rm -rf $(PREFIX) $(BIN)/killtrace /var/cache/killtrace/programs

depends:
	$(APT) $(TEST_DEPENDS)

# --system-site-packages: bcc belongs to the distribution's own Python.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv --system-site-packages --clear $(VENV)
	sed -n '/^dev = \[/,/^\]/s/^ *"\(.*\)",*$$/\1/p' pyproject.toml > $(VENV)/dev.txt
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r $(VENV)/dev.txt
	touch $@

check: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	clang-format --dry-run --Werror bpf/*.c bpf/*.h
	$(VENV)/bin/python -m pytest -q --timeout=900 tests/unit tests/contract tests/docs

kernel-test: $(VENV)/ready
	$(VENV)/bin/python -m pytest -q --timeout=300 tests/kernel $(ARGS)

# The same tests on five stock kernels, booted by QEMU: make matrix KERNEL="6.1 newest"
matrix: $(VENV)/ready
	$(APT) $(MATRIX_DEPENDS)
	$(VENV)/bin/python vagrant/matrix.py $(KERNEL) $(ARGS)

vm-depends: $(VENV)/ready
	$(APT) $(VM_DEPENDS)

# The tests in a whole system, brought up and destroyed by Vagrant.
vm-test: vm-depends
	$(VENV)/bin/python vagrant/vm.py test $(ARGS)

vm: vm-depends
	$(VENV)/bin/python vagrant/vm.py shell

vm-clean:
	$(PYTHON) vagrant/vm.py destroy

# What fails of the kernel tests is played once more, and both are told: a machine that is lent out
# several times over may stand still for seconds in the midst of what a test had timed.
test: depends
	$(MAKE) check
	$(MAKE) kernel-test || { echo "once more, what failed:"; $(MAKE) kernel-test ARGS=--last-failed; }
	$(MAKE) bench ARGS=--small
	$(MAKE) vm-test
	$(MAKE) matrix

# Side by side with bpftrace; `--small` shows in a minute that it works.
bench: depends
	$(PYTHON) tests/bench $(ARGS)

clean:
	rm -rf $(VENV) build killtrace.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
