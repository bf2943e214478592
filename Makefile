# The commands of this project. `make` alone lists them.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PINS := $(addprefix requirements/,install.sh torch-cpu.txt build.txt cpu.txt dev.txt)

.DEFAULT_GOAL := help
.PHONY: help install quickstart smollm2 test test-long test-old-client test-clients check bench wheel lock lock-gpu clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## the CPU stack in .venv: 4 GB, about 3 minutes; nothing to do the second time

$(STAMP): $(PINS) pyproject.toml
	@PYTHON="$(PYTHON)" bash requirements/install.sh $(VENV) >&2
	@touch $@

quickstart: $(STAMP) ## one small run of everything on this machine; options in ARGS="--seed 3"
	@$(BIN)/synth-ray quickstart $(ARGS)

smollm2: $(STAMP) ## the same with SmolLM2-135M, a real language model; an hour and a half
	@$(BIN)/python configs/smollm2/model.py models/smollm2-135m
	@$(BIN)/synth-ray quickstart --start smollm2 $(ARGS)

test: $(STAMP) ## the tests, but for the long ones; options in ARGS="-k wheel"
	@$(BIN)/python -m pytest -m "not long" $(ARGS)

test-long: $(STAMP) ## the long tests
	@$(BIN)/python -m pytest -m long $(ARGS)

test-old-client: $(STAMP) ## our task app against the old client, synth-ai 0.2.17, from the package index
	@$(BIN)/python tests/old_client/run.py .venv-old-client

test-clients: $(STAMP) ## our gateway and files with openai 2.x, datasets and TRL, from the package index
	@$(BIN)/python tests/other_clients/packages.py
	@$(BIN)/python -m pytest -m long tests/other_clients $(ARGS)

check: $(STAMP) ## lint and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(STAMP) ## measurements on this machine, one after the other; options in ARGS
	@for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file $(ARGS) || exit 1; done

wheel: $(STAMP) ## dist/synth_ray-*.whl
	@$(BIN)/python -m hatchling build -t wheel

lock: ## new lock files from requirements/*.in; ARGS="--upgrade" for newer versions
	@$(PYTHON) requirements/lock.py $(ARGS)

lock-gpu: ## the lock of the CUDA stack alone
	@$(PYTHON) requirements/lock.py gpu $(ARGS)

clean: ## removes what make made: .venv, dist and caches; never runs, traces or models
	@rm -rf $(VENV) .venv-old-client-* .venv-clients build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
