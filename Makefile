# What a newcomer types. Everything else is `make help`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: chaos fuzz help setup demo test check format up bench bench-api bench-laws bench-design bench-train bench-tiny clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# The stamp depends on what decides the environment, so a second `make` installs nothing.
$(VENV)/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("mixlab needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --progress-bar off -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --progress-bar off -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(VENV)/.stamp ## virtual environment with every pinned dependency

demo: setup ## the main job end to end on real text, through the HTTP API
	$(BIN)/mixlab demo

# One process per core; a module's tests stay in one, and share what it sets up. Tests of the whole
# service are themselves many processes.
SHARED := -n auto --dist loadscope
test: setup ## all tests, fast ones first
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SHARED) -m 'not slow and not service'
	$(BIN)/python -m pytest $(SHARED) -m 'slow and not service'
	$(BIN)/python -m pytest -m service

check: setup ## format, lint, types, import contracts, README, known holes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml mixlab api workers cli
	$(BIN)/python scripts/audit
	$(BIN)/python -m pytest tests/architecture

format: setup ## rewrite the sources in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

up: setup ## API, workers, sweep and broker on this machine
	$(BIN)/mixlab up

bench: setup ## speed of counting, fitting, solving and the API's start, beside references
	$(BIN)/python -m benchmarks

# DATA is a folder of the public tables that benchmarks/laws/tables.py names.
bench-laws: setup ## how well laws predict held-out runs, beside their peers (DATA=DIR)
	@test -n "$(DATA)" || { echo "say where the tables are: make bench-laws DATA=DIR" >&2; exit 2; }
	$(BIN)/python -m benchmarks.laws "$(DATA)"

# Without DATA, only the made-up worlds are run.
bench-design: setup ## how many runs designs need, beside random ones (DATA=DIR for RegMix's pool)
	$(BIN)/python -m benchmarks.design $(if $(DATA),"$(DATA)")

# PEERS is where the virtual environments of other trainers are kept, some 2 GB with torch.
bench-train: setup ## speed of training beside other trainers (PEERS=DIR for their environments)
	$(BIN)/python -m benchmarks.training $(if $(PEERS),--peers "$(PEERS)")

bench-tiny: setup ## growth, rounds, inheritance and their kin beside a plain run, three seeds
	$(BIN)/python -m benchmarks.tiny

bench-api: setup ## the API under load on both databases, beside bare FastAPI and bare Celery
	$(BIN)/python -m benchmarks.api

fuzz: setup ## five minutes of Schemathesis with every check against the real server
	$(BIN)/python -m tests.fuzz

chaos: setup ## 500 jobs and 50 faults on both databases: what is lost, what is done twice
	$(BIN)/python -m benchmarks.faults

clean: ## remove the virtual environment and caches (demo/ stays)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
