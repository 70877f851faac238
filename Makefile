# The one front door. `make demo` and `make test` do all the set-up on a fresh Debian 12 or 13 machine.
SHELL := /bin/sh
# The system's Python: libvirt and the headers belong to that one.
PYTHON ?= /usr/bin/python3
BIN := .venv/bin
PACKAGES := apt-utils cpio debian-archive-keyring e2fsprogs gcc iproute2 iptables libc6-dev libvirt-dev mmdebstrap \
	openssh-client openssl pkg-config postgresql python3 python3-dev python3-venv systemd-container util-linux xz-utils

.PHONY: help demo test lint bench setup packages clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

demo: setup ## build what is missing, bring the lab up, move a VM, show and save the report
	$(BIN)/vmacro lab demo

test: setup ## all tests: unit, contract and lab
	$(BIN)/pytest -m "lab or not lab"

lint: setup ## ruff, mypy, import-linter
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: setup ## the figures of docs/benchmarks.md
	$(BIN)/python benchmarks/handoff.py --moves 4

setup: packages .venv/ready ## packages and the environment in .venv

packages:
	@missing=$$(for p in $(PACKAGES); do dpkg-query -W -f '$${db:Status-Status}\n' $$p 2>/dev/null \
		| grep -qx installed || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" != 0 ]; then \
			echo "make: Debian packages are missing:" $$missing >&2; \
			echo "make: run it with sudo, or install them" >&2; exit 3; \
		fi; \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; \
	fi

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean: ## the environment and what tools left in the checkout; the image cache stays
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
