# CI calls the same targets as a person. `make` without a target lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory --no-builtin-rules
.DEFAULT_GOAL := help

# The first Python of a supported version. To use another: make setup PYTHON=python3.12
PYTHON ?= $(shell for p in python3 python3.11 python3.12; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
PYTEST := $(BIN)/pytest
# Tests on real servers spend half of their time waiting, so two lanes, each with its own servers, fill two cores. LANES=0 runs them one by one.
LANES ?= 2
IN_LANES := -n $(LANES) --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo up down status clean distclean test test-long test-fast test-spark test-platform lint format docs schema lock bench bench-quick bench-smoke bench-small bench-batch chaos test-charts e2e e2e-ha e2e-external e2e-store e2e-again images

help: ## List all targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS=$$'\t' read -r t d; do printf '  make %-14s %s\n' "$$t" "$$d"; done

setup: $(READY) ## Create .venv with exactly the packages of requirements.lock; again when the lock changes

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is required and was not found. Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.txt
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r .venv/uv.txt
	$(BIN)/uv pip sync --quiet --require-hashes --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python -e .
	touch $@

demo: $(READY) ## Start everything, send events and show the results live; leaves the platform running
	$(BIN)/headrace demo

up: $(READY) ## Start Kafka, Cassandra and Airflow, or adopt those that run
	$(BIN)/headrace up

down: $(READY) ## Stop all drivers and servers; keep the data
	$(BIN)/headrace down

status: $(READY) ## Show all servers, drivers and queries; fails if something does not run
	$(BIN)/headrace status
	$(BIN)/headrace stream status

clean: $(READY) ## Remove .headrace/ with all data (run `make down` first)
	$(BIN)/headrace clean --yes

test: $(READY) ## Run the core tests on a real Spark, Kafka, Cassandra and Airflow: 20 to 30 minutes on 2 cores
	$(PYTEST) $(IN_LANES) -m "not long"

test-long: $(READY) ## Run one long group of tests, 15 to 45 minutes: make test-long GROUP=NAME; without GROUP, list the groups
	LANES=$(LANES) tests/long $(GROUP)

test-fast: $(READY) ## Run the tests that need no Java: 2 to 7 minutes
	$(PYTEST) -n logical --dist loadfile -m "not spark and not platform and not slow and not long"

test-spark: $(READY) ## Run the tests of Spark semantics and other slow tests, without servers
	$(PYTEST) $(IN_LANES) -m "(spark or slow) and not platform and not long"

test-platform: $(READY) ## Run the tests on a real Kafka and Cassandra: crashes, races, bad input
	$(PYTEST) $(IN_LANES) -m "platform and not long"

chaos: $(READY) ## Inject random faults into a running platform and compare every sink: make chaos ROUNDS=5 SEED=7
	$(BIN)/python -m chaos --rounds $(or $(ROUNDS),5) $(if $(SEED),--seed $(SEED))

test-charts: $(READY) ## Test charts, images and Terraform without a cluster (needs helm, kubeconform and tflint in `.tools/bin` or on the PATH)
	$(PYTEST) tests/charts tests/images tests/terraform

e2e: $(READY) ## Run the end-to-end test on a real Kubernetes, from apply to destroy (TESTCLUSTER or KUBECONFIG)
	tests/cluster/run

e2e-external: $(READY) ## Run a stream on an external Kafka, Cassandra and PostgreSQL
	EXTERNAL=1 STORY=tests/cluster/test_streams.py tests/cluster/run

e2e-store: $(READY) ## Run the four pipelines, one added later, and every DAG with a bucket as storage root
	STORE=1 LATER=1 STORY="$(patsubst %,tests/cluster/test_%.py,streams dags upgrade later)" tests/cluster/run

e2e-again: $(READY) ## Destroy while drivers run, apply again on kept volumes: the drivers come back and continue exactly
	AGAIN=1 STORY=tests/cluster/test_again.py tests/cluster/run

e2e-ha: $(READY) ## Restart every node of Kafka and Cassandra under load, at size 3
	SIZE=3 HEADRACE_HA=1 STORY=tests/cluster/test_ha.py tests/cluster/run

images: $(READY) ## Build the two images with docker, podman or buildah: make images TAG=0.1.0
	images/build $(TAG)

lint: $(READY) ## Run ruff (with Airflow's rules), format check, mypy --strict over src and tests, shellcheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck .ci/run tests/long images/build images/entrypoint.sh tests/cluster/run tests/cluster/builder tests/cluster/others tests/cluster/bucket

format: $(READY) ## Format the Python files as `make lint` requires
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY) ## Build the documentation site in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

schema: $(READY) ## Write the generated files again: pipelines/schema.json and README.md, expectations/, docs/reference/cli.md
	$(BIN)/python -m headrace.contract.schema
	$(BIN)/python -m headrace.operations.quality.suites
	$(BIN)/python -m typer headrace.cli.app utils docs --name headrace --output docs/reference/cli.md

lock: $(READY) ## Resolve pyproject.toml into requirements.lock
	$(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 --override overrides.txt --extra dev pyproject.toml -o requirements.lock --no-emit-index-url --no-annotate

bench: $(READY) ## Headrace beside Kafka Streams, PyFlink and the document's code: five rounds, table and plot (an hour)
	$(BIN)/python -m bench.beside

bench-quick: $(READY) ## The floor and Headrace on 1 M events, and small batches: ten minutes on two calm cores
	$(BIN)/python -m bench.beside --quick

bench-smoke: $(READY) ## Measure CPU per event, beside the code that Headrace started from
	$(BIN)/python bench/smoke.py

bench-small: $(READY) ## Measure the CPU of a small batch, beside Spark's noop query
	$(BIN)/python bench/small_batch.py

bench-batch: $(READY) ## Measure batch views and reconciliation of 5 million archived records
	$(BIN)/python bench/batch.py

distclean: ## Remove .venv, the site and all tool caches; keep .headrace/
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
