# Each target does its own set-up, once, in folders beside this file. Nothing global, no root, no account.
# PYTHON chooses the interpreter: make PYTHON=python3.12 test

VENV := .venv
VENV31 := .venv-airflow-3.1
SPARK := .venv-spark
BIN := $(VENV)/bin
NEEDS := pyproject.toml scripts/setup

# One more than there are cores: many tests wait for processes that they start.
JOBS ?= $(shell expr $$(nproc 2>/dev/null || echo 2) + 1)

export PYTHON ?= python3
export AIRFLOW__CORE__LOAD_EXAMPLES := False
# Many tests start processes that import Airflow or dbt. Without files of bytecode each compiles them first.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-airflow-3.1 test-databricks test-dbt-versions lint format measure types bench live docs schema constraints build clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9.-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.ready ## the main job in real Airflow, on embedded parts
	@$(BIN)/python dags_examples/demo/run.py

test: $(VENV)/.ready lint ## what must hold at every step: lint, types, tests; names the ten slowest; four minutes
	@$(MAKE) --no-print-directory types & types=$$!; \
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow and not long" --durations=10 $(ARGS) && wait $$types

test-long: $(VENV)/.ready ## tests of whole programs, and every store; what else must hold before a change lands
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "long and not slow" $(ARGS)

test-all: $(VENV)/.ready ## every test, the slow ones too
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-airflow-3.1: $(VENV31)/.ready ## the tests that import Airflow, on the lowest Airflow we support
	$(VENV31)/bin/python -m pytest -n $(JOBS) --dist worksteal -m "airflow and not e2e and not slow and not long" $(ARGS)

test-dbt-versions: $(VENV)/.ready ## one catalog from dbt 1.7 to 1.11, each installed into build/dbt-matrix
	$(BIN)/python scripts/dbt-matrix

test-databricks: $(SPARK)/.ready ## Databricks' SQL on a local Spark, which needs Java 17; a few minutes
	$(SPARK)/bin/python -m pytest -W ignore::ResourceWarning -k "databricks or spark" \
		tests/stores/test_life.py tests/stores/test_text_forms.py tests/stores/test_hashes.py \
		tests/stores/test_value_table.py $(ARGS)

lint: $(VENV)/.ready ## ruff: rules and format; one step at a time; the English of docstrings, texts and pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python scripts/density
	$(BIN)/python scripts/english

format: $(VENV)/.ready ## let ruff correct what it can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

measure: $(VENV)/.ready ## sizes, density and language of the package beside those of six others; for looking
	@$(BIN)/python scripts/measure

types: $(VENV)/.ready ## mypy, strict
	$(BIN)/mypy

bench: $(VENV)/.ready ## throughput and plan time beside other tools; writes build/bench.json
	$(BIN)/python -m tests.benchmarks

live: $(VENV)/.ready ## the wire cases of TYPE against your account, from AIRFLOW_CONN_<TYPE>; records them
	$(BIN)/python -m tests.live $(TYPE)

docs: $(VENV)/.docs ## the documentation, into build/docs; built anew, as a warning is an error and is told only once
	$(BIN)/sphinx-build --fresh-env --fail-on-warning --keep-going --nitpicky --quiet docs build/docs
	@echo "build/docs/index.html"

schema: $(VENV)/.ready ## write what is generated again: JSON Schema, reference tables
	$(BIN)/python scripts/schema

constraints: $(VENV)/.ready ## pin all dependencies again
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/constraints

build: $(VENV)/.ready ## wheel and source distribution, into dist
	$(BIN)/uv build --quiet

clean: ## remove environments, builds and caches
	rm -rf .venv .venv-airflow-3.1 .venv-spark build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.ready: constraints.txt $(NEEDS)
	@scripts/setup $(VENV) constraints.txt dev browser
	@touch $@

$(VENV)/.docs: $(VENV)/.ready
	@scripts/setup $(VENV) constraints.txt dev browser docs
	@touch $@

$(VENV31)/.ready: constraints-airflow-3.1.txt $(NEEDS)
	@scripts/setup $(VENV31) constraints-airflow-3.1.txt dev
	@touch $@

$(SPARK)/.ready: constraints.txt $(NEEDS)
	@scripts/setup $(SPARK) constraints.txt dev spark
	@touch $@
