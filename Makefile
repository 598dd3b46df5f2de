# `make help` lists what can be made; each target sets itself up.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint unit fuzz soak network interop browser bench binary clean

help: #? this list
	@grep -E '^[a-z-]+:.*#\?' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*#\? */  make \1\t/' | expand -t 18

setup: $(READY) #? make .venv with p2pstream and its development tools

# The stamp is newer than pyproject.toml exactly when the environment holds what it asks for.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

lint: $(READY) #? ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(READY) #? the tests alone, but for those that need a browser (see below)
	$(BIN)/python -m pytest --ignore=tests/browser --numprocesses 2 --dist loadfile

test: lint unit #? what CI runs: lint, types, tests

demo: $(READY) #? a server, two agents and an origin at work, on this machine
	$(BIN)/python tests/demo/demo.py

fuzz: $(READY) #? twenty thousand examples for each fuzz target
	$(BIN)/python -m pytest tests/fuzz --hypothesis-profile=fuzz

# Each prints what it measured, and ends with 1 where a promise was not kept.
SOAKS := reload_soak reload_stall endings slow_clients agent_restarts fleet idle_agents cycles \
         history_kills
soak: $(READY) #? under load, at full size: reloads, endings, slow clients, fleets, kills (15 minutes)
	@set -e; for soak in $(SOAKS); do echo "== $$soak"; $(BIN)/python -m tests.soak.$$soak; done

network: $(READY) #? bad networks: ghosts (as root), long lines, fairness (3 minutes)
	$(BIN)/python -m tests.network.liveness
	$(BIN)/python -m tests.network.throughput
	$(BIN)/python -m tests.network.fairness

interop: $(READY) #? against the real hashicorp/yamux in Go, both ways (installs Go if there is none)
	tests/interop/run.sh

browser: $(READY) #? the dashboard in chromium: pages, screenshots, axe-core (installs what it lacks)
	tests/browser/run.sh

bench: $(READY) #? beside HAProxy, nginx, Caddy, Traefik and Go (installs what it lacks)
	$(BIN)/python tests/bench/run.py $(ARGS)

binary: #? dist/p2pstream, one file that needs no Python
	packaging/binary.sh

clean: #? remove what was made here
	rm -rf $(VENV) .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
