# make run      installs chatd into .venv and serves http://localhost:3000
# make test     runs the tests; as root on Debian it installs the programs they need first
# make coverage lists the lines and branches that no test runs, e2e left out
# make story    shows in a booted systemd what docs/operations.md promises; as root on Debian
# make check    runs the linters and type checkers
# make bench    measures chatd beside its peers
# make deb      builds dist/chatd_VERSION_ARCH.deb for the Debian that this is
# make clean    removes .venv and what tools left
#
# Needs make and Python 3.11 or newer with venv (Debian: apt install make python3-venv).
# ARGS="…" goes to the program: make run ARGS="--listen 0.0.0.0:3000", make test ARGS="-k resume".
# PYTHON=… names another interpreter for .venv.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run test test-programs coverage story check bench deb clean

PYTHON ?= python3
ARGS ?=

# Paths are relative and commands run as modules, so the project's path may contain spaces.
VENV := .venv/bin/python
PIP := $(VENV) -m pip --disable-pip-version-check --quiet
# A change of pyproject.toml, Makefile or the interpreter makes the installation out of date.
INSTALLED_BY := pyproject.toml Makefile $(VENV)

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

run: .venv/.run
	@[ -d chatd/socketio/client ] || ! command -v npm >/dev/null || \
		$(VENV) -m chatd fetch-client || echo "chatd serves without Socket.IO's browser client."
	@exec $(VENV) -m chatd serve $(ARGS)

# As many processes as there are cores; ARGS="-n 0" runs the tests in one.
test: .venv/.test test-programs
	$(VENV) -m pytest --numprocesses=logical --dist=worksteal $(ARGS)

test-programs:
	@sh tests/e2e/install-programs

coverage: .venv/.test
	$(VENV) -m coverage erase
	@failed=; \
	$(VENV) -m coverage run -m pytest --numprocesses=logical --dist=worksteal --ignore=tests/e2e $(ARGS) || failed=1; \
	$(VENV) -m coverage combine --quiet && $(VENV) -m coverage report || failed=1; \
	[ -z "$$failed" ]

story: .venv/.test test-programs
	@$(VENV) -m tests.e2e.operations

# Off: ASYNC124, because a handler is async even if it has nothing to wait for; ASYNC114 and ASYNC128,
# because a startable function may pass its task_status on; and the optional ASYNC9.
ASYNC := --enable=ASYNC --disable=ASYNC9,ASYNC114,ASYNC124,ASYNC128

# Every tool runs, so that one run shows all errors.
check: .venv/.check
	@failed=; \
	try() { echo "$$ $$*"; "$$@" || failed=1; }; \
	try $(VENV) -m ruff check .; \
	try $(VENV) -m ruff format --check .; \
	try sh -c 'find chatd tests bench -name "*.py" | xargs -P "$$(nproc)" -n 40 $(VENV) -m flake8_async $(ASYNC)'; \
	try $(VENV) -m mypy; \
	try $(VENV) -m pyright; \
	[ -z "$$failed" ]

bench: .venv/.bench
	$(VENV) bench/fanout.py $(ARGS)
	$(VENV) bench/fanout.py --protocol socketio $(ARGS)
	$(VENV) bench/slow_reader.py

deb: .venv/.run
	@[ -d chatd/socketio/client ] || $(VENV) -m chatd fetch-client
	@sh systemd/deb/build $(VENV)

clean:
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis dist

$(VENV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"chatd needs Python 3.11 or newer; $(PYTHON) is {sys.version.split()[0]}")'
	@echo "Making .venv …"
	@$(PYTHON) -m venv --clear .venv || { rm -rf .venv; exit 1; }

.venv/.run: $(INSTALLED_BY)
	@echo "Installing chatd into .venv …"
	@$(PIP) install --editable .
	@touch $@

.venv/.test: $(INSTALLED_BY)
	@echo "Installing chatd and its tests' requirements into .venv …"
	@$(PIP) install --editable '.[test]'
	@touch $@

.venv/.bench: $(INSTALLED_BY)
	@echo "Installing chatd and its benchmarks' requirements into .venv …"
	@$(PIP) install --editable '.[bench]'
	@touch $@

# pyright runs on Node.js, which comes as a wheel if there is none.
.venv/.check: $(INSTALLED_BY)
	@echo "Installing chatd and the checkers into .venv …"
	@$(PIP) install --editable '.[test,check]'
	@command -v npm >/dev/null || $(PIP) install 'pyright[nodejs]'
	@touch $@
