# The one front door. `make demo` and `make test` do all the set-up on a fresh Debian 12 or 13 machine.
SHELL := /bin/sh
# The system's Python: libvirt and the headers belong to that one.
PYTHON ?= /usr/bin/python3
BIN := .venv/bin
# Quiet: its warnings of a machine's own settings would drown what a demo has to say. Errors are told.
PIP = $(BIN)/pip install -qq --no-color --progress-bar off --root-user-action=ignore --disable-pip-version-check
PACKAGES := apt-utils cpio debian-archive-keyring e2fsprogs gcc iproute2 iptables libc6-dev libvirt-dev mmdebstrap \
	nftables openssh-client openssl pkg-config python3 python3-dev python3-venv systemd-container util-linux \
	wireguard-go wireguard-tools xz-utils
# Other people's clients and a database, which tests need besides.
TEST_PACKAGES := apache2-utils curl iperf3 mptcpize postgresql wget

# Two labs side by side, and beside them unit tests, with what processor time labs leave: tests/labs.py.
WORKERS := -n 3 --durations 20 --durations-min 1

.PHONY: help demo test test-all test-xen mutants lint bench setup lock sbom packages test-packages clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

demo: setup ## build what is missing, bring the lab up, move a VM, show and save the report; HYPERVISOR=xen: on real Xen
	$(BIN)/vmacro lab demo $(if $(HYPERVISOR),--hypervisor $(HYPERVISOR))

TEST_SETUP := test-packages setup .venv/knot/ready

test: $(TEST_SETUP) ## unit, contract and lab tests, but for those marked slow: some 32 minutes
	$(BIN)/pytest -m "not slow and not xen" $(WORKERS)

test-all: $(TEST_SETUP) ## all tests there are, but for Xen's; docs/testing.md says what is slow
	$(BIN)/pytest -m "not xen" $(WORKERS)

test-xen: setup ## moves on real Xen, under emulation: its hosts are VMs that boot it
	$(BIN)/pytest -m xen tests/xen

mutants: setup ## break the code in thousands of ways, and see which no unit test notices: days (a sample: docs/testing.md)
	nice -n 19 $(BIN)/mutmut run --max-children 2 && $(BIN)/mutmut results

lint: setup ## ruff, mypy, import-linter
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/mypy --python-version 3.10 guest_agent \
		&& $(BIN)/lint-imports

bench: setup ## the figures of docs/benchmarks.md
	$(BIN)/python -m benchmarks.handoff --moves 4

setup: packages .venv/ready ## packages and the environment in .venv

packages:
	@$(call installed,$(PACKAGES))

test-packages:
	@$(call installed,$(TEST_PACKAGES))

define installed
missing=$$(for p in $(1); do dpkg-query -W -f '$${db:Status-Status}\n' $$p 2>/dev/null \
	| grep -qx installed || echo $$p; done); \
if [ -n "$$missing" ]; then \
	if [ "$$(id -u)" != 0 ]; then \
		echo "make: Debian packages are missing:" $$missing >&2; \
		echo "make: run it with sudo, or install them" >&2; exit 3; \
	fi; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o Dpkg::Use-Pty=0 \
		--no-install-recommends $$missing; \
fi
endef

# By their hashes alone. What is built (libvirt's binding, which must fit this machine's libvirt, and vmacro) is built by
# the setuptools of the lock file: pip would fetch another one for each build, whose hash nobody knows.
.venv/ready: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(PYTHON) vmacro/provisioning/lock.py setuptools > .venv/setuptools.lock
	$(PIP) --require-hashes -r .venv/setuptools.lock
	$(PIP) --require-hashes --no-build-isolation -r requirements.lock
	$(PIP) --no-index --no-deps --no-build-isolation -e .
	$(BIN)/python -c 'from vmacro.provisioning import wheels; wheels.fetch()'
	touch $@

# A name server for the tests: unpacked, never installed, so that none is started on this machine. With the libraries that
# it would bring along; apt checks what it fetches.
.venv/knot/ready: .venv/ready
	apt-get update -qq
	rm -rf .venv/knot && mkdir -p .venv/knot/debs
	cd .venv/knot/debs && apt-get download -qq -o APT::Sandbox::User= $$(apt-get install -s --no-install-recommends knot \
		| sed -n 's/^Inst \([^ ]*\).*/\1/p') knot
	for deb in .venv/knot/debs/*.deb; do dpkg -x $$deb .venv/knot || exit 1; done
	rm -r .venv/knot/debs
	touch $@

lock: setup ## requirements.lock after a change of pyproject.toml; `make lock UPGRADE=--upgrade` takes newer versions
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --extra dev $(UPGRADE) --output-file requirements.lock pyproject.toml

sbom: setup ## what vmacro is made of, as CycloneDX: sbom.json
	$(BIN)/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --output-reproducible \
		--output-file sbom.json

clean: ## the environment and what tools left in the checkout; the image cache stays
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache mutants
