# Every target is what a person would type; CI calls the same ones. `make` alone prints this list.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory --no-builtin-rules
.DEFAULT_GOAL := help

# The first Python that fits; `make setup PYTHON=python3.12` names another.
PYTHON ?= $(shell for p in python3 python3.11 python3.12; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
PYTEST := $(BIN)/pytest
# Tests of real servers wait as long as they work: two lanes, each with its own servers, fill two cores. LANES=0: one.
LANES ?= 2
IN_LANES := -n $(LANES) --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo up down status clean distclean test test-long test-fast test-spark test-platform lint format schema lock bench bench-quick bench-smoke bench-small bench-batch chaos test-charts e2e e2e-ha e2e-external e2e-store images

help: ## This list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS=$$'\t' read -r t d; do printf '  make %-14s %s\n' "$$t" "$$d"; done

setup: $(READY) ## Make .venv and install exactly requirements.lock (once; again when the lock changes)

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed and none was found: install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.txt
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r .venv/uv.txt
	$(BIN)/uv pip sync --quiet --require-hashes --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python -e .
	touch $@

demo: $(READY) ## Start everything, feed events and show the results live; leaves the platform running
	$(BIN)/headrace demo

up: $(READY) ## Start Kafka and Cassandra, or adopt what runs
	$(BIN)/headrace up

down: $(READY) ## Stop every driver and server
	$(BIN)/headrace down

status: $(READY) ## What runs, and how each query does; fails if something does not run
	$(BIN)/headrace status
	$(BIN)/headrace stream status

clean: $(READY) ## Remove .headrace/ with all its data (after `make down`)
	$(BIN)/headrace clean --yes

test: $(READY) ## The core of the tests, on a real Spark, Kafka, Cassandra and Airflow: at most 20 minutes on 2 cores
	$(PYTEST) $(IN_LANES) -m "not long"

test-long: $(READY) ## One long group of tests, at most 25 minutes: make test-long GROUP=NAME; without GROUP it lists them
	LANES=$(LANES) tests/long $(GROUP)

test-fast: $(READY) ## The tests that need no Java: under a minute
	$(PYTEST) -n logical --dist loadfile -m "not spark and not platform and not slow and not long"

test-spark: $(READY) ## The tests of Spark's semantics and other slow ones, without servers
	$(PYTEST) $(IN_LANES) -m "(spark or slow) and not platform and not long"

test-platform: $(READY) ## The tests on a real Kafka and Cassandra: crashes, races, bad input
	$(PYTEST) $(IN_LANES) -m "platform and not long"

chaos: $(READY) ## Faults at random moments on a running platform, every sink compared: make chaos ROUNDS=5 SEED=7
	$(BIN)/python -m chaos --rounds $(or $(ROUNDS),5) $(if $(SEED),--seed $(SEED))

test-charts: $(READY) ## Charts, images and Terraform, without a cluster (helm, kubeconform, tflint: `.tools/bin` or PATH)
	$(PYTEST) tests/charts tests/images tests/terraform

e2e: $(READY) ## The story on a real Kubernetes, from apply to destroy (TESTCLUSTER or KUBECONFIG)
	tests/cluster/run

e2e-external: $(READY) ## A stream on Kafka, Cassandra and PostgreSQL that are not ours
	EXTERNAL=1 STORY=tests/cluster/test_streams.py tests/cluster/run

e2e-store: $(READY) ## The four pipelines, one that comes later, and every DAG with a bucket as root of checkpoints and archives
	STORE=1 LATER=1 STORY="$(patsubst %,tests/cluster/test_%.py,streams dags upgrade later)" tests/cluster/run

e2e-ha: $(READY) ## Size 3: every node of Kafka and of Cassandra rolls under load
	SIZE=3 HEADRACE_HA=1 STORY=tests/cluster/test_ha.py tests/cluster/run

images: $(READY) ## Build the two images by docker, podman or buildah: make images TAG=0.1.0
	images/build $(TAG)

lint: $(READY) ## ruff (with Airflow's rules), format, mypy strict, shellcheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck .ci/run tests/long images/build images/entrypoint.sh tests/cluster/run tests/cluster/builder tests/cluster/others tests/cluster/bucket

format: $(READY) ## Rewrite the Python files as `make lint` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schema: $(READY) ## Make the generated files anew: pipelines/schema.json and README.md, docs/reference/cli.md
	$(BIN)/python -m headrace.contract.schema
	$(BIN)/python -m typer headrace.cli utils docs --name headrace --output docs/reference/cli.md

lock: $(READY) ## Resolve pyproject.toml anew into requirements.lock
	$(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 --override overrides.txt --extra dev pyproject.toml -o requirements.lock --no-emit-index-url --no-annotate

bench: $(READY) ## Headrace beside Kafka Streams, PyFlink and the document's code: five rounds, table and plot (an hour)
	$(BIN)/python -m bench.beside

bench-quick: $(READY) ## The floor and Headrace on 1 M events, and small batches: ten minutes on two calm cores
	$(BIN)/python -m bench.beside --quick

bench-smoke: $(READY) ## CPU an event: the source document's code as written against ours, side by side
	$(BIN)/python bench/smoke.py

bench-small: $(READY) ## CPU of a small batch, beside Spark's own noop query
	$(BIN)/python bench/small_batch.py

bench-batch: $(READY) ## Batch views and reconciliation of 5 million archived records
	$(BIN)/python bench/batch.py

distclean: ## Remove .venv and every cache of the tools (keeps .headrace/)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
