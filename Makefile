# make run      installs chatd into .venv and serves http://localhost:3000
# make cluster  runs three daemons as one chat, with Redis and haproxy, to try; ARGS="--port 4000"
# make test     runs the tests; as root on Debian it installs the programs they need first
# make simulate plays random schedules against the daemon in memory; SEEDS=5000, SEED=1, STORE=cluster
# make coverage lists the lines and branches that no test runs, e2e left out
# make story    shows in a booted systemd what docs/operations.md promises; as root on Debian
# make cluster-story  shows on four booted systems what docs/cluster.md promises; as root on Debian
# make check    runs the linters and type checkers
# make bench    measures chatd beside its peers, in about 12 minutes; ARGS="--growth" what must not grow
# make guard    compares the instructions of four operations with those stored; needs Valgrind
# make attack   attacks a running chatd for about an hour; ARGS="--scale 0.05" for less
# make deb      builds dist/chatd_VERSION_ARCH.deb for the Debian that this is
# make lock     updates the locked versions of everything that is installed, in .ci/lock
# make audit    looks for known vulnerabilities in them; needs the network
# make clean    removes .venv and what tools left
#
# Needs make and Python 3.11 or newer with venv (Debian: apt install make python3-venv).
# ARGS="…" goes to the program: make run ARGS="--listen 0.0.0.0:3000", make test ARGS="-k resume".
# PYTHON=… names another interpreter for .venv.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run cluster test test-programs simulate coverage story cluster-story check bench guard attack deb lock audit clean

PYTHON ?= python3
ARGS ?=

# Paths are relative and commands run as modules, so the project's path may contain spaces.
VENV := .venv/bin/python
PIP := $(VENV) -m pip --disable-pip-version-check --quiet
# Everything comes in the versions of the lock, and with its hashes. hatchling, which builds chatd
# itself, is locked too, so it is installed and not fetched by pip while it builds.
LOCK := .ci/lock
LOCKED := $(PIP) install --require-hashes -r $(LOCK)/build.txt
CHATD := $(PIP) install --no-deps --no-build-isolation --editable .
# A change of these, or of the interpreter, makes the installation out of date.
INSTALLED_BY := pyproject.toml Makefile $(wildcard $(LOCK)/*.txt) $(VENV)

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

run: .venv/.run
	@[ -d chatd/socketio/client ] || ! command -v npm >/dev/null || \
		$(VENV) -m chatd fetch-client || echo "chatd serves without Socket.IO's browser client."
	@exec $(VENV) -m chatd serve $(ARGS)

cluster: .venv/.run
	@sh tests/e2e/install-programs redis-server haproxy
	@exec $(VENV) -m tests.e2e.try_cluster $(ARGS)

# As many processes as there are cores; ARGS="-n 0" runs the tests in one.
test: .venv/.test test-programs
	$(VENV) -m pytest --numprocesses=logical --dist=worksteal $(ARGS)

test-programs:
	@sh tests/e2e/install-programs chromium tmux systemd-container mmdebstrap redis-server haproxy

simulate: .venv/.test
	$(VENV) -m tests.simulation $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS)) \
		$(if $(STORE),--store $(STORE)) $(ARGS)

coverage: .venv/.test
	$(VENV) -m coverage erase
	@failed=; \
	$(VENV) -m coverage run -m pytest --numprocesses=logical --dist=worksteal --ignore=tests/e2e $(ARGS) || failed=1; \
	$(VENV) -m coverage combine --quiet && $(VENV) -m coverage report || failed=1; \
	[ -z "$$failed" ]

story: .venv/.test test-programs
	@$(VENV) -m tests.e2e.operations

cluster-story: .venv/.test test-programs
	@$(VENV) -m tests.e2e.cluster_story

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

bench: .venv/.run
	@$(VENV) bench/everything.py $(ARGS)

guard: .venv/.test
	@$(VENV) bench/guard.py $(ARGS)

attack: .venv/.test
	$(VENV) bench/attack.py $(ARGS)

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
	@$(LOCKED) -r $(LOCK)/run.txt
	@$(CHATD)
	@touch $@

.venv/.test: $(INSTALLED_BY)
	@echo "Installing chatd and its tests' requirements into .venv …"
	@$(LOCKED) -r $(LOCK)/test.txt
	@$(CHATD)
	@touch $@

# pyright runs on Node.js, which comes as a wheel if there is none.
.venv/.check: $(INSTALLED_BY)
	@echo "Installing chatd and the checkers into .venv …"
	@$(LOCKED) -r $(LOCK)/check.txt
	@command -v npm >/dev/null || $(PIP) install --require-hashes -r $(LOCK)/node.txt
	@$(CHATD)
	@touch $@

# ---- the lock

TOOLS := .cache/lock/bin/python
# Made with the oldest Python that chatd supports. Newer ones need no more packages, except for the
# checks, which want 3.11 or 3.12. The versions of check.txt, the longest, hold for the others.
COMPILE := CUSTOM_COMPILE_COMMAND="make lock" $(TOOLS) -m piptools compile --quiet --upgrade \
	--generate-hashes --strip-extras --allow-unsafe --annotation-style=line \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links
SAME := $(COMPILE) --constraint $(LOCK)/check.txt

lock: $(TOOLS)
	$(COMPILE) --extra redis --extra test --extra check --output-file $(LOCK)/check.txt pyproject.toml
	$(SAME) --extra redis --extra test --output-file $(LOCK)/test.txt pyproject.toml
	$(SAME) --extra redis --output-file $(LOCK)/run.txt pyproject.toml
	$(SAME) --only-build-deps --build-deps-for wheel --build-deps-for editable \
		--output-file $(LOCK)/build.txt pyproject.toml
	echo 'pyright[nodejs]' | $(SAME) --output-file $(LOCK)/node.txt -
	printf 'pip-audit\npip-tools\n' | $(COMPILE) --output-file $(LOCK)/lock.txt -

# pip-audit asks the package index for each version; --strict fails if it has no answer.
audit: $(TOOLS)
	@failed=; \
	for file in $(LOCK)/*.txt; do \
		$(TOOLS) -m pip_audit --strict --disable-pip --require-hashes -r "$$file" || failed=1; \
	done; \
	[ -z "$$failed" ]

$(TOOLS): $(LOCK)/lock.txt
	@rm -rf .cache/lock
	@$(PYTHON) -m venv .cache/lock
	@$(TOOLS) -m pip --disable-pip-version-check --quiet install --require-hashes -r $(LOCK)/lock.txt
	@touch $@
