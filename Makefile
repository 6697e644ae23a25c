# make demo and make test do the set-up themselves. It is done once, and again when pyproject.toml changes.
# Python compiles what it imports when it does so: to compile all of it would take a minute.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-slow test-all fuzz lint bench

setup: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/robodiff demo --minutes 10

test: setup
	$(BIN)/pytest

test-slow: setup
	$(BIN)/pytest -m slow

test-all: test test-slow

# Fifty times the damaged files that make test reads, others each time; SEED repeats a run.
fuzz: SEED ?= $(shell date +%s)
fuzz: setup
	ROBODIFF_FUZZ_SEED=$(SEED) ROBODIFF_FUZZ_TIMES=50 $(BIN)/pytest tests/fuzz

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m benchmarks.windows
	$(BIN)/python -m benchmarks.video
	$(BIN)/python -m benchmarks.samplers
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.frozen
	$(BIN)/python -m benchmarks.time_to_skill --steps 1700 --clock
	$(BIN)/python -m benchmarks.denoisers
	$(BIN)/python -m benchmarks.tabletop
	$(BIN)/python -m benchmarks.walking
	$(BIN)/python -m benchmarks.latency
	$(BIN)/python -m benchmarks.busy
	$(BIN)/python -m benchmarks.reliability
