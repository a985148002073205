# Two commands do everything on a fresh machine with python3, python3-venv, make and git:
#   make demo    the whole chain on loopback: server, client, agent, an embedded registry, a true inventory
#   make test    installs what the tests need (PEERS=no leaves the real peers out), and runs every check
# Each step leaves a file, so a second run does only what changed. Nothing is written outside this folder
# but Debian's packages and the caches of pip and npm.

PYTHON ?= python3
BIN := .venv/bin
UV := $(shell command -v uv 2>/dev/null)

.PHONY: demo test lint types imports tests core-alone core-optimised clean
.DELETE_ON_ERROR:

demo: .venv/.agent
	@$(BIN)/towline demo

test: lint types imports core-alone core-optimised tests

# ── steps ───────────────────────────────────────────────────────────────────────
.venv/.made:
	@echo "make: creating .venv"
ifdef UV
	@$(UV) venv --quiet --allow-existing --seed --python $(PYTHON) .venv
else
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
endif
	@touch $@

.venv/.agent: .venv/.made pyproject.toml
	@echo "make: installing towline[agent] into .venv"
ifdef UV
	@$(UV) pip install --quiet --python $(BIN)/python --editable '.[agent]'
else
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[agent]'
endif
	@touch $@

.venv/.dev: .venv/.agent
	@echo "make: installing the tools of the tests into .venv"
ifdef UV
	@$(UV) pip install --quiet --python $(BIN)/python --group dev
else
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
endif
	@touch $@

# The core's three dependencies, the codecs and a test runner: no towline, no loop.
.venv/core/.made: .venv/.made pyproject.toml
	@echo "make: creating .venv/core, for the core alone"
	@mkdir -p .venv/core
ifdef UV
	@$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv/core
	@$(UV) pip install --quiet --python .venv/core/bin/python --group core-test -r pyproject.toml
else
	@$(PYTHON) -m venv .venv/core
	@.venv/core/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(PYTHON) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
		> .venv/core/base.txt
	@.venv/core/bin/python -m pip install --quiet --disable-pip-version-check --group core-test -r .venv/core/base.txt
endif
	@touch $@

.peers: tests/peers.sh tests/interop/stock/npm/package-lock.json
	@tests/peers.sh

# ── checks ──────────────────────────────────────────────────────────────────────
lint: .venv/.dev
	@echo "── ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: .venv/.dev
	@echo "── mypy --strict"
	@$(BIN)/mypy
	@$(BIN)/mypy examples bench fuzz tests

imports: .venv/.dev
	@echo "── imports run down only"
	@$(BIN)/lint-imports --no-logo

core-alone: .venv/core/.made
	@echo "── the core alone"
	@PYTHONPATH="$(CURDIR)/core" .venv/core/bin/python -m pytest -q -p no:cacheprovider tests/core

core-optimised: .venv/.dev
	@echo "── the core without its asserts"
	@$(BIN)/python -O -m pytest -q -p no:cacheprovider -W ignore::pytest.PytestConfigWarning tests/core

tests: .venv/.dev .peers
	@echo "── everything"
	@$(BIN)/python -m pytest

clean:
	rm -rf .venv .peers .peers-cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
